"""Parked events: what a subscription's handler failed on, set aside so that the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from pymongo.errors import PyMongoError

from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.mongo.steps import Steps
from ledgerlake.mongo.transactions import CONCERNS, backoff_seconds, commit_steps, is_transient
from ledgerlake.subscriptions import standing

_GIVE_UP_AFTER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that a subscription has not handled, and why.

    `attempts` is how often the handler was called with it: 0 for one that was parked because an earlier
    event of its stream was. Only ids are kept, not the event's content, which stays in the log alone; and of
    the error not its text, which may quote that content (see standing.told).
    """

    subscription: str
    position: int
    event_id: str
    stream_id: str
    event_type: str
    error: str
    attempts: int
    parked_at: datetime


def park(
    database: Any,
    event: StoredEvent,
    name: str,
    after: int,
    error: str,
    attempts: int,
    sleep: Callable[[float], Any],
) -> Steps[bool]:
    """Set the event aside and move the subscription past it, in one transaction: it is never both or neither.

    Args:
        after: where the subscription's checkpoint stands. It may be before events that are done.

    Returns:
        False, and nothing was done, if the checkpoint is not there any more.

    Raises:
        UnknownCommit: the server did not say whether it was done; the checkpoint tells.
        PyMongoError: it was not done.
    """
    document = {
        "subscription": name,
        "position": Int64(event.position),
        "eventId": event.event_id,
        "aggregateId": event.stream_id,
        "eventType": event.event_type,
        "error": error,
        "attempts": attempts,
        "parkedAt": datetime.now(UTC),
    }
    deadline = time.monotonic() + _GIVE_UP_AFTER_SECONDS
    tries = 0
    while True:
        session = database.client.start_session(causal_consistency=False)
        try:
            yield session.start_transaction(**CONCERNS)
            moved = yield from standing.move(
                database["subscriptions"], name, after, event.position, session=session
            )
            if not moved:
                return False
            yield database["parked_events"].replace_one(
                {"_id": parked_id(name, event.position)}, document, upsert=True, session=session
            )
            yield from commit_steps(session, deadline, sleep)
        except PyMongoError as failure:
            tries += 1
            if not is_transient(failure) or time.monotonic() > deadline:
                raise
        else:
            return True
        finally:
            yield session.end_session()  # aborts what was not committed
        yield sleep(backoff_seconds(tries))


def parked(collection: Any, name: str, limit: int, after: int = 0) -> Steps[list[ParkedEvent]]:
    """The subscription's parked events after a position, in position order."""
    found = yield (
        collection.find({"subscription": name, "position": {"$gt": after}})
        .sort("position", 1)
        .limit(limit)
        .to_list()
    )
    return [_parked(document) for document in found]


def blocked_streams(collection: Any, name: str) -> Steps[set[str]]:
    """The streams of which the subscription has parked an event."""
    return set((yield collection.distinct("aggregateId", {"subscription": name})))


def is_blocked(collection: Any, name: str, stream_id: str) -> Steps[bool]:
    """Whether an event of the stream is parked (still)."""
    return (
        yield collection.find_one({"subscription": name, "aggregateId": stream_id}, {"_id": 1})
    ) is not None


def unpark(collection: Any, event: ParkedEvent) -> Steps[None]:
    """It is handled after all."""
    yield collection.delete_one({"_id": parked_id(event.subscription, event.position)})


def failed_again(collection: Any, event: ParkedEvent, error: str) -> Steps[None]:
    """Note one more attempt."""
    yield collection.update_one(
        {"_id": parked_id(event.subscription, event.position)},
        {"$set": {"error": error}, "$inc": {"attempts": 1}},
    )


def parked_id(name: str, position: int) -> str:
    """The `_id` of a parked event: parking it again is the same."""
    return f"{name}|{position}"


def _parked(document: Mapping[str, Any]) -> ParkedEvent:
    return ParkedEvent(
        document["subscription"],
        int(document["position"]),
        document["eventId"],
        document["aggregateId"],
        document["eventType"],
        document["error"],
        int(document["attempts"]),
        document["parkedAt"],
    )
