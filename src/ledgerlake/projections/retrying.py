"""Putting dead letters back: a stream's set-aside events are folded in order, in one transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import polars as pl
import pyarrow as pa
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.mongo.indexes import DEAD_LETTERS
from ledgerlake.mongo.steps import run
from ledgerlake.projections import checkpoints, dead_letters
from ledgerlake.projections.batch import Changes, columns_of, fold, write_changes
from ledgerlake.projections.checkpoints import Slot
from ledgerlake.projections.dead_letters import LONGEST_ERROR, DeadLetter
from ledgerlake.projections.engine import ELSEWHERE, POISON, live_slots, outdated, read_events
from ledgerlake.projections.model import Projection
from ledgerlake.projections.transaction import in_transaction

Db = Database[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry did: events of a projection that are in its read model now, and those still set aside."""

    projection: str
    put_back: int
    left: int


def retry(db: Db, projection: Projection, archive: ArchivedEvents = NO_ARCHIVE) -> Retried:
    """Fold a projection's dead letters again, stream by stream: each stream's all, or none of them.

    Runners may go on meanwhile. A stream that fails again stays, with the new error at its event.

    Raises:
        LedgerLakeError: no event is to blame: the archive is away, or MongoDB did not say whether it was
            written. What was put back before stays.
    """
    found = sorted(dead_letters.listed(db, projection.name), key=attrgetter("stream_id", "position"))
    put_back = 0
    for stream, _ in groupby(found, key=attrgetter("stream_id")):
        put_back += _stream(db, projection, stream, archive)
    return Retried(projection.name, put_back, dead_letters.counts(db).get(projection.name, 0))


def _stream(db: Db, projection: Projection, stream: str, archive: ArchivedEvents) -> int:
    """Put the events of one stream back; how many that were, before one failed again."""
    put_back = 0
    while True:
        slot, at = next(
            (slot, at)
            for slot, at in live_slots(db, projection)
            if slot.part is None or slot.part.takes(stream)
        )
        if at.version != projection.version:
            raise outdated(projection, at)
        # After the checkpoint: once they are put back its count is another, and this transaction finds so.
        letters = dead_letters.listed(db, projection.name, stream=stream)
        if not letters:
            return put_back

        def attempt(
            letters: list[DeadLetter], keep: bool, slot: Slot = slot, changes: int = at.set_aside
        ) -> bool:
            folded = _folded(db, projection, slot, letters, archive)

            def put(session: ClientSession) -> bool:
                return _put_back(db, projection, slot, changes, letters, folded, session) and keep

            return in_transaction(db, put)

        try:
            if attempt(letters, True):
                put_back += len(letters)
        except ELSEWHERE:
            raise
        except POISON as error:
            letter, why = _to_blame(letters, error, attempt)
            db[DEAD_LETTERS].update_one(
                {"projectionName": projection.name, "position": letter.position},
                {
                    "$inc": {"attempts": 1},
                    "$set": {"error": f"{type(why).__name__}: {why}"[:LONGEST_ERROR]},
                },
            )
            return put_back


def _to_blame(
    letters: list[DeadLetter], error: BaseException, attempt: Callable[[list[DeadLetter], bool], bool]
) -> tuple[DeadLetter, BaseException]:
    """The letter up to which they can not be put back, and without which they can; and its error."""
    errors = {len(letters): error}

    def fails(number: int) -> bool:
        try:
            attempt(letters[:number], False)
        except ELSEWHERE:
            raise
        except POISON as error:
            errors[number] = error
            return True
        return False

    before = bisect_left(range(1, len(letters)), True, key=fails)
    return letters[before], errors[before + 1]


def _folded(
    db: Db, projection: Projection, slot: Slot, letters: list[DeadLetter], archive: ArchivedEvents
) -> Changes:
    columns = columns_of(projection, slot)
    tables = [read_events(db, at - 1, at, columns, archive) for at in (each.position for each in letters)]
    events = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(events, pl.DataFrame)
    return fold(projection, events)


def _put_back(
    db: Db,
    projection: Projection,
    slot: Slot,
    set_aside: int,
    letters: list[DeadLetter],
    changes: Changes,
    session: ClientSession,
) -> bool:
    if not run(checkpoints.touch(db, projection, slot, set_aside, session)):
        return False
    run(write_changes(db, projection, slot, changes, session))
    positions = [each.position for each in letters]
    db[DEAD_LETTERS].delete_many(
        {"projectionName": projection.name, "position": {"$in": positions}}, session=session
    )
    return True
