"""Rebuilding a projection while it is read: filled anew beside the live one, compared with it, swapped in.

The new read model lies in collections of its own, a generation further, under a checkpoint of its own: the
shadow. The same `advance` fills it, while runners move the live one on and queries read it. Whoever is killed
or stopped on the way, the next one goes on where the shadow stands. One transaction puts it in the place of
the live one, which is kept until it is told to go. The number of a generation is never given twice, so that
nobody who is late can drop, or write into, a generation that came after.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.columnar import GapError, head, read_columns
from ledgerlake.mongo.indexes import CHECKPOINTS, DEAD_LETTERS
from ledgerlake.mongo.steps import run
from ledgerlake.mongo.transactions import backoff
from ledgerlake.projections import checkpoints, dead_letters
from ledgerlake.projections.batch import columns_of, prepare, write
from ledgerlake.projections.checkpoints import LIVE, Slot, collection_of, shadow_slot
from ledgerlake.projections.comparing import Comparison, compare
from ledgerlake.projections.engine import POISON, Advance, SlotGone, advance, live_slots, make_models
from ledgerlake.projections.model import OnPoison, Projection, ProjectionError, ProjectionOutdated
from ledgerlake.projections.transaction import GIVE_UP_AFTER_SECONDS, CommitUnknown, in_transaction
from ledgerlake.settings import PROJECTION_BATCH
from ledgerlake.telemetry.port import Telemetry

log = logging.getLogger(__name__)

Db: TypeAlias = Database[dict[str, Any]]
Document: TypeAlias = dict[str, Any]

FILLING: Final = "filling"
COMPARING: Final = "comparing"
# Longer than anybody trusts what he knows of where the live read model lies.
GRACE_SECONDS: Final = 2.0

# So often it is looked for a moment in which all workers of a split projection stand at one position.
_LOOKS: Final = 20
_SNAPSHOT_TOO_OLD: Final = 239
_SNAPSHOT_UNAVAILABLE: Final = 246
# The last events are taken in the transaction that swaps, which is to be short.
_LAST_EVENTS: Final = 1_000
# The rate is that of the last while: what is slow by now says more than what was fast.
_RATE_OVER_SECONDS: Final = 20.0


class RebuildAbandoned(ProjectionError):
    """Somebody gave the rebuild up while it was at work."""


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far a rebuild is: events (filling) or documents (comparing), `rate` of them a second.

    `seconds_left` is until the end of the phase at that rate. Both are None while nothing is known.
    """

    projection: str
    phase: str
    done: int
    total: int
    rate: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """A rebuild that has begun: the version and generation that it fills, and how far it has come."""

    version: int
    generation: int
    position: int
    status: str
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did.

    `comparisons` are with the live read model of `from_version`, a collection each; none where that was
    empty, or its workers stood at different positions, or another runner has swapped. `events` are those
    that this run took. Not `swapped`: the shadow stands, full and compared, for the next run to swap. `kept`
    are the generations that were replaced and not dropped yet.
    """

    projection: str
    from_version: int | None
    to_version: int
    generation: int
    position: int
    events: int
    seconds: float
    comparisons: tuple[Comparison, ...]
    swapped: bool
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """An advance, and the rebuild before it where the read model was of an older version."""

    moved: Advance
    rebuilt: Rebuilt | None

    @property
    def rebuilt_as(self) -> str | None:
        """The rebuild in words, if there was one."""
        if self.rebuilt is None:
            return None
        return f"rebuilt: version {self.rebuilt.from_version} to {self.rebuilt.to_version}"


def bring_up(
    db: Db,
    projection: Projection,
    batch: int = PROJECTION_BATCH,
    on_progress: Callable[[int, int], None] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
    telemetry: Telemetry | None = None,
    on_poison: OnPoison = OnPoison.PARK,
) -> BroughtUp:
    """Advance a projection to the head; one that an older version has filled is rebuilt first.

    Queries go on with the old read model until the new one is swapped in.

    Raises:
        ProjectionOutdated: a newer version has filled it. It is left alone: two programs of different
            versions would undo each other's work for ever.
        ProjectionError: as `advance` does.
    """
    rebuilt = None
    while True:
        try:
            moved = advance(db, projection, None, batch, on_progress, archive, telemetry, on_poison=on_poison)
        except ProjectionOutdated:
            filled_by = checkpoints.checkpoint(db, projection.name).version or 0
            if filled_by > projection.version:
                raise
            log.warning(
                "%s was filled by version %d of its definition: it is rebuilt by version %d. Queries go on "
                "with the old read model until then.",
                projection.name,
                filled_by,
                projection.version,
            )

            def tell(progress: RebuildProgress) -> None:
                if on_progress is not None:
                    on_progress(progress.done, progress.total)

            rebuilt = _Rebuild(db, projection, batch, tell, archive, on_poison).run(only_outdated=True)
        else:
            return BroughtUp(moved, rebuilt)


def rebuild(
    db: Db,
    projection: Projection,
    *,
    swap: bool = True,
    batch: int = PROJECTION_BATCH,
    on_progress: Callable[[RebuildProgress], None] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
    on_poison: OnPoison = OnPoison.PARK,
) -> Rebuilt:
    """Fill a shadow, compare it with the live read model, and swap them; one that was begun is finished.

    Several at once are safe: they fill one shadow, and one of them swaps it.

    Args:
        swap: False leaves the shadow in its place, compared; another run swaps it.
        batch, archive, on_poison: as for `advance`.
        on_progress: called after every batch.

    Raises:
        ProjectionStopped: an event that this definition can not fold; the live read model is as it was.
        ProjectionOutdated: a newer version's rebuild is under way.
        RebuildAbandoned: somebody gave it up meanwhile.
        CommitUnknown: MongoDB did not say whether something was written; run it again.
    """
    rebuilt = _Rebuild(db, projection, batch, on_progress, archive, on_poison).run(swap=swap)
    assert rebuilt is not None
    return rebuilt


def shadow(db: Db, name: str, session: ClientSession | None = None) -> Shadow | None:
    """The rebuild of a projection that is under way or was cut short, if there is one."""
    found = db[CHECKPOINTS].find_one({"_id": _shadow_id(name)}, session=session)
    if found is None:
        return None
    return Shadow(
        int(found["version"]),
        int(found["generation"]),
        int(found["position"]),
        found["status"],
        found["lastError"],
    )


def abandon(db: Db, projection: Projection) -> bool:
    """Give a rebuild up and drop what it has filled; False if there is none."""

    def forget(session: ClientSession) -> bool:
        gone = db[CHECKPOINTS].delete_one({"_id": _shadow_id(projection.name)}, session=session)
        db[DEAD_LETTERS].delete_many({"projectionName": _shadow_id(projection.name)}, session=session)
        return gone.deleted_count == 1

    given_up = in_transaction(db, forget)
    _sweep(db, projection)
    return given_up


def drop_replaced(db: Db, projection: Projection, grace_seconds: float | None = None) -> tuple[int, ...]:
    """Drop the generations that were replaced and kept; which these were.

    `grace_seconds` (default: GRACE_SECONDS) pass before, for readers who have not seen the swap yet. A query
    that has been reading a dropped one for longer fails, and is answered when it is asked again.
    """
    kept = _generations(db, projection.name).kept
    if kept:
        time.sleep(GRACE_SECONDS if grace_seconds is None else grace_seconds)
        db[CHECKPOINTS].update_one(
            {"_id": _generations_id(projection.name)}, {"$pull": {"kept": {"$in": list(kept)}}}
        )
    _sweep(db, projection)
    return kept


@dataclass(frozen=True, slots=True)
class _Generations:
    """The last number that was given to a generation, and those that were replaced and are kept."""

    last: int = 1
    kept: tuple[int, ...] = ()


class _Rebuild:
    """One run of a rebuild."""

    def __init__(
        self,
        db: Db,
        projection: Projection,
        batch: int,
        on_progress: Callable[[RebuildProgress], None] | None,
        archive: ArchivedEvents,
        on_poison: OnPoison,
    ) -> None:
        self._db, self._projection = db, projection
        self._batch, self._archive, self._on_poison = batch, archive, on_poison
        self._tell = on_progress
        self._events = 0

    def run(self, *, swap: bool = True, only_outdated: bool = False) -> Rebuilt | None:
        """`rebuild`; None where the live read model is of this version, and only others are wanted."""
        db, projection = self._db, self._projection
        started = time.monotonic()
        live_slots(db, projection)
        slot = _begin(db, projection, only_outdated)
        if slot is None:
            return None
        self._slot = slot
        _sweep(db, projection)
        make_models(db, projection, self._slot.generation)
        comparisons: tuple[Comparison, ...] = ()
        replaced = None
        try:
            comparisons = self._compared()
            while swap and replaced is None:
                self._fill(None)
                replaced = self._swap()
        except SlotGone as error:
            if not self._is_live():
                raise RebuildAbandoned(
                    f"The rebuild of {projection.name} was given up while it was at work.",
                    f"Start a new one: `ledgerlake rebuild {projection.name}`.",
                ) from error
            # Another runner was faster. What was compared may be gone by now, and has then read as empty.
            swap, comparisons = True, ()
        found = checkpoints.checkpoint(db, projection.name)
        return Rebuilt(
            projection.name,
            found.version if replaced is None else replaced.version,
            projection.version,
            self._slot.generation,
            found.position if swap else self._position(),
            self._events,
            time.monotonic() - started,
            comparisons,
            swap,
            _generations(db, projection.name).kept,
        )

    def _fill(self, up_to: int | None) -> None:
        """Advance the shadow to a position, or to the head."""
        start = self._position()
        pace = _Pace(self._projection.name, FILLING, self._tell, start)
        whole = head(self._db)
        moved = advance(
            self._db,
            self._projection,
            up_to,
            self._batch,
            lambda done, _: pace.at(start + done, max(whole, start + done)),
            self._archive,
            slot=self._slot,
            on_poison=self._on_poison,
        )
        self._events += moved.events

    def _position(self) -> int:
        """Where the shadow stands.

        Raises:
            SlotGone: nowhere any more.
        """
        found = checkpoints.slot_checkpoint(self._db, self._slot)
        if found is None:
            raise SlotGone(f"{self._slot.id} is gone.")
        return found.position

    def _compared(self) -> tuple[Comparison, ...]:
        """Fill the shadow as far as the live read model is, and compare them there; once for a shadow."""
        db, name = self._db, self._projection.name
        for _ in range(_LOOKS):
            self._fill(checkpoints.checkpoint(db, name).position)
            document = db[CHECKPOINTS].find_one({"_id": self._slot.id}) or {}
            if (found := document.get("compared")) is not None:
                return tuple(Comparison.of(each) for each in found)
            try:
                comparisons = self._compare()
            except OperationFailure as error:
                if error.code == _SNAPSHOT_TOO_OLD:
                    raise ProjectionError(
                        f"Comparing {name} took longer than the server keeps a snapshot ({error}).",
                        "Raise minSnapshotHistoryWindowInSeconds on its members, then rebuild again.",
                    ) from error
                if error.code != _SNAPSHOT_UNAVAILABLE:
                    raise
                continue  # collections were made a moment ago
            if comparisons is not None:
                db[CHECKPOINTS].update_one(
                    {"_id": self._slot.id, "generation": self._slot.generation},
                    {"$set": {"compared": [asdict(each) for each in comparisons]}},
                )
                return comparisons
        return ()

    def _compare(self) -> tuple[Comparison, ...] | None:
        """Compare at the position that the live read model has now; None if they do not stand at one."""
        db, projection = self._db, self._projection
        # As of a moment each, while runners go on: the live one's first, then the shadow comes up to it.
        with (
            db.client.start_session(snapshot=True) as then,
            db.client.start_session(snapshot=True) as now,
        ):
            live = checkpoints.slots(db, projection.name, then)
            position = max(found.position for _, found in live)
            if position == 0:
                return ()
            furthest = max(position, self._position())
            if any(found.position != furthest for _, found in live):
                # Workers at different positions, or a shadow that somebody took past a live one at rest.
                if live[0][1].version == projection.version:
                    advance(db, projection, furthest, self._batch, archive=self._archive)
                return None
            self._fill(position)
            found = checkpoints.slot_checkpoint(db, self._slot, now)
            if found is None or found.position != position:
                return None  # another runner has taken the shadow further
            generation = live[0][0].generation
            split = live[0][0].part is not None
            return tuple(
                compare(
                    model,
                    (db[collection_of(model, generation)], then),
                    (db[collection_of(model, self._slot.generation)], now),
                    totals=totals if split else None,
                    on_progress=_Pace(projection.name, COMPARING, self._tell).of(
                        db[collection_of(model, generation)].estimated_document_count()
                    ),
                )
                for model, totals in [
                    (projection.name, None),
                    *((derived.name, derived) for derived in projection.derived),
                ]
            )

    def _swap(self) -> checkpoints.Checkpoint | None:
        """Put the shadow in the place of the live read model; None: not yet, it is to be filled further.

        Raises:
            SlotGone: another runner has swapped it, or somebody gave it up.
            GapError: the live read model is further than the log.
        """
        try:
            return in_transaction(self._db, self._swap_in)
        except (SlotGone, CommitUnknown):
            raise
        except POISON as error:
            # It is of the last events, or there were too many. Whoever fills the shadow with them says so.
            if isinstance(error, GapError) and not self._comes_to(error.up_to):
                raise
            return None

    def _comes_to(self, position: int) -> bool:
        """Wait for the log to reach a position: a transaction sees what does not have a majority yet."""
        deadline, looks = time.monotonic() + GIVE_UP_AFTER_SECONDS, 0
        while head(self._db) < position:
            if time.monotonic() > deadline:
                return False
            looks += 1
            backoff(looks)
        return True

    def _swap_in(self, session: ClientSession) -> checkpoints.Checkpoint | None:
        db, projection, slot = self._db, self._projection, self._slot
        metadata = db[CHECKPOINTS]
        live = checkpoints.slots(db, projection.name, session)
        # Before anything else: from here on, whoever moves one of these collides with this transaction.
        for each, _ in live:
            metadata.update_one({"_id": each.id}, {"$set": {"updatedAt": datetime.now(UTC)}}, session=session)
        furthest = max(found.position for _, found in live)
        filled = checkpoints.slot_checkpoint(db, slot, session)
        if filled is None:
            raise SlotGone(f"{slot.id} is gone.")
        if furthest - filled.position > _LAST_EVENTS:
            return None
        if furthest > filled.position:
            # An inline projection moves with every append: it would always be ahead of whoever only looks.
            aside = run(dead_letters.set_aside(db, slot, filled, session))
            columns = columns_of(projection, slot, aside)
            table = read_columns(db, filled.position, furthest, columns, self._archive)
            last = prepare(projection, slot, table, filled.position, furthest, aside)
            if not run(write(db, projection, slot, last, session)):
                raise SlotGone(f"{slot.id} is gone.")
        new = metadata.find_one_and_delete({"_id": slot.id}, session=session)
        assert new is not None
        new = {name: value for name, value in new.items() if name not in ("_id", "compared")}
        for each, _ in live:
            old = metadata.find_one({"_id": each.id}, session=session) or {}
            kept = {name: old[name] for name in ("parts",) if name in old}
            document = {**new, **kept, "status": LIVE, "updatedAt": datetime.now(UTC)}
            metadata.replace_one({"_id": each.id}, document, session=session)
        run(dead_letters.take_over(db, projection.name, session))
        metadata.update_one(
            {"_id": _generations_id(projection.name)},
            {"$push": {"kept": live[0][0].generation}},
            session=session,
        )
        return live[0][1]

    def _is_live(self) -> bool:
        """Whether the shadow has become the live read model, or has been it."""
        name = self._projection.name

        def generations(session: ClientSession) -> tuple[int, ...]:
            live = checkpoints.checkpoint(self._db, name, session).generation
            return (live, *_generations(self._db, name, session).kept)

        # In a transaction, as the swap looked: what it saw may not have a majority yet. It has by the commit.
        return self._slot.generation in in_transaction(self._db, generations)


class _Pace:
    """Tells how far something is, and how fast."""

    def __init__(
        self, projection: str, phase: str, tell: Callable[[RebuildProgress], None] | None, start: int = 0
    ) -> None:
        self._projection, self._phase, self._tell = projection, phase, tell
        self._seen = deque([(time.monotonic(), start)])

    def at(self, done: int, total: int) -> None:
        now = time.monotonic()
        while len(self._seen) > 1 and now - self._seen[0][0] > _RATE_OVER_SECONDS:
            self._seen.popleft()
        self._seen.append((now, done))
        then, before = self._seen[0]
        rate = (done - before) / (now - then) if now > then and done > before else None
        left = None if rate is None else max(total - done, 0) / rate
        if self._tell is not None:
            self._tell(RebuildProgress(self._projection, self._phase, done, total, rate, left))

    def of(self, total: int) -> Callable[[int], None]:
        """For who knows only how much is done."""
        return lambda done: self.at(done, max(total, done))


def _begin(db: Db, projection: Projection, only_outdated: bool) -> Slot | None:
    """The slot of the shadow: the one there is if it is of this version, else a new one, at position 0.

    None where `only_outdated` and the live read model is of this version.
    """
    metadata, name = db[CHECKPOINTS], projection.name

    def begin(session: ClientSession) -> Slot | None:
        if only_outdated and checkpoints.checkpoint(db, name, session).version == projection.version:
            return None
        found = shadow(db, name, session)
        if found is not None and found.version == projection.version:
            return shadow_slot(name, found.generation)
        if found is not None:
            if found.version > projection.version:
                raise ProjectionOutdated(
                    f"A rebuild of {name} to version {found.version} is under way; "
                    f"this program has version {projection.version}.",
                    "Bring this program up to date, or give that one up: "
                    f"`ledgerlake rebuild {name} --abandon`.",
                )
            metadata.delete_one({"_id": _shadow_id(name)}, session=session)
            db[DEAD_LETTERS].delete_many({"projectionName": _shadow_id(name)}, session=session)
        generation = _generations(db, name, session).last + 1
        metadata.update_one(
            {"_id": _generations_id(name)},
            {"$set": {"projectionName": name, "last": generation}},
            upsert=True,
            session=session,
        )
        slot = shadow_slot(name, generation)
        checkpoints.create(db, projection, slot, session)
        return slot

    while True:
        try:
            return in_transaction(db, begin)
        except DuplicateKeyError:
            pass  # another one has begun it at the same time


def _sweep(db: Db, projection: Projection) -> None:
    """Drop what no checkpoint names: of a rebuild that was given up, of a drop that was cut short."""
    name = projection.name
    # The names first: a generation has its checkpoint before it has a collection.
    models = "|".join(map(re.escape, projection.models))
    found = db.list_collection_names(filter={"name": {"$regex": rf"^({models})(__\d+)?$"}})
    with db.client.start_session(snapshot=True) as session:
        live = {slot.generation for slot, _ in checkpoints.slots(db, name, session)}
        filled = shadow(db, name, session)
        kept = _generations(db, name, session).kept
    wanted = {*(live or {1}), *kept, *(() if filled is None else (filled.generation,))}
    names = {collection_of(model, generation) for model in projection.models for generation in wanted}
    for each in found:
        if each not in names:
            db.drop_collection(each)


def _generations(db: Db, name: str, session: ClientSession | None = None) -> _Generations:
    found: Mapping[str, Any] = db[CHECKPOINTS].find_one({"_id": _generations_id(name)}, session=session) or {}
    return _Generations(int(found.get("last", 1)), tuple(int(each) for each in found.get("kept", ())))


def _shadow_id(name: str) -> str:
    return shadow_slot(name, 0).id


def _generations_id(name: str) -> str:
    return f"{name}#generations"
