"""Group commit for asyncio: one task per store that turns concurrent appends into few transactions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bson.raw_bson import RawBSONDocument

from ledgerlake.eventstore.batching import (
    CLOSED_UNCONFIRMED,
    Intake,
    Ticket,
    check_request,
    commit_batch,
    total_size,
    unconfirmed,
)
from ledgerlake.eventstore.encoding import encode
from ledgerlake.eventstore.model import EventStoreError, Outcome, StoreUnavailable, WriteRequest
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.steps import run_async

log = logging.getLogger(__name__)


class AsyncRequest:
    """What one writer hands over, encoded, and where the outcomes will be."""

    __slots__ = ("_future", "encoded", "size", "write")

    def __init__(self, write: WriteRequest) -> None:
        self.write = write
        self.encoded: Sequence[Sequence[bytes]] = [encode(append) for append in write.appends]
        self.size = total_size(self.encoded)
        self._future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

    @property
    def given_up(self) -> bool:
        return self._future.cancelled()

    def settle(self, outcomes: list[Outcome]) -> None:
        if not self._future.done():
            self._future.set_result(outcomes)

    def fail(self, error: BaseException) -> None:
        if not self._future.done():
            if isinstance(error, asyncio.CancelledError):
                error = _cut_off()
            self._future.set_exception(error)
            # Its writer may have been cancelled between the handing over and the waiting.
            self._future.exception()

    async def wait(self) -> list[Outcome]:
        """The outcomes, as soon as they are known; raises what the request as a whole met.

        Cancelled before its batch has begun, the request does not happen; afterwards it may.
        """
        return await self._future

    def give_up(self) -> None:
        self._future.cancel()


class AsyncGroupCommitter:
    """Takes requests from the tasks of one event loop and commits them in arrival order.

    The rules are those of GroupCommitter.
    """

    def __init__(
        self,
        transaction: AppendTransaction,
        *,
        max_appends: int,
        linger: float,
        on_committed: Callable[[list[RawBSONDocument]], None],
    ) -> None:
        self._transaction = transaction
        self._max_appends = max_appends
        self._linger = linger
        self._on_committed = on_committed
        self._intake: Intake[AsyncRequest] = Intake(max_appends)
        self._arrived = asyncio.Event()
        self._waiting: list[tuple[Ticket, asyncio.Future[None]]] = []
        self._want = 1
        self._closing = False
        self._ended = "The event store is closed."
        self._task: asyncio.Task[None] | None = None

    async def submit(self, write: WriteRequest) -> AsyncRequest:
        """Queue what one writer hands over, and wait while there is too much ahead of it.

        Raises as GroupCommitter.submit does.
        """
        check_request(write, self._max_appends)
        request = AsyncRequest(write)
        if not write.appends and write.checkpoint is None:
            request.settle([])
            return request
        if self._closing:
            raise EventStoreError(self._ended, "Open it again to append.")
        if self._task is None:
            self._task = asyncio.create_task(self._serve(), name="ledgerlake-committer")
        ticket = self._intake.put(request)
        if len(self._intake) >= self._want:
            self._arrived.set()
        if not self._intake.admits(ticket):
            admitted = asyncio.get_running_loop().create_future()
            self._waiting.append((ticket, admitted))
            try:
                await admitted
            except asyncio.CancelledError:
                request.give_up()
                raise
        return request

    async def close(self) -> None:
        """Commit what is queued, then end the task, as GroupCommitter.close does."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await run_async(self._transaction.close())

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        batch: list[AsyncRequest] = []
        error = unconfirmed(CLOSED_UNCONFIRMED)
        try:
            # A cancellation inside of a batch is told to its writers, and then ends the task.
            while not task.cancelling() and (batch := await self._next_batch(len(batch))):
                confirmed = await run_async(commit_batch(self._transaction, batch, self._on_committed))
                if self._closing and not confirmed:
                    break
            if task.cancelling():
                error = _cut_off()
        except Exception as died:
            log.critical("The event store's committer has ended by an error.", exc_info=True)
            self._ended = f"The event store has ended by an error ({type(died).__name__}: {died})."
            error = unconfirmed(self._ended)
        except BaseException:
            error = _cut_off()
            raise
        finally:
            self._closing = True
            while queued := self._intake.take():
                batch = [*batch, *queued]
            for request in batch:
                request.fail(error)
            self._admit()

    async def _next_batch(self, writers: int) -> list[AsyncRequest]:
        while True:
            while not self._intake and not self._closing:
                await self._arrivals(1)
            if self._linger and writers > 1 and len(self._intake) < writers and not self._closing:
                try:
                    async with asyncio.timeout(self._linger):
                        while len(self._intake) < writers and not self._closing:
                            await self._arrivals(writers)
                except TimeoutError:
                    pass
            batch = self._intake.take()
            self._admit()
            # All that was queued may have been given up.
            if batch or self._closing:
                return batch

    def _admit(self) -> None:
        for ticket, admitted in self._waiting:
            if self._intake.admits(ticket) and not admitted.done():
                admitted.set_result(None)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]

    async def _arrivals(self, want: int) -> None:
        self._want = want
        self._arrived.clear()
        await self._arrived.wait()
        self._want = 1


def _cut_off() -> StoreUnavailable:
    return unconfirmed("The event loop ended before the append was confirmed.")
