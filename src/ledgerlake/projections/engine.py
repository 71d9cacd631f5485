"""Advancing a projection: events after its checkpoint are folded, and the read model and the checkpoint
move in one transaction, so every event counts exactly once, whoever runs, crashes or runs twice.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias

import bson
import polars as pl
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.columnar import head, read_columns
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.projections import checkpoints
from ledgerlake.projections.checkpoints import REBUILDING, checkpoint
from ledgerlake.projections.emptying import reset
from ledgerlake.projections.model import Document, Projection, ProjectionError, ProjectionStopped, not_in_step
from ledgerlake.projections.observed import observed
from ledgerlake.projections.transaction import TooLarge, in_transaction
from ledgerlake.telemetry.port import Telemetry

Db = Database[dict[str, Any]]
# The events with after < position <= up_to, with these columns.
_Read: TypeAlias = Callable[[int, int, list[str]], pa.Table]

_DUPLICATE_KEY: Final = 11000
# After so many batches of a halved size the next ones are twice as large again.
_GROW_AFTER: Final = 16
# What events that can not be folded lead to; a server that is away raises something else.
_POISON: Final = (
    LedgerLakeError,
    pl.exceptions.PolarsError,
    bson.errors.BSONError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Advance:
    """What an advance did: the checkpoint before and after, and events and batches that it took itself."""

    projection: str
    from_position: int
    to_position: int
    events: int
    batches: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A range of the log, read and folded, ready to be committed.

    `fresh` are the documents that begin in it; `deltas` is what it adds to documents that may be stored.
    """

    after: int
    up_to: int
    fresh: list[Document | RawBSONDocument]
    deltas: pl.DataFrame
    last_event_id: str
    last_timestamp: datetime


class _BatchSize:
    """Events in a batch: halved when a batch can not be taken whole, and grown again after a while."""

    def __init__(self, largest: int) -> None:
        self.events = self._largest = largest
        self._taken = 0

    def halve(self, events: int) -> bool:
        """Half of the batch that failed; False when it had one event only."""
        self.events, self._taken = max(1, events // 2), 0
        return events > 1

    def taken(self) -> None:
        """A batch went through."""
        self._taken += 1
        if self._taken >= _GROW_AFTER:
            self.events, self._taken = min(self.events * 2, self._largest), 0


def advance(
    db: Db,
    projection: Projection,
    up_to: int | None = None,
    batch: int = 20_000,
    on_progress: Callable[[int, int], None] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
    telemetry: Telemetry | None = None,
) -> Advance:
    """Take the events after the checkpoint, up to `up_to` (default: the head of the log at the start).

    Several runners at once are safe: one of them moves the checkpoint, the others drop their batch. A
    stopped projection tries again where it stands, and is live again once that works.

    Args:
        batch: events folded in one transaction; halved by itself where the server finds it too long,
            and around an event that can not be folded, up to which all others are taken.
        on_progress: called with events done and events to do, after every batch.
        archive: where the events lie that were archived; needed by a projection that is filled anew.
        telemetry: told of every batch, if given.

    Raises:
        ProjectionStopped: a gap in the log, or an event that can not be folded; the projection is
            marked so, with its error, and stands right before that event.
        ProjectionError: the checkpoint belongs to another version of the projection's definition.
        ValueError: a batch of no events.
    """
    if batch < 1:
        raise ValueError(f"A batch has at least one event, not {batch}.")
    checkpoints.create(db, projection)
    start = position = _standing(db, projection)
    read = partial(read_columns, db, archive=archive)
    commit = _commit if telemetry is None else observed(_commit, telemetry)
    target = head(db) if up_to is None else min(up_to, head(db))
    events = batches = 0
    size = _BatchSize(batch)
    ahead: Future[_Prepared] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="fold") as pool:
        while position < target:
            end = min(position + size.events, target)
            try:
                prepared = _take(read, projection, ahead, position, end)
                end = prepared.up_to
                # The next batch is read and folded while this one is committed.
                following = min(end + size.events, target)
                ahead = pool.submit(_prepare, read, projection, end, following) if end < target else None
                moved = commit(db, projection, prepared)
            except UnknownCommit as error:
                raise ProjectionError(
                    f"MongoDB did not say whether {projection.name} moved to position {end} ({error}).",
                    "Run it again: the checkpoint tells.",
                ) from error
            except TooLarge:
                if not size.halve(end - position):
                    raise
                continue
            except _POISON as error:
                # In halves down to the event itself: all before it are taken, and the error names it.
                if not size.halve(end - position):
                    raise _stopped(db, projection, position, error) from error
                continue
            if moved:
                events += end - position
                batches += 1
                position = end
                size.taken()
            else:
                position = _standing(db, projection)
            if on_progress is not None:
                on_progress(min(max(position, start), target) - start, target - start)
    return Advance(projection.name, start, position, events, batches)


