"""Advancing a projection: events after its checkpoint are folded, and the read model and the checkpoint
move in one transaction, so every event counts exactly once, whoever runs, crashes or runs twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

import bson
import polars as pl
import pyarrow as pa
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents, ArchiveError
from ledgerlake.eventstore.columnar import GapError, head, read_columns
from ledgerlake.mongo.indexes import ensure_schema
from ledgerlake.mongo.steps import run
from ledgerlake.projections import checkpoints, dead_letters
from ledgerlake.projections.batch import Changes, Prepared, columns_of, prepare, write
from ledgerlake.projections.checkpoints import Slot, collection_of
from ledgerlake.projections.dead_letters import MOST_STREAMS, NOTHING_SET_ASIDE, SetAside
from ledgerlake.projections.model import (
    NotInStep,
    OnPoison,
    Projection,
    ProjectionError,
    ProjectionOutdated,
    ProjectionStopped,
)
from ledgerlake.projections.observed import observed
from ledgerlake.projections.transaction import CommitUnknown, TooLarge, in_transaction
from ledgerlake.settings import PROJECTION_BATCH
from ledgerlake.telemetry.port import Telemetry

Db = Database[dict[str, Any]]
# The events with after < position <= up_to, with these columns.
_Read: TypeAlias = Callable[[int, int, list[str]], pa.Table]

# After so many batches of a halved size the next ones are twice as large again.
_GROW_AFTER: Final = 16
# Seconds before an event that can not be folded is tried again.
PAUSES: Final = (0.05, 0.1, 0.2)
# What events that can not be folded lead to; a server that is away raises something else.
POISON: Final = (
    LedgerLakeError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,  # no Exception, but of what it is given all the same
    bson.errors.BSONError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ReadFailed(ProjectionError):
    """The log could not be read, for no reason that lies in an event."""


# These are for no stream in particular.
ELSEWHERE: Final = (GapError, ArchiveError, ReadFailed, TooLarge, CommitUnknown)
# No event is to blame for these, so none is set aside for them.
_NO_EVENT: Final = (NotInStep, *ELSEWHERE)


class SlotGone(ProjectionError):
    """The checkpoint that was to be moved is no more: the read model was swapped, or split anew."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What an advance did: the checkpoint before and after, and events and batches that it took itself.

    `set_aside` of the events went to the dead letters instead of into the read model.
    """

    projection: str
    from_position: int
    to_position: int
    events: int
    batches: int
    set_aside: int = 0


class _BatchSize:
    """Events in a batch: halved when a batch can not be taken whole, and grown again after a while."""

    def __init__(self, largest: int) -> None:
        self.events = self._largest = largest
        self._taken = 0

    def halve(self, events: int) -> bool:
        """Half of the batch that failed; False when it had one event only."""
        self.events, self._taken = max(1, events // 2), 0
        return events > 1

    def found(self) -> None:
        """The event that batches were halved for is out of the way."""
        self.events, self._taken = self._largest, 0

    def taken(self) -> None:
        """A batch went through."""
        self._taken += 1
        if self._taken >= _GROW_AFTER:
            self.events, self._taken = min(self.events * 2, self._largest), 0


def advance(
    db: Db,
    projection: Projection,
    up_to: int | None = None,
    batch: int = PROJECTION_BATCH,
    on_progress: Callable[[int, int], None] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
    telemetry: Telemetry | None = None,
    slot: Slot | None = None,
    on_poison: OnPoison = OnPoison.PARK,
) -> Advance:
    """Take the events after the checkpoint, up to `up_to` (default: the head of the log at the start).

    Several runners at once are safe: one of them moves the checkpoint, the others drop their batch. A
    stopped projection tries again where it stands, and is live again once that works. A projection that is
    split over workers is advanced by a thread for each.

    Args:
        batch: events folded in one transaction; halved by itself where the server finds it too long,
            and around an event that can not be folded, up to which all others are taken.
        on_progress: called with events done and events to do, after every batch.
        archive: where the events lie that were archived; needed by a projection that is filled anew.
        telemetry: told of every batch, if given.
        slot: advance this one only: a worker of a split projection, or the shadow of a rebuild.
        on_poison: what becomes of an event that can not be folded, where the projection does not say.

    Raises:
        ProjectionStopped: a gap in the log, or an event that can not be folded or written; the projection
            is marked so, with its error, and stands right before that event.
        ProjectionOutdated: the checkpoint belongs to another version of the projection's definition.
        SlotGone: there is no such slot any more.
        CommitUnknown: MongoDB did not say whether a batch was written; run it again.
        ValueError: a batch of no events.
    """
    if batch < 1:
        raise ValueError(f"A batch has at least one event, not {batch}.")

    def advanced(
        slot: Slot,
        on_progress: Callable[[int, int], None] | None,
        found: checkpoints.Checkpoint | None = None,
    ) -> Advance:
        runner = _Runner(db, projection, slot, archive, projection.on_poison or on_poison)
        return runner.advance(up_to, batch, on_progress, telemetry, found)

    if slot is not None:
        return advanced(slot, on_progress)
    while True:
        found = live_slots(db, projection)
        try:
            if len(found) == 1:
                [(only, standing)] = found
                return advanced(only, on_progress, standing)
            return _side_by_side([live for live, _ in found], advanced, on_progress)
        except SlotGone:
            continue  # it was swapped or split meanwhile: go on with what is live now


def live_slots(db: Db, projection: Projection) -> list[tuple[Slot, checkpoints.Checkpoint]]:
    """The live slots of a projection, by part, with their checkpoints; made, if it has never run."""
    while not (found := checkpoints.slots(db, projection.name)):
        open_slot(db, projection, Slot(projection.name))
    return found


def open_slot(db: Db, projection: Projection, slot: Slot) -> None:
    """Make the slot's collections with their indexes, and its checkpoint at position 0, unless there is one.

    A live slot is not made where the projection has another one.
    """
    make_models(db, projection, slot.generation)

    def create(session: ClientSession) -> bool:
        there = [live for live, _ in checkpoints.slots(db, projection.name, session)]
        if slot.shadow:
            there = [slot] if checkpoints.slot_checkpoint(db, slot, session) is not None else []
        if not there:
            checkpoints.create(db, projection, slot, session)
        return True

    try:
        in_transaction(db, create)
    except DuplicateKeyError:
        pass  # another runner was faster


def read_events(
    db: Db, after: int, up_to: int, columns: Sequence[str], archive: ArchivedEvents = NO_ARCHIVE
) -> pa.Table:
    """`read_columns`, of whose errors only those that name or decode an event are left as they are.

    Raises:
        ReadFailed: for another reason, such as that no thread could be started.
    """
    try:
        return read_columns(db, after, up_to, columns, archive)
    except (LedgerLakeError, bson.errors.BSONError, pa.ArrowInvalid):
        raise
    except POISON as error:
        raise ReadFailed(
            f"The events {after + 1} to {up_to} could not be read ({type(error).__name__}: {error})."
        ) from error


def make_models(db: Db, projection: Projection, generation: int) -> None:
    """Make a generation's collections and indexes, where they are missing."""
    indexes = [*projection.indexes, *(index for each in projection.derived for index in each.indexes)]
    ensure_schema(
        db,
        [collection_of(name, generation) for name in projection.models],
        [replace(index, collection=collection_of(index.collection, generation)) for index in indexes],
    )


