"""Work off the event loop: reading on threads, and commands of many requests in batches, both bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from pymongo import MongoClient

from ledgerlake.commands.bus import UNAVAILABLE, CommandBus
from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.privacy.keys import KeysUnavailable
from ledgerlake.web.problems import busy, unavailable

R = TypeVar("R")
Client: TypeAlias = MongoClient[dict[str, Any]]

_THREADS: Final = 16
_MOST_READS: Final = 256
_LARGEST_BATCH: Final = 100
_MOST_COMMANDS: Final = 400
# How long the senders of the last batch are waited for: answered together they come back together, and the
# first of them would go alone. To read and answer 64 requests takes about as long.
_COMPANY_SECONDS: Final = 0.02


def available(client: Client) -> bool:
    """Whether the database is there, as the driver has seen last; asks nobody."""
    return client.topology_description.has_writable_server()


class Reading:
    """Threads for what blocks, and a bounded queue in front of them."""

    def __init__(self, client: Client, threads: int = _THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, "ledgerlake-read")
        self._client = client
        self._taken = 0

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call it on a thread.

        Raises:
            Problem: 429 too much waits for a thread; 503 the database is away.
        """
        if not available(self._client):
            raise unavailable()
        if self._taken >= _MOST_READS:
            raise busy("too_busy", "The server has more to read than it takes on.")
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        future.add_done_callback(self._left)
        return await future

    def _left(self, _: object) -> None:
        self._taken -= 1

    def close(self) -> None:
        """Finish what is under way."""
        self._pool.shutdown()


_Waiting: TypeAlias = "tuple[PaymentCommand, asyncio.Future[CommandResult]]"


class Writing:
    """Commands on their way to the bus: those that came while others were carried out go as one batch.

    A thread for each command would cost as much again as the command itself.
    """

    def __init__(self, bus: Callable[[], CommandBus], largest_batch: int, client: Client) -> None:
        self._bus = bus
        self._largest = min(largest_batch, _LARGEST_BATCH)
        self._pool = ThreadPoolExecutor(1, "ledgerlake-command")
        self._client = client
        self._waiting: deque[_Waiting] = deque()
        self._sent = False
        self._last = 1
        self._due: asyncio.Handle | None = None

    async def dispatch(self, command: PaymentCommand) -> CommandResult:
        """Have a command carried out.

        Raises what `CommandBus.dispatch` raises, and

        Raises:
            Problem: 429 too many wait already; 503 the database is away.
        """
        if not available(self._client):
            raise unavailable()
        if len(self._waiting) >= _MOST_COMMANDS:
            raise busy("too_busy", "The server has more commands than it takes on.")
        future: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        self._expect()
        return await future

    @property
    def waiting(self) -> int:
        """Commands that no thread has taken."""
        return len(self._waiting)

    def _expect(self) -> None:
        """Have the next batch sent: as soon as it is as large as the last one, or when nobody else comes."""
        if self._sent or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= self._last:
            if self._due is not None:
                self._due.cancel()
            # After the other requests that are there to be read now.
            self._due = loop.call_soon(self._send)
        elif self._due is None:
            self._due = loop.call_later(_COMPANY_SECONDS, self._send)

    def _send(self) -> None:
        self._due = None
        # One batch at a time: of several at once each would be smaller, and none would be sooner.
        if self._sent or not self._waiting:
            return
        self._sent = True
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._largest))]
        self._last = len(batch)
        commands = [command for command, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            sent = loop.run_in_executor(self._pool, _carry_out, self._bus, commands)
        except RuntimeError:  # `close` was called: nothing more is carried out
            self._sent = False
            self._refuse([*batch, *self._waiting])
            self._waiting.clear()
            return
        sent.add_done_callback(partial(self._settle, batch))

    def _settle(self, batch: Sequence[_Waiting], sent: asyncio.Future[list[_Outcome]]) -> None:
        self._sent = False
        for (_, future), outcome in zip(batch, sent.result(), strict=True):
            if future.done():
                continue
            if isinstance(outcome, CommandResult):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
        self._expect()

    @staticmethod
    def _refuse(waiting: Sequence[_Waiting]) -> None:
        for _, future in waiting:
            if not future.done():
                future.set_exception(unavailable("The server ends, and has not carried this out."))

    def close(self) -> None:
        """Finish the batch that is under way; what waits behind it is told 503."""
        self._pool.shutdown()


_Outcome: TypeAlias = CommandOutcome | Exception


def _carry_out(bus: Callable[[], CommandBus], commands: Sequence[PaymentCommand]) -> list[_Outcome]:
    try:
        return list(bus().dispatch_batch(commands))
    except (*UNAVAILABLE, KeysUnavailable) as error:
        return [error] * len(commands)
    except Exception as error:  # noqa: BLE001 - each request hears of it
        if len(commands) == 1:
            return [error]
        # It may be about one of them only.
        return [outcome for command in commands for outcome in _carry_out(bus, [command])]