def _standing(db: Db, projection: Projection) -> int:
    """The position to go on from, after finishing a reset that was cut short."""
    while (found := checkpoint(db, projection.name)).status == REBUILDING:
        reset(db, projection)
    if found.version != projection.version:
        raise ProjectionError(
            f"{projection.name} was filled by version {found.version} of its definition; "
            f"this program has version {projection.version}.",
            f"Fill it anew: `ledgerlake refresh --rebuild {projection.name}`.",
        )
    return found.position


def _take(
    read: _Read, projection: Projection, ahead: Future[_Prepared] | None, after: int, up_to: int
) -> _Prepared:
    """What was prepared ahead, if it starts at `after` and is no longer; else the range, prepared now."""
    if ahead is not None and ahead.exception() is None:
        prepared = ahead.result()
        if prepared.after == after and prepared.up_to <= up_to:
            return prepared
    return _prepare(read, projection, after, up_to)


def _prepare(read: _Read, projection: Projection, after: int, up_to: int) -> _Prepared:
    columns = dict.fromkeys((*projection.columns, "position", "event_id", "occurred_at"))
    table = read(after, up_to, list(columns))
    last = table.slice(table.num_rows - 1).to_pylist()[0]
    events = pl.from_arrow(table)
    assert isinstance(events, pl.DataFrame)
    deltas = projection.fold(events)
    # Made here, beside the commit of the batch before: the transaction itself is kept short.
    fresh = list(projection.render(deltas.filter(projection.starts)))
    rest = deltas.filter(~projection.starts)
    return _Prepared(after, up_to, fresh, rest, last["event_id"], last["occurred_at"])


def _stopped(db: Db, projection: Projection, position: int, error: Exception) -> ProjectionStopped:
    checkpoints.stop(db, projection, position, f"{type(error).__name__}: {error}")
    return ProjectionStopped(
        f"{projection.name} stopped at position {position + 1}: {error}",
        f"Mend the cause, then run `ledgerlake refresh`: it goes on with position {position + 1}.",
    )


def _commit(db: Db, projection: Projection, prepared: _Prepared) -> bool:
    """Write read model and checkpoint in one transaction; False when another runner did the work."""
    try:
        return in_transaction(db, lambda session: _write(db, projection, prepared, session))
    except BulkWriteError as error:
        for failed in error.details.get("writeErrors", ()):
            if failed.get("code") == _DUPLICATE_KEY:
                key = failed.get("keyValue", {}).get("_id")
                raise not_in_step(projection.name, f"holds {key!r} already") from error
        raise


def _write(db: Db, projection: Projection, prepared: _Prepared, session: ClientSession) -> bool:
    # The checkpoint first: it is what two runners collide on, before either has done any work.
    moved = checkpoints.move(
        db,
        projection,
        prepared.after,
        prepared.up_to,
        prepared.last_event_id,
        prepared.last_timestamp,
        session,
    )
    if not moved:
        return False
    model = db[projection.name]
    fresh = list(prepared.fresh)
    changed: list[ReplaceOne[Any]] = []
    if prepared.deltas.height:
        keys = prepared.deltas["key"].to_list()
        fields = dict.fromkeys(projection.fields, 1)
        stored = list(model.find({"_id": {"$in": keys}}, fields, session=session))
        known = {document["_id"] for document in stored}
        deltas = prepared.deltas
        if stored:
            deltas = projection.merge(pl.concat([projection.recall(stored), deltas], how="vertical"))
        for key, document in zip(deltas["key"], projection.render(deltas), strict=True):
            if key in known:
                changed.append(ReplaceOne({"_id": key}, document))
            else:
                fresh.append(document)
    if fresh:
        model.insert_many(fresh, ordered=False, session=session)
    if changed:
        model.bulk_write(changed, ordered=False, session=session)
    return True
