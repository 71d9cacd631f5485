"""A range of the log on its way into a read model: prepared outside of the transaction, written inside.

`write` is a body of driver calls (`ledgerlake.mongo.steps`), so that one engine serves the transaction of
an advance, of a live runner, and of the append itself, with either driver.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from ledgerlake.mongo.steps import Steps
from ledgerlake.projections import checkpoints, dead_letters, derived
from ledgerlake.projections.checkpoints import Slot, collection_of
from ledgerlake.projections.dead_letters import NOTHING_SET_ASIDE, DeadLetter, SetAside
from ledgerlake.projections.model import Document, Projection, ProjectionError, not_in_step

_DUPLICATE_KEY: Final = 11000
_ALWAYS: Final = ("position", "event_id", "occurred_at")


@dataclass(frozen=True, slots=True)
class Changes:
    """What events add to a read model.

    `fresh` are the documents that begin with them, and `counted` what those count for in each derived total;
    `deltas` is what the events add to documents that may be stored, None for nothing.
    """

    fresh: tuple[Document | RawBSONDocument, ...] = ()
    deltas: pl.DataFrame | None = None
    counted: tuple[pl.DataFrame, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A range of the log, read and folded, ready to be written.

    `events` are those of the slot's streams, whatever their types. `letters` go to the dead letters;
    `set_aside` is the state of these that it was prepared for, and `changed` whether it changes it.
    """

    after: int
    up_to: int
    events: int
    changes: Changes
    last_event_id: str | None
    last_timestamp: datetime | None
    letters: tuple[DeadLetter, ...] = ()
    set_aside: int = 0
    changed: bool = False


def columns_of(projection: Projection, slot: Slot, set_aside: SetAside = NOTHING_SET_ASIDE) -> list[str]:
    """The columns of the log that `prepare` wants."""
    wanted = [*projection.columns, *_ALWAYS]
    if slot.part is not None or set_aside.streams:
        wanted.append("payment_id")
    if projection.events is not None or set_aside.streams:
        wanted.append("event_type")
    return list(dict.fromkeys(wanted))


def prepare(
    projection: Projection,
    slot: Slot,
    table: pa.Table,
    after: int,
    up_to: int,
    set_aside: SetAside = NOTHING_SET_ASIDE,
) -> Prepared:
    """Fold the events with after < position <= up_to, given as a table of `columns_of` (at least one)."""
    last = table.slice(table.num_rows - 1).to_pylist()[0]
    events = pl.from_arrow(table)
    assert isinstance(events, pl.DataFrame)
    if slot.part is not None:
        events = events.filter(pl.Series([slot.part.takes(stream) for stream in events["payment_id"]]))
    taken = events
    letters: Iterable[DeadLetter] = ()
    if set_aside.streams:
        aside = pl.col("payment_id").is_in(list(set_aside.streams))
        letters = dead_letters.behind(slot, taken.filter(aside))
        taken = taken.filter(~aside)
    return Prepared(
        after,
        up_to,
        events.height,
        fold(projection, taken),
        last["event_id"],
        last["occurred_at"],
        tuple(letters),
        set_aside.changes,
    )


def fold(projection: Projection, events: pl.DataFrame) -> Changes:
    """What events add to the read model; those of a type that the projection does not take add nothing."""
    if projection.events is not None:
        events = events.filter(pl.col("event_type").is_in(list(projection.events)))
    if not events.height:
        return Changes()
    deltas = projection.fold(events.select(projection.columns))
    begun = deltas.filter(projection.starts)
    rest = deltas.filter(~projection.starts)
    return Changes(
        # Made here, beside the commit of the batch before: the transaction itself is kept short.
        tuple(projection.render(begun)) if begun.height else (),
        rest if rest.height else None,
        tuple(derived.contributed(each, begun) for each in projection.derived),
    )


def write(db: Any, projection: Projection, slot: Slot, prepared: Prepared, session: Any) -> Steps[bool]:
    """Read model, totals, dead letters and checkpoint, in the session's transaction.

    False, and nothing is written, when the checkpoint is not where the range starts: another runner did
    the work, the read model was swapped, or the dead letters have changed.

    Raises:
        NotInStep: the read model is not what its checkpoint says.
        ProjectionError: a sum does not fit.
        PyMongoError: as the driver raises it.
    """
    # The checkpoint first: it is what two runners collide on, before either has done any work.
    moved = yield from checkpoints.move(
        db,
        projection,
        slot,
        prepared.after,
        prepared.up_to,
        prepared.last_event_id,
        prepared.last_timestamp,
        session,
        prepared.set_aside,
        prepared.changed,
    )
    if not moved:
        return False
    yield from write_changes(db, projection, slot, prepared.changes, session)
    yield from dead_letters.put(db, prepared.letters, session)
    return True


def write_changes(db: Any, projection: Projection, slot: Slot, changes: Changes, session: Any) -> Steps[None]:
    """The read model and its totals alone; whoever calls has locked the checkpoint in this transaction."""
    model = db[collection_of(projection.name, slot.generation)]
    fresh = list(changes.fresh)
    changed: list[ReplaceOne[Any]] = []
    counted = [[each] for each in changes.counted] or [[] for _ in projection.derived]
    before: list[list[pl.DataFrame]] = [[] for _ in projection.derived]
    deltas = changes.deltas
    if deltas is not None:
        found = model.find({"_id": {"$in": deltas["key"].to_list()}}, _fields(projection), session=session)
        stored = yield found.to_list()
        if stored:
            recalled = projection.recall(stored)
            deltas = projection.merge(pl.concat([recalled, deltas], how="vertical"))
            for each, out in zip(projection.derived, before, strict=True):
                out.append(derived.contributed(each, recalled))
        for each, now in zip(projection.derived, counted, strict=True):
            now.append(derived.contributed(each, deltas))
        known = {document["_id"] for document in stored}
        for key, document in zip(deltas["key"], projection.render(deltas), strict=True):
            if key in known:
                changed.append(ReplaceOne({"_id": key}, document))
            else:
                fresh.append(document)
    try:
        if fresh:
            yield model.insert_many(fresh, ordered=False, session=session)
        if changed:
            yield model.bulk_write(changed, ordered=False, session=session)
        for each, now, out in zip(projection.derived, counted, before, strict=True):
            yield from derived.add(db, each, slot, derived.change(each, now, out), session)
    except BulkWriteError as error:
        for failed in error.details.get("writeErrors", ()):
            if failed.get("code") != _DUPLICATE_KEY:
                continue
            held = failed.get("keyValue", {})
            if "_id" in held:
                raise not_in_step(projection.name, f"holds {held['_id']!r} already") from error
            raise ProjectionError(
                f"{projection.name} can not hold two documents of one key: {failed.get('errmsg')}.",
                "Mend its definition, whose index is unique, or what was stored wrong.",
            ) from error
        raise


def _fields(projection: Projection) -> dict[str, int] | None:
    return dict.fromkeys(projection.fields, 1) or None
