"""Live: what is derived from the log is kept at its head, by one thread a part, until it is told to end.

A part is brought up to the head by the same call that a refresh makes, again and again: woken by a change
stream, or by the clock where there is none. A part that fails is tried again after a pause that grows, and
holds up no other. Nothing is kept here that matters: what a part has taken, its own checkpoint says. So any
number of runners may follow one log, and one that is killed is just started again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from pymongo.database import Database
from pymongo.errors import PyMongoError

from ledgerlake.eventstore.columnar import head
from ledgerlake.subscriptions.waking import LogWatch

log = logging.getLogger(__name__)

# Called with events done and events to do, after every batch.
OnProgress: TypeAlias = Callable[[int, int], None]

# Least time between two looks of a part, while events keep coming: each look costs 10 to 90 ms of
# processor, whatever it finds. An event that comes after a pause is taken at once.
BEAT_SECONDS: Final = 0.25
# A part that is at the head is looked at so often all the same: its checkpoint may have been moved by others.
IDLE_BEATS: Final = 30
# Pauses after failures: doubled from the first one up to the longest. A server that is away comes back in
# seconds; an event that can not be taken waits for somebody who mends it.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE_AWAY: Final = 5.0
LONGEST_PAUSE: Final = 60.0


class Ended(Exception):
    """Raised out of a part's progress to end it after the batch in hand."""


@dataclass(frozen=True, slots=True)
class Part:
    """A thing to keep at the head: `bring_up` does so once, and may be repeated or killed at any moment.

    Attributes:
        bring_up: gives the position that it has come to; it calls what it is given after every batch, and
            lets pass on what that raises.
        beat: least seconds between two starts.
    """

    name: str
    bring_up: Callable[[OnProgress], int]
    beat: float = BEAT_SECONDS


class LiveRunner:
    """Keeps parts at the head of the log of `db`. A context manager: it runs until that is left.

    Without `change_streams`, or where the server refuses them, it looks four times a second.
    """

    def __init__(
        self, db: Database[dict[str, Any]], parts: Sequence[Part], *, change_streams: bool = True
    ) -> None:
        self._db = db
        self._watch = LogWatch(db if change_streams else None)
        self._closed = False
        # Re-entrant, as a condition is by default: a signal handler closes in the midst of a wait.
        self._ending = threading.Condition()
        self._failing: dict[str, str] = {}
        self._untried = {part.name for part in parts}
        self._threads = [
            threading.Thread(target=self._keep, args=[part], name=f"live-{part.name}", daemon=True)
            for part in parts
        ]

    @property
    def failing(self) -> Mapping[str, str]:
        """The parts whose last try failed, each with the error; they are tried again."""
        return dict(self._failing)

    @property
    def tried(self) -> bool:
        """Whether every part has been brought up once, or has failed to be: only then is `failing` whole."""
        return not self._untried

    def wait(self, seconds: float) -> bool:
        """For so many seconds, or until it is closed; whether it still runs."""
        with self._ending:
            return not self._ending.wait_for(self._is_closed, seconds)

    def close(self) -> None:
        """Make every part end after the batch in hand, without waiting. Also from a signal handler."""
        with self._ending:
            self._closed = True
            self._ending.notify_all()
        self._watch.wake()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for thread in self._threads:
            thread.join()
        self._watch.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _progress(self, done: int, total: int) -> None:
        if self._closed and done < total:
            raise Ended

    def _keep(self, part: Part) -> None:
        reached = -1
        looked = 0.0
        failures = 0
        while not self._closed:
            started = time.monotonic()
            # Counted before the head is read: a change from here on ends the wait at once.
            seen = self._watch.seen()
            try:
                if head(self._db) != reached or started - looked >= IDLE_BEATS * part.beat:
                    reached = part.bring_up(self._progress)
                    looked = started
                self._untried.discard(part.name)
                if failures:
                    failures = 0
                    self._failing.pop(part.name, None)
                    log.info("%s goes on.", part.name, extra={"projection": part.name})
                self._watch.wait(seen, self._is_closed)
                self.wait(started + part.beat - time.monotonic())
            except Ended:
                return
            # Whatever it is, a service goes on and says so. A panic of Polars is no Exception.
            except BaseException as error:  # noqa: BLE001
                reached = -1
                failures += 1
                self._failed(part, error, failures)

    def _failed(self, part: Part, error: BaseException, failures: int) -> None:
        if part.name not in self._failing:
            log.warning(
                "%s can not be brought up to the head (%s), and is tried again.",
                part.name,
                type(error).__name__,
                exc_info=error,
                extra={"projection": part.name},
            )
        self._failing[part.name] = f"{type(error).__name__}: {error}"
        self._untried.discard(part.name)
        longest = LONGEST_PAUSE_AWAY if isinstance(error, PyMongoError) else LONGEST_PAUSE
        self.wait(min(longest, FIRST_PAUSE * 2 ** min(failures - 1, 10)))
