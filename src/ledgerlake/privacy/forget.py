"""Forgetting a person: the key is destroyed, and with it all that was ever put under it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from ledgerlake.eventstore.archived import ARCHIVE_FILE
from ledgerlake.mongo.indexes import EVENTS, REJECTIONS
from ledgerlake.privacy.protection import Protection

log = logging.getLogger("ledgerlake.privacy")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting a user came to.

    Attributes:
        subject: whose key was destroyed; None: there was no key (any more).
        rejections: records of refused commands that named the user in clear, and no longer do.
        events: events with the user's id in clear, which no key protects: it was not declared personal
            when they were stored. Archived events are not looked at.
        archived: events that were archived, of whomever. If user ids were not declared personal when they
            were stored, the archive names them, and nothing takes them out of it.
    """

    subject: str | None
    rejections: int
    events: int
    archived: int


def forget(database: Database[dict[str, Any]], personal: Protection, user_id: str) -> Forgotten:
    """Destroy the user's key, and take the user's id out of the records of refused commands.

    May be repeated. A command that comes later for the same user begins a new key.

    Raises:
        MasterKeyError.
    """
    keys = personal.keys
    subject = None if keys is None else keys.destroy(user_id)
    scrubbed = database[REJECTIONS].update_many({"userId": user_id}, {"$set": {"userId": None}})
    if subject is not None:
        log.info("the personal key of subject %s was destroyed", subject)
    archived = database[EVENTS].count_documents({ARCHIVE_FILE: {"$exists": True}})
    return Forgotten(subject, scrubbed.modified_count, clear_events(database, user_id), archived)


def clear_events(database: Database[dict[str, Any]], user_id: str) -> int:
    """How many events in the database name the user in clear; reads all of them."""
    return database[EVENTS].count_documents({"metadata.userId": user_id})
