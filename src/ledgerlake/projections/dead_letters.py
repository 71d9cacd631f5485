"""Dead letters: events that a projection could not fold, and those that came after them in their streams.

They are set aside in the transaction that moves the checkpoint past them, so an event is in the read model
or among the dead letters, never both and never neither. A stream is folded in order or not at all: once one
of its events is set aside, so is every later one, until they are put back.

The checkpoint counts the changes of a projection's dead letters. A batch carries the count that it was
prepared for, and does not get in if there is another one by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl
from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.mongo.indexes import DEAD_LETTERS, EVENTS
from ledgerlake.mongo.steps import Steps
from ledgerlake.projections.checkpoints import Checkpoint, Slot

Db = Database[dict[str, Any]]

# So many streams are kept in mind. If more are set aside, it is no event that is wrong but the projection.
MOST_STREAMS: Final = 10_000
LONGEST_ERROR: Final = 1_000


@dataclass(frozen=True, slots=True)
class SetAside:
    """The streams of which a slot has set events aside, as of so many changes of its dead letters."""

    changes: int = 0
    streams: frozenset[str] = frozenset()


NOTHING_SET_ASIDE: Final = SetAside()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that is not in the read model, and why.

    `attempts` is how often it was tried to fold it: 0 for one that is behind an earlier one of its stream.
    Only ids are kept, not the event's content, which stays in the log alone.
    """

    projection: str
    position: int
    event_id: str
    stream_id: str
    event_type: str
    error: str
    attempts: int
    set_aside_at: datetime


def set_aside(db: Any, slot: Slot, found: Checkpoint, session: Any = None) -> Steps[SetAside]:
    """What is set aside; `found` is the slot's checkpoint, read before.

    Where that was read in a transaction, so is this: its snapshot may be newer than what a majority has, and
    dead letters that are older than their count would get in.
    """
    if not found.set_aside:
        return NOTHING_SET_ASIDE
    wanted = {"projectionName": slot.owner}
    streams = yield db[DEAD_LETTERS].distinct("aggregateId", wanted, session=session)
    return SetAside(
        found.set_aside,
        frozenset(stream for stream in streams if slot.part is None or slot.part.takes(stream)),
    )


def letter(
    db: Db, slot: Slot, position: int, error: str, attempts: int
) -> tuple[DeadLetter, datetime | None] | None:
    """The dead letter that the event at a position makes, and its time; None if none can be named there."""
    events = db.get_collection(EVENTS, read_concern=ReadConcern("majority"))
    event = events.find_one({"position": position}, {"aggregateId": 1, "eventType": 1, "timestamp": 1})
    if event is None or not isinstance(event.get("aggregateId"), str):
        return None
    timestamp = event.get("timestamp")
    dead = DeadLetter(
        slot.owner,
        position,
        str(event["_id"]),
        event["aggregateId"],
        str(event.get("eventType")),
        error[:LONGEST_ERROR],
        attempts,
        datetime.now(UTC),
    )
    return dead, timestamp if isinstance(timestamp, datetime) else None


def behind(slot: Slot, events: pl.DataFrame) -> Iterable[DeadLetter]:
    """The dead letters that later events of streams make of which one is set aside."""
    now = datetime.now(UTC)
    why = "An earlier event of its stream is set aside."
    rows = events.select("position", "event_id", "payment_id", "event_type").iter_rows()
    return (
        DeadLetter(slot.owner, position, event, stream, kind, why, 0, now)
        for position, event, stream, kind in rows
    )


def put(db: Any, letters: Iterable[DeadLetter], session: Any) -> Steps[None]:
    """Store dead letters, in the transaction that moves the checkpoint past their events."""
    documents = [
        {
            "_id": _id(each),
            "projectionName": each.projection,
            "position": Int64(each.position),
            "aggregateId": each.stream_id,
            "eventId": each.event_id,
            "eventType": each.event_type,
            "error": each.error,
            "attempts": each.attempts,
            "setAsideAt": each.set_aside_at,
        }
        for each in letters
    ]
    if documents:
        yield db[DEAD_LETTERS].insert_many(documents, session=session)


def take_over(db: Any, name: str, session: Any) -> Steps[None]:
    """Put a shadow's dead letters in the place of those of the live projection, when they are swapped."""
    yield db[DEAD_LETTERS].delete_many({"projectionName": name}, session=session)
    shadow = Slot(f"{name}#shadow").owner
    found = yield db[DEAD_LETTERS].find({"projectionName": shadow}, session=session).to_list()
    if found:
        yield db[DEAD_LETTERS].delete_many({"projectionName": shadow}, session=session)
        ours = [
            {**each, "_id": {"projection": name, "position": each["position"]}, "projectionName": name}
            for each in found
        ]
        yield db[DEAD_LETTERS].insert_many(ours, session=session)


def listed(
    db: Db,
    name: str | None = None,
    limit: int = 0,
    session: ClientSession | None = None,
    stream: str | None = None,
) -> list[DeadLetter]:
    """The dead letters of a projection (or of one stream in it), or of all; `limit` 0: as many as there are.

    By projection, in position order.
    """
    wanted: dict[str, Any] = {} if name is None else {"projectionName": name}
    if stream is not None:
        wanted["aggregateId"] = stream
    order = [("projectionName", 1), ("position", 1)]
    found = db[DEAD_LETTERS].find(wanted, session=session).sort(order).limit(limit)
    return [_letter(document) for document in found]


def counts(db: Db, session: ClientSession | None = None) -> dict[str, int]:
    """How many events each projection has set aside; no entry for one that has none."""
    grouped = db[DEAD_LETTERS].aggregate(
        [{"$group": {"_id": "$projectionName", "events": {"$sum": 1}}}], session=session
    )
    return {each["_id"]: each["events"] for each in grouped}


def described(db: Db, name: str, session: ClientSession | None = None, most: int = 10) -> list[str]:
    """What a projection has set aside, in words: why its read model can not agree with the log."""
    found = listed(db, name, most + 1, session)
    told = [
        f"{name}: {each.event_type} of {each.stream_id!r} at position {each.position} is set aside: "
        f"{each.error}"
        for each in found[:most]
    ]
    if len(found) > most:
        total = counts(db, session).get(name, len(found))
        told.append(f"{name}: {total - most} more events are set aside: `ledgerlake dead-letters list`")
    return told


def _id(each: DeadLetter) -> dict[str, Any]:
    return {"projection": each.projection, "position": Int64(each.position)}


def _letter(document: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        document["projectionName"],
        int(document["position"]),
        document["eventId"],
        document["aggregateId"],
        document["eventType"],
        document["error"],
        int(document["attempts"]),
        document["setAsideAt"],
    )
