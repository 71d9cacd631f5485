"""A log that is emptied between tests: making a database with all its indexes anew takes half a second."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, LOG_CHAIN, SUBSCRIPTIONS
from ledgerlake.settings import Settings


@dataclass(frozen=True, slots=True)
class SharedLog:
    """A database, and what its counters were while its log was empty."""

    settings: Settings
    database: Database[dict[str, Any]]
    counters: Sequence[Mapping[str, Any]]

    def empty(self) -> None:
        """Make the log empty again. No store may be open on it: what it remembers would be wrong."""
        # The counter is written last, at majority: what was written before it is at majority by then.
        unhurried = self.database.with_options(write_concern=WriteConcern(1, j=False))
        for name in (EVENTS, SUBSCRIPTIONS, LOG_CHAIN):
            unhurried[name].delete_many({})
        for counter in self.counters:
            self.database[COUNTERS].replace_one({"_id": counter["_id"]}, counter, upsert=True)


@contextmanager
def shared_log(mongo_uri: str, home: Path) -> Iterator[SharedLog]:
    """A database with an empty log, dropped at the end."""
    settings = Settings(home=home, mongodb_uri=mongo_uri, database=f"test_{uuid.uuid4().hex[:16]}")
    database = open_database(settings)
    try:
        yield SharedLog(settings, database, list(database[COUNTERS].find()))
    finally:
        database.client.drop_database(settings.database)
        database.client.close()
