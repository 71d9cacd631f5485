"""Advancing a projection: events after its checkpoint are folded, and the read model and the checkpoint
move in one transaction, so every event counts exactly once, whoever runs, crashes or runs twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.columnar import head, read_columns
from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.mongo.transactions import CONCERNS, UnknownCommit, backoff, commit_until_known, is_transient
from ledgerlake.projections import checkpoints
from ledgerlake.projections.checkpoints import checkpoint
from ledgerlake.projections.model import Projection, ProjectionError, ProjectionStopped

Db = Database[dict[str, Any]]

GIVE_UP_AFTER_SECONDS: Final = 60.0
# The server ends a transaction that takes longer than it allows (3 s when embedded): halve the batch then.
_TOO_LONG: Final = frozenset({290, 251, 257})  # lifetime exceeded, no such transaction, too large
# What an event that can not be folded leads to; a server that is away raises something else.
_POISON: Final = (LedgerLakeError, pl.exceptions.PolarsError, ValueError, TypeError, KeyError)


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
    """A range of the log, read and folded, ready to be committed."""

    after: int
    up_to: int
    deltas: pl.DataFrame
    last_event_id: str
    last_timestamp: datetime


class _BatchTooLarge(Exception):
    """The transaction took longer, or grew larger, than the server allows."""


def advance(
    db: Db,
    projection: Projection,
    up_to: int | None = None,
    batch: int = 20_000,
    on_progress: Callable[[int, int], None] | None = None,
) -> Advance:
    """Take the events after the checkpoint, up to `up_to` (default: the head of the log at the start).

    Several runners at once are safe: one of them moves the checkpoint, the others drop their batch. A
    stopped projection tries again where it stands, and is live again once that works.

    Args:
        batch: events folded in one transaction; halved by itself where the server finds it too long.
        on_progress: called with events done and events to do, after every batch.

    Raises:
        ProjectionStopped: a gap in the log, or an event that can not be folded; the projection is
            marked so, with its error, and stands before the batch.
        ProjectionError: the checkpoint belongs to another version of the projection's definition.
    """
    checkpoints.create(db, projection)
    start = position = _continued(db, projection)
    target = head(db) if up_to is None else min(up_to, head(db))
    events = batches = 0
    size = batch
    with ThreadPoolExecutor(1, thread_name_prefix="fold") as pool:
        ahead: Future[_Prepared] | None = None
        while position < target:
            prepared = _take(db, projection, ahead, position, min(position + size, target))
            # The next batch is read and folded while this one is committed.
            ahead = None
            if prepared.up_to < target:
                following = min(prepared.up_to + size, target)
                ahead = pool.submit(_prepare, db, projection, prepared.up_to, following)
            try:
                moved = _commit(db, projection, prepared)
            except _BatchTooLarge:
                size = max(1, (prepared.up_to - prepared.after) // 2)
                continue
            except UnknownCommit as error:
                raise ProjectionError(
                    f"MongoDB did not say whether {projection.name} moved to {prepared.up_to} ({error}).",
                    "Run it again: the checkpoint tells.",
                ) from error
            except _POISON as error:
                raise _stopped(db, projection, position, error) from error
            if moved:
                position = prepared.up_to
                events += prepared.up_to - prepared.after
                batches += 1
            else:
                position = _continued(db, projection)
            if on_progress is not None:
                on_progress(min(position, target) - start, target - start)
    return Advance(projection.name, start, position, events, batches)


def reset(db: Db, projection: Projection) -> None:
    """Empty the read model and its checkpoint: the next advance fills it from the start of the log."""
    # The checkpoint goes last: after a crash in between, the next reset starts over.
    db[projection.name].delete_many({})
    db[CHECKPOINTS].delete_one({"_id": projection.name})


def _continued(db: Db, projection: Projection) -> int:
    found = checkpoint(db, projection.name)
    if found.version != projection.version:
        raise ProjectionError(
            f"{projection.name} was filled by version {found.version} of its definition; "
            f"this program has version {projection.version}.",
            f"Fill it anew: `ledgerlake refresh --rebuild {projection.name}`.",
        )
    return found.position


def _take(
    db: Db, projection: Projection, ahead: Future[_Prepared] | None, after: int, up_to: int
) -> _Prepared:
    """What was prepared ahead, if that is the range wanted; else the range, prepared now."""
    try:
        if ahead is not None:
            prepared = ahead.result()
            if (prepared.after, prepared.up_to) == (after, up_to):
                return prepared
        return _prepare(db, projection, after, up_to)
    except _POISON as error:
        raise _stopped(db, projection, after, error) from error


def _prepare(db: Db, projection: Projection, after: int, up_to: int) -> _Prepared:
    columns = dict.fromkeys((*projection.columns, "position", "event_id", "occurred_at"))
    table = read_columns(db, after, up_to, list(columns))
    last = table.slice(table.num_rows - 1).to_pylist()[0]
    events = pl.from_arrow(table)
    assert isinstance(events, pl.DataFrame)
    return _Prepared(after, up_to, projection.fold(events), last["event_id"], last["occurred_at"])


def _stopped(db: Db, projection: Projection, position: int, error: Exception) -> ProjectionStopped:
    reason = f"{type(error).__name__}: {error}"
    checkpoints.stop(db, projection, position, reason)
    return ProjectionStopped(
        f"{projection.name} stopped after position {position}: {error}",
        f"Mend the cause, then run `ledgerlake refresh`: it goes on at position {position + 1}.",
    )


def _commit(db: Db, projection: Projection, prepared: _Prepared) -> bool:
    """Write read model and checkpoint in one transaction; False when another runner did the work."""
    deadline = time.monotonic() + GIVE_UP_AFTER_SECONDS
    tries = 0
    while True:
        started = time.monotonic()
        try:
            with db.client.start_session(causal_consistency=False) as session:
                session.start_transaction(**CONCERNS)
                if not _write(db, projection, prepared, session):
                    session.abort_transaction()
                    return False
                commit_until_known(session, deadline)
                return True
        except OperationFailure as error:
            # "No such transaction" also follows a fail-over, where trying again at once is right.
            if error.code in _TOO_LONG and (error.code != 251 or time.monotonic() - started > 1.5):
                raise _BatchTooLarge from error
            if not is_transient(error) or time.monotonic() > deadline:
                raise
        except PyMongoError as error:
            if not is_transient(error) or time.monotonic() > deadline:
                raise
        tries += 1
        backoff(tries)


def _write(db: Db, projection: Projection, prepared: _Prepared, session: ClientSession) -> bool:
    # The checkpoint first: it is what two runners collide on, before either has done any work.
    if not checkpoints.move(
        db,
        projection,
        prepared.after,
        prepared.up_to,
        prepared.last_event_id,
        prepared.last_timestamp,
        session,
    ):
        return False
    model = db[projection.name]
    deltas = prepared.deltas
    keys = projection.known(deltas)
    stored = list(
        model.find({"_id": {"$in": keys}}, dict.fromkeys(projection.fields, 1), session=session)
        if keys
        else ()
    )
    if stored:
        deltas = projection.merge(pl.concat([projection.recall(stored), deltas], how="vertical"))
    known = {document["_id"] for document in stored}
    fresh = []
    changed = []
    for document in projection.render(deltas):
        if document["_id"] in known:
            changed.append(ReplaceOne({"_id": document["_id"]}, document))
        else:
            fresh.append(document)
    if fresh:
        model.insert_many(fresh, ordered=False, session=session)
    if changed:
        model.bulk_write(changed, ordered=False, session=session)
    return True
