"""How far the live projections are: read in one find, and trusted for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from bson import Timestamp
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.projections.checkpoints import Checkpoint, collection_of, live_checkpoints

Db = Database[dict[str, Any]]

_FIRST_PAUSE_SECONDS: Final = 0.002
_LONGEST_PAUSE_SECONDS: Final = 0.05
# Also who has no time at all is told where a server stands that answers.
_LEAST_PATIENCE_SECONDS: Final = 1.0
# What of a checkpoint changes with its read model. The id of the last event tells the logs of two databases
# of one name apart; dead letters that are retried change a read model where it stands.
_STAMPED: Final = (
    "_id",
    "generation",
    "version",
    "position",
    "lastProcessedEventId",
    "setAside",
    "updatedAt",
)


class NotYet(LedgerLakeError):
    """A projection has not come to the position that was waited for.

    `projection` is the one that is behind most (or "the log"), `position` where it stands, `wanted` where
    it should be.
    """

    def __init__(self, projection: str, position: int, wanted: int, why: str | None = None) -> None:
        super().__init__(
            f"{projection} stands at position {position}, and position {wanted} was waited for.",
            why or "Is anything refreshing it (`ledgerlake refresh --follow`)? Or wait longer.",
        )
        self.projection = projection
        self.position = position
        self.wanted = wanted


_NEVER_RUN: Final = Checkpoint()


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The checkpoints of all live projections at one moment.

    Attributes:
        started: when it was asked for, on the clock of time.monotonic().
        moved: what `Freshness.noted` had left then.
        operation_time: the moment on the server's clock.
        primary: the server that gave it; None where any may answer.
    """

    db: Db
    checkpoints: Mapping[str, Checkpoint]
    stamps: Mapping[str, str]
    started: float
    moved: object
    operation_time: Timestamp | None
    primary: tuple[str, int] | None
    _joined: dict[tuple[str, ...], str] = field(default_factory=dict)
    _models: dict[str, Collection[dict[str, Any]]] = field(default_factory=dict)

    def of(self, projection: str) -> Checkpoint:
        """The live checkpoint of a projection; at position 0 for one that has never run."""
        return self.checkpoints.get(projection, _NEVER_RUN)

    def stamp(self, projections: tuple[str, ...]) -> str:
        """A text that is another one after every change of one of these projections' read models."""
        joined = self._joined.get(projections)
        if joined is None:
            joined = "|".join(self.stamps.get(name, "") for name in projections)
            self._joined[projections] = joined
        return joined

    def same_models(self, other: Reading, projections: Iterable[str]) -> bool:
        """Whether both saw the same collections live, on the same server.

        Then what was read in between was read from live read models, of a moment not before the first.
        """
        return self.primary == other.primary and all(
            self.of(name).generation == other.of(name).generation for name in projections
        )

    def model(self, projection: str) -> Collection[dict[str, Any]]:
        """The collection of a projection that was live at that moment."""
        found = self._models.get(projection)
        if found is None:
            found = self.db[collection_of(projection, self.of(projection).generation)]
            self._models[projection] = found
        return found

    def session(self) -> AbstractContextManager[ClientSession]:
        """A session that sees what this reading has seen, also on a server that has become primary since."""
        session = self.db.client.start_session(causal_consistency=True)
        if self.operation_time is not None:
            session.advance_operation_time(self.operation_time)
        return session


