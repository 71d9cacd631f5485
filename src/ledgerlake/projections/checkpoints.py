"""Checkpoints: how far each projection has taken the log, in projections_metadata.

A projection that runs has one document, NAME; one that is split over n workers has one for each instead,
NAME/k-of-n; the shadow that a rebuild fills has NAME#shadow. Whoever reads a read model finds by them which
generation of its collection is the live one.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.mongo.steps import Steps
from ledgerlake.projections.model import Projection

Db = Database[dict[str, Any]]

LIVE: Final = "live"
REBUILDING: Final = "rebuilding"
STOPPED: Final = "stopped"

_SHADOW: Final = "#shadow"
_PART: Final = re.compile(r"/(\d+)-of-(\d+)$")


@dataclass(frozen=True, slots=True)
class Part:
    """The worker `number` (from 0) of the `of` workers that a projection is split over."""

    number: int
    of: int

    def takes(self, stream_id: str) -> bool:
        """Whether the stream falls to this worker, by the hash of its id."""
        return zlib.crc32(stream_id.encode()) % self.of == self.number


@dataclass(frozen=True, slots=True)
class Slot:
    """What an advance moves: one checkpoint, by its `id`, and the generation that it fills."""

    id: str
    generation: int = 1
    part: Part | None = None

    @property
    def shadow(self) -> bool:
        """Whether it belongs to a rebuild."""
        return self.id.endswith(_SHADOW)

    @property
    def owner(self) -> str:
        """What its dead letters are kept under: they are the projection's, or its shadow's."""
        return self.id if self.part is None else _PART.sub("", self.id)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a projection stands: every event up to `position` is in its read model.

    No later one is, but where the projection is split over several `parts`: then `position` is that of the
    part which is least far. `status` is live, rebuilding or stopped; `last_error` says why it stopped.
    `set_aside` counts the changes of its dead letters: a batch that was prepared before one is not written.
    """

    position: int = 0
    status: str = LIVE
    updated_at: datetime | None = None
    last_event_id: str | None = None
    last_timestamp: datetime | None = None
    version: int | None = None
    last_error: str | None = None
    generation: int = 1
    parts: int = 1
    set_aside: int = 0


def collection_of(name: str, generation: int) -> str:
    """The collection of a generation of a read model."""
    return name if generation == 1 else f"{name}__{generation}"


def shadow_slot(name: str, generation: int) -> Slot:
    """The slot of a rebuild that fills a generation."""
    return Slot(f"{name}{_SHADOW}", generation)


def checkpoint(db: Db, name: str, session: ClientSession | None = None) -> Checkpoint:
    """The checkpoint of the live read model of a projection; position 0 for one that has never run."""
    return live_checkpoints(_documents(db, name, session)).get(name, Checkpoint())


def live_checkpoints(documents: Iterable[Mapping[str, Any]]) -> dict[str, Checkpoint]:
    """The live checkpoint of each projection, out of any documents of projections_metadata."""
    parts: dict[str, list[Checkpoint]] = {}
    for document in documents:
        if not _beside(document):
            parts.setdefault(document["projectionName"], []).append(_checkpoint(document))
    return {name: _least(found) for name, found in parts.items()}


def shadow_checkpoints(documents: Iterable[Mapping[str, Any]]) -> dict[str, Checkpoint]:
    """The checkpoints of rebuilds that are under way, by their ids, out of any documents."""
    return {each["_id"]: _checkpoint(each) for each in documents if each["_id"].endswith(_SHADOW)}


def slots(db: Db, name: str, session: ClientSession | None = None) -> list[tuple[Slot, Checkpoint]]:
    """The live slots of a projection, by part, with their checkpoints; none before it has run."""
    return slots_of(_documents(db, name, session)).get(name, [])


def slots_of(documents: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[Slot, Checkpoint]]]:
    """The live slots of each projection, as `slots` gives them, out of any documents."""
    found: dict[str, list[tuple[Slot, Checkpoint]]] = {}
    for document in documents:
        if not _beside(document):
            each = (_slot(document), _checkpoint(document))
            found.setdefault(document["projectionName"], []).append(each)
    for parts in found.values():
        parts.sort(key=lambda each: each[0].part.number if each[0].part else 0)
    return found


def slot_checkpoint(db: Db, slot: Slot, session: ClientSession | None = None) -> Checkpoint | None:
    """The checkpoint of one slot; None if there is no such slot any more, or in another generation."""
    document = db[CHECKPOINTS].find_one({"_id": slot.id}, session=session)
    found = None if document is None else _checkpoint(document)
    return found if found is not None and found.generation == slot.generation else None


def create(db: Db, projection: Projection, slot: Slot, session: ClientSession | None = None) -> None:
    """Make the checkpoint of a slot at position 0."""
    db[CHECKPOINTS].insert_one({"_id": slot.id, **_at_the_start(projection, slot)}, session=session)


