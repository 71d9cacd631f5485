"""Waking those who wait for the log to grow: a change stream where there is one, and always a clock.

A wake-up is a hint to look, never the source of an event or of a position. So whatever happens to the change
stream (refused, killed, lost with its server, resumed too late), a subscription is at worst slower: it looks
by itself every `poll_seconds`, and with a change stream at work every `idle_seconds`.

What is watched is the log's counter, which changes once per batch, not the events, of which a batch has up
to 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from pymongo.errors import InvalidOperation, PyMongoError

from ledgerlake.mongo.indexes import COUNTERS, EVENTS
from ledgerlake.mongo.steps import Steps, run, run_async

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
IDLE_SECONDS: Final = 5.0

# How long the server holds back an empty reply: so late does a watch notice that it was closed.
_AWAIT_MS: Final = 1_000
_LONGEST_PAUSE: Final = 30.0
_CHANGES_OF_THE_COUNTER: Final = [{"$match": {"documentKey._id": EVENTS}}, {"$project": {"_id": 1}}]


class Waking(Protocol):
    """What a subscription waits by. `wait` and `pause` are coroutines where the driver is asyncio's."""

    def seen(self) -> int:
        """The changes counted so far. Ask before reading the log: what comes later ends a `wait` for it."""
        ...

    def wait(self, seen: int, given_up: Callable[[], bool], at_most: float | None = None) -> Any:
        """Until there was a change after `seen`, or `given_up()`, or a while has passed."""
        ...

    def pause(self, seconds: float, given_up: Callable[[], bool]) -> Any:
        """For so many seconds, or until `given_up()`."""
        ...

    def wake(self) -> None:
        """Make all who wait look whether they have given up."""
        ...


class _Watch:
    """What the watches of both drivers share: the count of changes, and how the change stream is kept up."""

    def __init__(
        self, database: Any | None, poll_seconds: float = POLL_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._counters: Any = None if database is None else database[COUNTERS]
        self._poll = poll_seconds
        self._idle = idle_seconds
        self._changes = 0
        self._closed = False
        self.watching = False

    def seen(self) -> int:
        return self._changes

    def _longest(self, at_most: float | None) -> float:
        own = self._idle if self.watching else self._poll
        return own if at_most is None else min(own, at_most)

    def _changed(self, watching: bool) -> None:
        raise NotImplementedError

    def _sleep(self, seconds: float) -> Any:
        raise NotImplementedError

    def _follow(self) -> Steps[None]:
        failures = 0
        while not self._closed:
            try:
                stream = yield self._counters.watch(_CHANGES_OF_THE_COUNTER, max_await_time_ms=_AWAIT_MS)
                try:
                    # Counts as a change: what was committed before the stream was open is not in it.
                    self._changed(watching=True)
                    while not self._closed and stream.alive:
                        change = yield stream.try_next()
                        failures = 0
                        if change is not None:
                            self._changed(watching=True)
                finally:
                    yield stream.close()
            except InvalidOperation:
                return  # the client was closed
            except PyMongoError as error:
                if failures == 0:
                    log.warning(
                        "No change stream, so the log is polled (%s: %s).", type(error).__name__, error
                    )
            finally:
                self._changed(watching=False)
            failures += 1
            yield self._sleep(min(_LONGEST_PAUSE, 0.25 * 2 ** min(failures, 10)))


class LogWatch(_Watch):
    """Wakes threads. One serves any number of subscriptions; its own thread starts with the first wait.

    Without a database there is no change stream: those who wait are woken by the clock.
    """

    def __init__(
        self, database: Any | None, poll_seconds: float = POLL_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        super().__init__(database, poll_seconds, idle_seconds)
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def wait(self, seen: int, given_up: Callable[[], bool], at_most: float | None = None) -> None:
        with self._condition:
            if self._thread is None and self._counters is not None and not self._closed:
                self._thread = threading.Thread(
                    target=lambda: run(self._follow()), name="ledgerlake-log-watch", daemon=True
                )
                self._thread.start()
            self._condition.wait_for(lambda: self._changes != seen or given_up(), self._longest(at_most))

    def pause(self, seconds: float, given_up: Callable[[], bool]) -> None:
        with self._condition:
            self._condition.wait_for(given_up, seconds)

    def wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """Let go of the change stream. Who still waits by this watch goes on by the clock."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _changed(self, watching: bool) -> None:
        with self._condition:
            self._changes += 1
            self.watching = watching
            self._condition.notify_all()

    def _sleep(self, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._closed, seconds)


class AsyncLogWatch(_Watch):
    """The same for the tasks of one event loop."""

    def __init__(
        self, database: Any | None, poll_seconds: float = POLL_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        super().__init__(database, poll_seconds, idle_seconds)
        self._signal = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, seen: int, given_up: Callable[[], bool], at_most: float | None = None) -> None:
        if self._task is None and self._counters is not None and not self._closed:
            self._task = asyncio.create_task(run_async(self._follow()))
        await self._until(lambda: self._changes != seen or given_up(), self._longest(at_most))

    async def pause(self, seconds: float, given_up: Callable[[], bool]) -> None:
        await self._until(given_up, seconds)

    def wake(self) -> None:
        self._signal.set()
        self._signal = asyncio.Event()

    async def close(self) -> None:
        """Let go of the change stream. Who still waits by this watch goes on by the clock."""
        self._closed = True
        self.wake()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _until(self, reached: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not reached():
                    await self._signal.wait()

    def _changed(self, watching: bool) -> None:
        self._changes += 1
        self.watching = watching
        self.wake()

    def _sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(seconds)
