"""One projection over several workers: each takes the streams that fall to it, from its own checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from bson import Int64
from pymongo import DeleteOne, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.mongo.steps import run
from ledgerlake.projections import checkpoints
from ledgerlake.projections.checkpoints import LIVE, Slot, collection_of
from ledgerlake.projections.engine import SlotGone, advance, live_slots
from ledgerlake.projections.model import Derived, Document, OnPoison, Projection, ProjectionError
from ledgerlake.projections.transaction import in_transaction
from ledgerlake.settings import PROJECTION_BATCH

Db = Database[dict[str, Any]]

MOST_PARTS: Final = 64
# While runners go on meanwhile it takes a moment in which all parts stand at one position.
_TRY_SECONDS: Final = 60.0
_CHUNK: Final = 500


def part_slot(db: Db, projection: Projection, number: int) -> Slot:
    """The slot of one worker (from 0) of a projection, to be advanced in a process of its own.

    Raises:
        ProjectionError: there is no such worker.
    """
    found = [slot for slot, _ in live_slots(db, projection)]
    if not 0 <= number < len(found):
        raise ProjectionError(
            f"{projection.name} has no worker {number}: it has {len(found)}, counted from 0.",
            f"`ledgerlake split {projection.name} N` splits it over N.",
        )
    return found[number]


def split(
    db: Db,
    projection: Projection,
    parts: int,
    batch: int = PROJECTION_BATCH,
    archive: ArchivedEvents = NO_ARCHIVE,
    on_poison: OnPoison = OnPoison.PARK,
) -> int:
    """Split a projection over so many workers, from now on; 1: over none. Returns the position it stands at.

    All its parts are brought to one position; then their checkpoints are replaced, in one transaction. A
    worker of before can not write any more.

    Raises:
        ProjectionError: its documents are not by stream, or the parts could not be brought to one position.
        ProjectionStopped: a part is stopped.
        ValueError: no number of workers.
    """
    if not 1 <= parts <= MOST_PARTS:
        raise ValueError(f"A projection is split over 1 to {MOST_PARTS} workers, not {parts}.")
    if parts > 1 and not projection.by_stream:
        raise ProjectionError(
            f"{projection.name} can not be split: events of several streams meet in one document.",
            "Split a projection that has a document for each stream.",
        )
    deadline = time.monotonic() + _TRY_SECONDS
    while True:
        found = live_slots(db, projection)
        if len(found) == parts:
            position = found[0][1].position
            break
        target = max(at.position for _, at in found)
        try:
            for slot, _ in found:
                advance(db, projection, target, batch, archive=archive, slot=slot, on_poison=on_poison)
        except SlotGone:
            continue
        moved = in_transaction(db, lambda session: _replace(db, projection, parts, session))
        if moved is not None:
            (position,) = moved
            break
        if time.monotonic() > deadline:
            raise ProjectionError(
                f"The parts of {projection.name} do not come to stand at one position.",
                "Stop its runners for a moment, then split it again.",
            )
    _gather(db, projection, parts)
    return position


def _replace(db: Db, projection: Projection, parts: int, session: ClientSession) -> set[int] | None:
    """Put new checkpoints in the place of those that are there; None if they are not at one position."""
    name = projection.name
    found = checkpoints.slots(db, name, session)
    positions = {at.position for _, at in found}
    if len(positions) != 1:
        return None
    old = db[CHECKPOINTS].find_one({"_id": found[0][0].id}, session=session)
    assert old is not None
    kept = {key: value for key, value in old.items() if key not in ("parts", "setAside", "lastError")}
    # Never a count that was there before: a batch of one of the old parts may still be on its way.
    set_aside = sum(at.set_aside for _, at in found)
    changes = {"setAside": set_aside + 1} if set_aside else {}
    ids = [name] if parts == 1 else [f"{name}/{number}-of-{parts}" for number in range(parts)]
    of = {} if parts == 1 else {"parts": parts}
    common = {**kept, "status": LIVE, "lastError": None, **of, **changes}
    run(checkpoints.replace(db, name, [{**common, "_id": each} for each in ids], session))
    return positions


def _gather(db: Db, projection: Projection, parts: int) -> None:
    """Bring totals that workers of before have kept to a document that is there now, a few at a time.

    What a key comes to is the sum over its documents, before, after and in between: a crash leaves nothing
    behind but documents that the next split gathers.
    """
    found = live_slots(db, projection)
    generation = found[0][0].generation
    for derived in projection.derived:
        collection = db[collection_of(derived.name, generation)]
        # Without workers there are no totals of parts; with some, none of a part that is not there.
        left = {"part": {"$exists": True}} if parts == 1 else {"part": {"$not": {"$lt": parts}}}
        while rows := list(collection.find(left).limit(_CHUNK)):
            ids = [row["_id"] for row in rows]

            def move(session: ClientSession, ids: list[str] = ids, derived: Derived = derived) -> bool:
                collection = db[collection_of(derived.name, generation)]
                stored = list(collection.find({"_id": {"$in": ids}}, session=session))
                if stored:
                    collection.bulk_write(
                        [each for row in stored for each in _moved(derived, row, parts)],
                        session=session,
                    )
                    empty = dict.fromkeys(derived.totals, 0)
                    collection.delete_many(
                        {"_id": {"$in": [_home(row, parts) for row in stored]}, **empty},
                        session=session,
                    )
                return True

            in_transaction(db, move)


def _moved(derived: Derived, row: Document, parts: int) -> Iterator[UpdateOne | DeleteOne]:
    by = {name: row[name] for name in derived.by}
    totals = {total: Int64(row[total]) for total in derived.totals}
    yield DeleteOne({"_id": row["_id"]})
    yield UpdateOne(
        {"_id": _home(row, parts)},
        {"$inc": totals, "$setOnInsert": by if parts == 1 else {**by, "part": 0}},
        upsert=True,
    )


def _home(row: Document, parts: int) -> str:
    """Where totals are gathered: the only document of their key, or that of the first worker."""
    key: str = row["_id"].removesuffix(f"@{row['part']}") if "part" in row else row["_id"]
    return key if parts == 1 else f"{key}@0"