class Freshness:
    """The board that says how fresh every read model is. For any number of threads.

    Args:
        trusted_seconds: how long a reading of the checkpoints is good for; 0: each is read anew. What
            another process projects is seen that much later, what this one does (`noted`) at once.
    """

    def __init__(self, db: Db, trusted_seconds: float = 0.0) -> None:
        # By index, and all of one moment: a rebuilt or split projection changes several documents at once.
        self._checkpoints = db[CHECKPOINTS].with_options(read_concern=ReadConcern("snapshot"))
        self._db = db
        self._trusted = trusted_seconds
        self._lock = threading.Lock()
        self._under_way: _Look | None = None
        self._news = threading.Condition()
        self._moved = object()
        self._reading: Reading | None = None

    def reading(self, timeout: float | None = None) -> Reading:
        """The standings, read not longer ago than they are trusted. TimeoutError where others take longer."""
        reading = self.trusted()
        return self._read(time.monotonic() - self._trusted, timeout) if reading is None else reading

    def trusted(self) -> Reading | None:
        """The standings, where they were read so lately that they are still trusted. Never waits."""
        reading = self._reading
        if (
            reading is not None
            and reading.moved is self._moved
            and time.monotonic() - reading.started <= self._trusted
        ):
            return reading
        return None

    def now(self, timeout: float | None = None) -> Reading:
        """The standings, read after this call began. TimeoutError where others take longer."""
        return self._read(time.monotonic(), timeout)

    def noted(self) -> None:
        """To be called after this process has moved a read model: the next query looks anew."""
        self._moved = object()
        with self._news:
            self._news.notify_all()

    def wait_for(self, projections: Sequence[str], position: int, timeout: float) -> None:
        """Wait until all of the projections hold every event up to `position`.

        Raises:
            NotYet: they do not after `timeout` seconds, or the server has not answered (it gets a second
                at least); says where the last one stands.
        """
        deadline = time.monotonic() + timeout

        def behind(reading: Reading) -> list[str]:
            return [name for name in projections if reading.of(name).position < position]

        def patience() -> float:
            return max(deadline - time.monotonic(), _LEAST_PATIENCE_SECONDS)

        try:
            self._await(behind, patience, deadline, position)
        except TimeoutError:
            known = self._reading
            at = {name: 0 if known is None else known.of(name).position for name in projections}
            last = min(projections, key=lambda name: at[name])
            raise NotYet(
                last, at[last], position, "MongoDB has not answered in time. See that it runs."
            ) from None

    def _await(
        self,
        behind: Callable[[Reading], list[str]],
        patience: Callable[[], float],
        deadline: float,
        position: int,
    ) -> None:
        pause = _FIRST_PAUSE_SECONDS
        if not behind(self.reading(patience())):
            return
        reading = self.now(patience())
        while late := behind(reading):
            left = deadline - time.monotonic()
            if left <= 0:
                last = min(late, key=lambda name: reading.of(name).position)
                raise _not_yet(last, reading.of(last), position)
            with self._news:
                self._news.wait(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            reading = self.now(patience())

    def _read(self, since: float, timeout: float | None) -> Reading:
        """A reading that began at `since` or later: the last one, the one under way, or a new one.

        Whoever waits for one takes what it comes to, an error too: while the server is away, they would
        otherwise wait for it one after the other.
        """
        asked = time.monotonic()
        deadline = None if timeout is None else asked + timeout

        def serves(one: Reading | _Look) -> bool:
            # One that began after this call has seen all that was noted before it.
            return one.started >= asked or (one.started >= since and one.moved is self._moved)

        while True:
            with self._lock:
                last, look = self._reading, self._under_way
                if last is not None and serves(last):
                    return last
                if own := look is None:
                    moved = self._moved
                    look = self._under_way = _Look(time.monotonic(), moved)
            assert look is not None
            if own and deadline is None:
                self._look(look, last)
            elif own:
                # Only so can the wait for a server that is away be shorter than the driver's own.
                threading.Thread(target=self._look, args=[look, last], daemon=True).start()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            error = look.outcome.exception(timeout=left)
            # Another's interrupt is not ours.
            if own or (serves(look) and (error is None or isinstance(error, Exception))):
                return look.outcome.result()

    def _look(self, look: _Look, last: Reading | None) -> None:
        try:
            with self._db.client.start_session(causal_consistency=True) as session:
                if last is not None and last.operation_time is not None:
                    session.advance_operation_time(last.operation_time)
                found = list(self._checkpoints.find({}, session=session).hint("_id_"))
                at = session.operation_time
            live = [document for document in found if "#" not in document["_id"]]
            primary = self._db.client.primary
            reading = Reading(
                self._db, live_checkpoints(live), _stamps(live), look.started, look.moved, at, primary
            )
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            with self._lock:
                self._under_way = None
            look.outcome.set_exception(error)
        else:
            with self._lock:
                self._reading, self._under_way = reading, None
            look.outcome.set_result(reading)


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A reading under way: when it began, what had been noted by then, and what it comes to."""

    started: float
    moved: object
    outcome: Future[Reading] = field(default_factory=Future)


def _stamps(documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for document in documents:
        name, own = document["projectionName"], [str(document.get(field, "")) for field in _STAMPED]
        found[name] = ",".join([found.get(name, ""), *own])
    return found


def _not_yet(name: str, at: Checkpoint, wanted: int) -> NotYet:
    why = None if at.last_error is None else f"It is {at.status}: {at.last_error}"
    return NotYet(name, at.position, wanted, why)
