"""Checkpoints: how far each projection has taken the log, in projections_metadata."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.projections.model import Projection

Db = Database[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a projection stands: every event up to `position` is in its read model, and none after it.

    `status` is live, rebuilding or stopped; `last_error` says why it stopped.
    """

    position: int = 0
    status: str = "live"
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
        {"_id": projection.name},
        {
            "$setOnInsert": {
                "projectionName": projection.name,
                "lastProcessedEventId": None,
                "lastProcessedTimestamp": None,
                "version": projection.version,
                "position": Int64(0),
                "status": "live",
                "updatedAt": datetime.now(UTC),
                "lastError": None,
            }
        },
        upsert=True,
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
        {"_id": projection.name, "position": from_position, "version": projection.version},
        {
            "$set": {
                "position": Int64(to_position),
                "lastProcessedEventId": event_id,
                "lastProcessedTimestamp": timestamp,
                "status": "live",
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
        {"_id": projection.name, "position": position},
        {"$set": {"status": "stopped", "lastError": error, "updatedAt": datetime.now(UTC)}},
    )
