"""Group commit: one thread per process that turns concurrent appends into few transactions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from bson.raw_bson import RawBSONDocument

from ledgerlake.eventstore.batching import (
    CLOSED_UNCONFIRMED,
    Intake,
    check_request,
    commit_batch,
    total_size,
    unconfirmed,
)
from ledgerlake.eventstore.encoding import encode
from ledgerlake.eventstore.model import EventStoreError, Outcome, WriteRequest
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.steps import run

log = logging.getLogger(__name__)


class Request:
    """What one writer hands over, encoded on its own thread, and where the outcomes will be."""

    __slots__ = ("_settled", "_told", "encoded", "error", "outcomes", "size", "write")

    given_up = False

    def __init__(self, write: WriteRequest) -> None:
        self.write = write
        self.encoded: Sequence[Sequence[bytes]] = [encode(append) for append in write.appends]
        self.size = total_size(self.encoded)
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None
        self._told = False
        # A bare lock wakes its one waiter at a fraction of the cost of an Event or a Future.
        self._settled = threading.Lock()
        self._settled.acquire()

    def settle(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self._told = True
        self._settled.release()

    def fail(self, error: BaseException) -> None:
        """Tell the writer of an error; one that was told something already is not told again."""
        if not self._told:
            self.error = error
            self._told = True
            self._settled.release()

    def wait(self) -> list[Outcome]:
        """The outcomes, as soon as they are known; raises what the request as a whole met."""
        with self._settled:
            if self.error is not None:
                raise self.error
            return self.outcomes


class GroupCommitter:
    """Takes requests from any thread and commits them in arrival order.

    While one batch commits, the next one gathers; if the last batch served several writers, the committer
    waits up to `linger` seconds for as many to come back, since they were all woken at the same moment.
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
        self._intake: Intake[Request] = Intake(max_appends)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._want = 1
        self._closing = False
        self._ended = "The event store is closed."
        self._thread = threading.Thread(target=self._serve, name="ledgerlake-committer", daemon=True)
        self._thread.start()

    def submit(self, write: WriteRequest) -> Request:
        """Queue what one writer hands over, and wait while there is too much ahead of it.

        Raises:
            ValueError: more appends than one batch may hold, or one without events.
            EventTooLarge: an event, or all of them together, are more than the store takes.
            EventStoreError: the store is closed, or its committer has ended by an error.
        """
        check_request(write, self._max_appends)
        request = Request(write)
        if not write.appends and write.checkpoint is None:
            request.settle([])
            return request
        with self._lock:
            if self._closing:
                raise EventStoreError(self._ended, "Open it again to append.")
            ticket = self._intake.put(request)
            if len(self._intake) >= self._want:
                self._arrived.notify()
            while not self._intake.admits(ticket):
                self._drained.wait()
        return request

    def close(self) -> None:
        """Commit what is queued, then end the thread.

        Where MongoDB does not confirm a batch within its time limit, no other one is tried: what is still
        queued then is failed.
        """
        with self._lock:
            self._closing = True
            self._arrived.notify()
        self._thread.join()
        run(self._transaction.close())

    def _serve(self) -> None:
        batch: list[Request] = []
        why = CLOSED_UNCONFIRMED
        try:
            while batch := self._next_batch(len(batch)):
                confirmed = run(commit_batch(self._transaction, batch, self._on_committed))
                if self._closing and not confirmed:
                    break
        except BaseException as error:
            log.critical("The event store's committer has ended by an error.", exc_info=True)
            why = self._ended = f"The event store has ended by an error ({type(error).__name__}: {error})."
        self._fail_rest(batch, unconfirmed(why))

    def _fail_rest(self, batch: list[Request], error: EventStoreError) -> None:
        """Take nothing more, and fail what nobody has been told of."""
        with self._lock:
            self._closing = True
            while queued := self._intake.take():
                batch = [*batch, *queued]
            self._drained.notify_all()
        for request in batch:
            request.fail(error)

    def _next_batch(self, writers: int) -> list[Request]:
        with self._lock:
            while not self._intake and not self._closing:
                self._want = 1
                self._arrived.wait()
            if self._linger and writers > 1:
                until = time.monotonic() + self._linger
                self._want = writers
                while len(self._intake) < writers and not self._closing:
                    left = until - time.monotonic()
                    if left <= 0 or not self._arrived.wait(left):
                        break
                self._want = 1
            batch = self._intake.take()
            self._drained.notify_all()
            return batch
