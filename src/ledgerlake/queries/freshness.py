"""How far the live projections are: read in one find, and trusted for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
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
        self._news = threading.Condition()
        self._moved = object()
        self._reading: Reading | None = None

    def reading(self) -> Reading:
        """The standings, read not longer ago than they are trusted."""
        reading, now = self._reading, time.monotonic()
        if reading is not None and reading.moved is self._moved and now - reading.started <= self._trusted:
            return reading
        return self._read(now - self._trusted)

    def now(self) -> Reading:
        """The standings, read after this call began."""
        return self._read(time.monotonic())

    def noted(self) -> None:
        """To be called after this process has moved a read model: the next query looks anew."""
        self._moved = object()
        with self._news:
            self._news.notify_all()

    def wait_for(self, projections: Sequence[str], position: int, timeout: float) -> None:
        """Wait until all of the projections hold every event up to `position`.

        Raises:
            NotYet: they do not after `timeout` seconds; says where the last one stands.
        """
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE_SECONDS

        def behind(reading: Reading) -> list[str]:
            return [name for name in projections if reading.of(name).position < position]

        if not behind(self.reading()):
            return
        reading = self.now()
        while late := behind(reading):
            left = deadline - time.monotonic()
            if left <= 0:
                last = min(late, key=lambda name: reading.of(name).position)
                raise _not_yet(last, reading.of(last), position)
            with self._news:
                self._news.wait(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            reading = self.now()

    def _read(self, since: float) -> Reading:
        with self._lock:
            reading = self._reading
            # Whoever waited for the lock takes what another has read meanwhile, if that began late enough.
            if reading is not None and reading.moved is self._moved and reading.started >= since:
                return reading
            moved, started = self._moved, time.monotonic()
            before = None if reading is None else reading.operation_time
            with self._db.client.start_session(causal_consistency=True) as session:
                if before is not None:
                    session.advance_operation_time(before)
                found = list(self._checkpoints.find({}, session=session).hint("_id_"))
                at = session.operation_time
            live = [document for document in found if "#" not in document["_id"]]
            primary = self._db.client.primary
            self._reading = Reading(
                self._db, live_checkpoints(live), _stamps(live), started, moved, at, primary
            )
            return self._reading


def _stamps(documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for document in documents:
        name, own = document["projectionName"], [str(document.get(field, "")) for field in _STAMPED]
        found[name] = ",".join([found.get(name, ""), *own])
    return found


def _not_yet(name: str, at: Checkpoint, wanted: int) -> NotYet:
    why = None if at.last_error is None else f"It is {at.status}: {at.last_error}"
    return NotYet(name, at.position, wanted, why)
