"""Snapshots: what the first events of a long stream come to, kept so that they need not be folded again.

A snapshot is a copy and never the truth. One that is missing, of another schema, damaged, or not of this
log costs the reading of the whole stream, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import bson
from bson import Int64
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ledgerlake.mongo.indexes import SNAPSHOTS

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """After how many events a stream gets its next snapshot, by aggregate type; a type not named gets none.

    Raises:
        ValueError: a number below 1.
    """

    every: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for aggregate_type, events in self.every.items():
            if events < 1:
                raise ValueError(
                    f"A snapshot of {aggregate_type} is taken every 1 or more events, not {events}."
                )


@dataclass(frozen=True, slots=True)
class SnapshotFormat(Generic[S]):
    """How the state of an aggregate type becomes data, and data the state after `version` events.

    `read` raises ValueError (or its like) for what is no such data. `schema_version` is raised whenever the
    data changes, or what events are folded to: snapshots of another one are ignored.
    """

    aggregate_type: str
    schema_version: int
    write: Callable[[S], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any], int], S]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a stream had come to at `version`, with its event `event_id`; `data` holds BSON-ready values."""

    stream_id: str
    aggregate_type: str
    version: int
    event_id: str
    schema_version: int
    data: Mapping[str, Any]

    def checksum(self) -> str:
        """32 hex digits over all that the snapshot says."""
        content = [self.stream_id, self.aggregate_type, Int64(self.version), self.event_id]
        encoded = bson.encode({"content": [*content, Int64(self.schema_version), self.data]})
        return hashlib.blake2b(encoded, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Broken:
    """A document in place of a snapshot that can not be taken for one, and why."""

    stream_id: str
    version: Any
    why: str


class SnapshotStore:
    """The snapshots collection: at most one snapshot a stream, which only ever moves forward."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        # A copy may be lost again: what makes a snapshot right is that the event it names is in the log.
        self._snapshots = database.get_collection(
            SNAPSHOTS, read_concern=ReadConcern("local"), write_concern=WriteConcern(w=1, j=False)
        )

    def load(self, stream_ids: Collection[str]) -> dict[str, Snapshot | Broken]:
        """The snapshot of each stream that has one, by stream; checked against its own checksum only."""
        found = self._snapshots.find({"_id": {"$in": list(stream_ids)}})
        return {document["_id"]: _snapshot(document) for document in found}

    def save(self, snapshot: Snapshot) -> bool:
        """Keep the snapshot, unless there is one of a later version or schema; says whether it was kept."""
        older = [
            {"schemaVersion": {"$lt": snapshot.schema_version}},
            {"schemaVersion": snapshot.schema_version, "version": {"$lt": Int64(snapshot.version)}},
        ]
        document = {
            "aggregateId": snapshot.stream_id,
            "aggregateType": snapshot.aggregate_type,
            "data": snapshot.data,
            "version": Int64(snapshot.version),
            "timestamp": datetime.now(UTC),
            "schemaVersion": snapshot.schema_version,
            "eventId": snapshot.event_id,
            "checksum": snapshot.checksum(),
        }
        try:
            self._snapshots.replace_one({"_id": snapshot.stream_id, "$or": older}, document, upsert=True)
        except DuplicateKeyError:  # the one that is there is not older
            return False
        return True

    def discard(self, stream_id: str, version: Any) -> None:
        """Remove a stream's snapshot, if it is still the one that claims this version."""
        self._snapshots.delete_one({"_id": stream_id, "version": version})


_SHAPE: Final[Mapping[str, type]] = {
    "_id": str,
    "aggregateId": str,
    "aggregateType": str,
    "data": dict,
    "version": int,
    "schemaVersion": int,
    "eventId": str,
    "checksum": str,
}


def _snapshot(document: Mapping[str, Any]) -> Snapshot | Broken:
    def broken(why: str) -> Broken:
        return Broken(document["_id"], document.get("version"), why)

    wrong = [name for name, kind in _SHAPE.items() if not isinstance(document.get(name), kind)]
    if wrong:
        return broken(f"its {', '.join(wrong)} is missing or of another type")
    snapshot = Snapshot(
        stream_id=document["aggregateId"],
        aggregate_type=document["aggregateType"],
        version=int(document["version"]),
        event_id=document["eventId"],
        schema_version=int(document["schemaVersion"]),
        data=document["data"],
    )
    if snapshot.stream_id != document["_id"] or snapshot.checksum() != document["checksum"]:
        return broken("its checksum is another one")
    return snapshot