def outdated(projection: Projection, found: checkpoints.Checkpoint) -> ProjectionOutdated:
    """The error for a read model that another version of the definition has filled."""
    return ProjectionOutdated(
        f"{projection.name} was filled by version {found.version} of its definition; "
        f"this program has version {projection.version}.",
        f"Fill it anew: `ledgerlake rebuild {projection.name}`.",
    )


def _side_by_side(
    slots: list[Slot],
    advanced: Callable[[Slot, Callable[[int, int], None] | None], Advance],
    on_progress: Callable[[int, int], None] | None,
) -> Advance:
    told: dict[Slot, tuple[int, int]] = {}

    def tell(slot: Slot, done: int, total: int) -> None:
        told[slot] = (done, total)
        if on_progress is not None:
            each = list(told.values())
            on_progress(sum(done for done, _ in each) // len(slots), max(total for _, total in each))

    with ThreadPoolExecutor(len(slots), thread_name_prefix="part") as pool:
        acts = [pool.submit(advanced, slot, partial(tell, slot)) for slot in slots]
    done = [act.result() for act in acts]
    return Advance(
        done[0].projection,
        min(each.from_position for each in done),
        min(each.to_position for each in done),
        sum(each.events for each in done),
        sum(each.batches for each in done),
        sum(each.set_aside for each in done),
    )


class _Runner:
    """One advance of one slot."""

    def __init__(
        self, db: Db, projection: Projection, slot: Slot, archive: ArchivedEvents, on_poison: OnPoison
    ) -> None:
        self.db, self.projection, self.slot = db, projection, slot
        self._on_poison = on_poison
        self._read: _Read = partial(read_events, db, archive=archive)
        self._aside = NOTHING_SET_ASIDE

    def advance(
        self,
        up_to: int | None,
        batch: int,
        on_progress: Callable[[int, int], None] | None,
        telemetry: Telemetry | None,
        found: checkpoints.Checkpoint | None = None,
    ) -> Advance:
        """`advance` of the slot, whose checkpoint was `found` just now; None: it is to be looked up."""
        db, projection, slot = self.db, self.projection, self.slot
        start = position = self._standing(found)
        commit = _commit if telemetry is None else observed(_commit, telemetry)
        target = head(db) if up_to is None else min(up_to, head(db))
        events = batches = aside = attempts = 0
        size = _BatchSize(batch)
        ahead: Future[Prepared] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="fold") as pool:
            while position < target:
                end = min(position + size.events, target)
                try:
                    prepared = self._take(ahead, position, end)
                    end = prepared.up_to
                    # The next batch is read and folded while this one is committed.
                    following = min(end + size.events, target)
                    ahead = None
                    if end < target:
                        with suppress(RuntimeError):  # no thread to be had: it is read when its turn comes
                            ahead = pool.submit(self._prepare, end, following, self._aside)
                    moved = commit(db, projection, slot, prepared)
                except CommitUnknown:
                    raise
                except TooLarge as error:
                    if not size.halve(end - position):
                        raise self._stopped(position, error) from error
                    continue
                except POISON as error:
                    # In halves down to the event itself: all before it are taken, and the error names it.
                    if size.halve(end - position):
                        continue
                    if attempts < len(PAUSES):
                        time.sleep(PAUSES[attempts])
                        attempts += 1
                        continue
                    ahead = Future()
                    ahead.set_result(self._without(position, error, attempts + 1))
                    size.found()
                    continue
                attempts = 0
                if moved:
                    events += prepared.events
                    aside += len(prepared.letters)
                    batches += 1
                    position = end
                    size.taken()
                if not moved or prepared.changed:
                    position = self._standing()
                if on_progress is not None:
                    on_progress(min(max(position, start), target) - start, target - start)
        return Advance(projection.name, start, position, events, batches, aside)

    def _standing(self, found: checkpoints.Checkpoint | None = None) -> int:
        """The position to go on from; `found` is the checkpoint, if it is known."""
        db, projection = self.db, self.projection
        if found is None:
            found = checkpoints.slot_checkpoint(db, self.slot)
        if found is None:
            raise SlotGone(
                f"{self.slot.id} has no generation {self.slot.generation} any more.",
                "It was swapped or split meanwhile: run it again.",
            )
        if found.version != projection.version:
            raise outdated(projection, found)
        self._aside = run(dead_letters.set_aside(db, self.slot, found))
        return found.position

    def _take(self, ahead: Future[Prepared] | None, after: int, up_to: int) -> Prepared:
        """What was prepared ahead, if it starts at `after` and is no longer; else the range, prepared now."""
        if ahead is not None and ahead.exception() is None:
            prepared = ahead.result()
            fits = prepared.after == after and prepared.up_to <= up_to
            if fits and prepared.set_aside == self._aside.changes:
                return prepared
        return self._prepare(after, up_to, self._aside)

    def _prepare(self, after: int, up_to: int, aside: SetAside) -> Prepared:
        table = self._read(after, up_to, columns_of(self.projection, self.slot, aside))
        return prepare(self.projection, self.slot, table, after, up_to, aside)

    def _without(self, position: int, error: BaseException, attempts: int) -> Prepared:
        """The batch that sets the event after `position` aside.

        Raises:
            ProjectionStopped: the projection is to stop, or no event is to blame.
        """
        if self._on_poison is OnPoison.PARK or isinstance(error, _NO_EVENT):
            raise self._stopped(position, error) from error
        slot, aside = self.slot, self._aside
        at = position + 1
        found = dead_letters.letter(self.db, slot, at, f"{type(error).__name__}: {error}", attempts)
        if found is None or len(aside.streams) >= MOST_STREAMS:
            raise self._stopped(position, error) from error
        letter, timestamp = found
        # One that can not even be read meets all parts of a split projection; it is the dead letter of one.
        mine = slot.part is None or slot.part.takes(letter.stream_id)
        return Prepared(
            position,
            at,
            int(mine),
            Changes(),
            letter.event_id,
            timestamp,
            (letter,) if mine else (),
            aside.changes,
            changed=mine and letter.stream_id not in aside.streams,
        )

    def _stopped(self, position: int, error: BaseException) -> ProjectionStopped:
        name = self.projection.name
        again = f"rebuild {name}" if self.slot.shadow else "refresh"
        checkpoints.stop(self.db, self.slot, position, f"{type(error).__name__}: {error}")
        return ProjectionStopped(
            f"{name} stopped at position {position + 1}: {error}",
            f"Mend the cause, then run `ledgerlake {again}`: it goes on with position {position + 1}.",
        )


def _commit(db: Db, projection: Projection, slot: Slot, prepared: Prepared) -> bool:
    """Write read model and checkpoint in one transaction; False when another runner did the work."""
    return in_transaction(db, lambda session: run(write(db, projection, slot, prepared, session)))