def move(
    db: Any,
    projection: Projection,
    slot: Slot,
    from_position: int,
    to_position: int,
    event_id: str | None,
    timestamp: datetime | None,
    session: Any,
    set_aside: int = 0,
    changed: bool = False,
) -> Steps[bool]:
    """Compare-and-set from one position to another; False when somebody else was there meanwhile.

    A batch of another generation, another version, or prepared before the dead letters changed (`set_aside`
    is their count of changes then) never gets in. `changed`: this batch changes them.
    """
    update: dict[str, Any] = {
        "$set": {
            "position": Int64(to_position),
            "lastProcessedEventId": event_id,
            "lastProcessedTimestamp": timestamp,
            "status": REBUILDING if slot.shadow else LIVE,
            "updatedAt": datetime.now(UTC),
            "lastError": None,
        }
    }
    if changed:
        update["$inc"] = {"setAside": 1}
    moved = yield db[CHECKPOINTS].update_one(
        {**_is(slot, projection), "position": from_position, "setAside": set_aside or None},
        update,
        session=session,
    )
    return bool(moved.matched_count == 1)


def replace(db: Any, name: str, documents: Sequence[Mapping[str, Any]], session: Any) -> Steps[None]:
    """Put these documents in the place of all live checkpoints of a projection."""
    found = yield db[CHECKPOINTS].find(_of(name), session=session).to_list()
    live = [each["_id"] for each in found if not _beside(each)]
    yield db[CHECKPOINTS].delete_many({"_id": {"$in": live}}, session=session)
    yield db[CHECKPOINTS].insert_many([dict(document) for document in documents], session=session)


def touch(db: Any, projection: Projection, slot: Slot, set_aside: int, session: Any) -> Steps[bool]:
    """Count a change of the dead letters without moving: it collides with every runner of the slot."""
    touched = yield db[CHECKPOINTS].update_one(
        {**_is(slot, projection), "setAside": set_aside or None},
        {"$inc": {"setAside": 1}, "$set": {"updatedAt": datetime.now(UTC)}},
        session=session,
    )
    return bool(touched.matched_count == 1)


def stop(db: Db, slot: Slot, position: int, error: str) -> None:
    """Mark the slot as stopped at `position`, unless another runner has moved it on meanwhile."""
    db[CHECKPOINTS].update_one(
        {"_id": slot.id, "generation": _generation(slot.generation), "position": position},
        {"$set": {"status": STOPPED, "lastError": error, "updatedAt": datetime.now(UTC)}},
    )


def _is(slot: Slot, projection: Projection) -> dict[str, Any]:
    return {
        "_id": slot.id,
        "version": projection.version,
        "generation": _generation(slot.generation),
    }


def _generation(number: int) -> Any:
    return number if number > 1 else {"$in": [1, None]}


def _at_the_start(projection: Projection, slot: Slot) -> dict[str, Any]:
    start: dict[str, Any] = {
        "projectionName": projection.name,
        "lastProcessedEventId": None,
        "lastProcessedTimestamp": None,
        "version": projection.version,
        "position": Int64(0),
        "status": REBUILDING if slot.shadow else LIVE,
        "updatedAt": datetime.now(UTC),
        "lastError": None,
    }
    return start if slot.generation == 1 else {**start, "generation": slot.generation}


def _beside(document: Mapping[str, Any]) -> bool:
    """Whether it belongs to a rebuild: the shadow, or the numbers of the generations."""
    return "#" in document["_id"]


def _of(name: str) -> dict[str, Any]:
    # All of a projection's documents in one look: "0" is what comes after the "/" of its parts.
    return {"_id": {"$gte": name, "$lt": f"{name}0"}, "projectionName": name}


def _documents(db: Db, name: str, session: ClientSession | None) -> list[dict[str, Any]]:
    return list(db[CHECKPOINTS].find(_of(name), session=session))


def _slot(document: Mapping[str, Any]) -> Slot:
    found = _PART.search(document["_id"])
    part = None if found is None else Part(int(found[1]), int(found[2]))
    return Slot(document["_id"], int(document.get("generation", 1)), part)


def _checkpoint(document: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        position=int(document["position"]),
        status=document["status"],
        updated_at=document["updatedAt"],
        last_event_id=document["lastProcessedEventId"],
        last_timestamp=document["lastProcessedTimestamp"],
        version=document["version"],
        last_error=document.get("lastError"),
        generation=int(document.get("generation", 1)),
        parts=int(document.get("parts", 1)),
        set_aside=int(document.get("setAside", 0)),
    )


def _least(parts: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint of a projection of several parts: of that which is least far, with what troubles any."""
    least = min(parts, key=lambda part: part.position)
    troubled = next((part for part in parts if part.status != LIVE), least)
    return dataclasses.replace(least, status=troubled.status, last_error=troubled.last_error)
