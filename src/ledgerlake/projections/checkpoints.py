"""Checkpoints: how far each projection has taken the log, in projections_metadata."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.projections.model import Projection

Db = Database[dict[str, Any]]

LIVE: Final = "live"
REBUILDING: Final = "rebuilding"
STOPPED: Final = "stopped"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a projection stands: every event up to `position` is in its read model, and none after it.

    `status` is live, rebuilding (the read model is being emptied) or stopped; `last_error` says why it
    stopped.
    """

    position: int = 0
    status: str = LIVE
    updated_at: datetime | None = None
    last_event_id: str | None = None
    last_timestamp: datetime | None = None
    version: int | None = None
    last_error: str | None = None


def checkpoint(db: Db, name: str, session: ClientSession | None = None) -> Checkpoint:
    """The checkpoint of a projection; position 0 for one that has never run."""
    found = db[CHECKPOINTS].find_one({"_id": name}, session=session)
    if found is None:
        return Checkpoint()
    return Checkpoint(
        position=int(found["position"]),
        status=found["status"],
        updated_at=found["updatedAt"],
        last_event_id=found["lastProcessedEventId"],
        last_timestamp=found["lastProcessedTimestamp"],
        version=found["version"],
        last_error=found.get("lastError"),
    )


def create(db: Db, projection: Projection) -> None:
    """Make the checkpoint at position 0 where there is none yet."""
    db[CHECKPOINTS].update_one(
        {"_id": projection.name}, {"$setOnInsert": _at_the_start(projection)}, upsert=True
    )


def move(
    db: Db,
    projection: Projection,
    from_position: int,
    to_position: int,
    event_id: str,
    timestamp: datetime,
    session: ClientSession,
) -> bool:
    """Compare-and-set from one position to another; False when another runner has moved it meanwhile."""
    moved = db[CHECKPOINTS].update_one(
        {
            "_id": projection.name,
            "position": from_position,
            "version": projection.version,
            "status": {"$ne": REBUILDING},
        },
        {
            "$set": {
                "position": Int64(to_position),
                "lastProcessedEventId": event_id,
                "lastProcessedTimestamp": timestamp,
                "status": LIVE,
                "updatedAt": datetime.now(UTC),
                "lastError": None,
            }
        },
        session=session,
    )
    return moved.matched_count == 1


def stop(db: Db, projection: Projection, position: int, error: str) -> None:
    """Mark the projection as stopped at `position`, unless another runner has moved it on meanwhile."""
    db[CHECKPOINTS].update_one(
        {"_id": projection.name, "position": position, "status": {"$ne": REBUILDING}},
        {"$set": {"status": STOPPED, "lastError": error, "updatedAt": datetime.now(UTC)}},
    )


def fence(db: Db, projection: Projection, token: str) -> None:
    """Set the checkpoint back to 0 and keep every runner from moving it, until the fence is lifted.

    Whoever fences last holds the fence. A crash leaves it in place, for the next one to take over.
    """
    start = {**_at_the_start(projection), "status": REBUILDING, "fence": token}
    db[CHECKPOINTS].update_one({"_id": projection.name}, {"$set": start}, upsert=True)


def holds(db: Db, projection: Projection, token: str, session: ClientSession) -> bool:
    """Whether `token` still holds the fence; in its transaction nobody can take it over."""
    kept = db[CHECKPOINTS].update_one(
        {"_id": projection.name, "fence": token},
        {"$set": {"updatedAt": datetime.now(UTC)}},
        session=session,
    )
    return kept.matched_count == 1


def lift(db: Db, projection: Projection, token: str) -> None:
    """Let runners in again, at position 0; nothing happens when the fence is another's by now."""
    db[CHECKPOINTS].update_one(
        {"_id": projection.name, "fence": token},
        {"$set": {"status": LIVE, "updatedAt": datetime.now(UTC)}, "$unset": {"fence": ""}},
    )


def _at_the_start(projection: Projection) -> dict[str, Any]:
    return {
        "projectionName": projection.name,
        "lastProcessedEventId": None,
        "lastProcessedTimestamp": None,
        "version": projection.version,
        "position": Int64(0),
        "status": LIVE,
        "updatedAt": datetime.now(UTC),
        "lastError": None,
    }
