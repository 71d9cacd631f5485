"""Group commit: one thread per process that turns concurrent appends into few transactions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError

from ledgerlake.eventstore.encoding import encode
from ledgerlake.eventstore.model import Append, EventStoreError, Outcome
from ledgerlake.eventstore.transaction import AppendTransaction

MAX_BATCH_BYTES = 2_000_000
MAX_QUEUED_APPENDS = 10_000


class Request:
    """The appends of one writer, encoded on its own thread, and where their outcomes will be."""

    __slots__ = ("_settled", "appends", "encoded", "error", "outcomes", "size")

    def __init__(self, appends: Sequence[Append]) -> None:
        self.appends = appends
        self.encoded = [encode(append) for append in appends]
        self.size = sum([len(document) for documents in self.encoded for document in documents])
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None
        # A bare lock wakes its one waiter at a fraction of the cost of an Event or a Future.
        self._settled = threading.Lock()
        self._settled.acquire()

    def settle(self, outcomes: list[Outcome] | None, error: BaseException | None = None) -> None:
        self.outcomes = outcomes or []
        self.error = error
        self._settled.release()

    def wait(self) -> list[Outcome]:
        with self._settled:
            if self.error is not None:
                raise self.error
            return self.outcomes


class GroupCommitter:
    """Takes appends from any thread and commits them in arrival order.

    A batch holds at most `max_appends` appends or 2 MB. While one batch commits, the next one
    gathers; if the last batch served several writers, the committer waits up to `linger` seconds for
    as many to come back, since they were all woken at the same moment. The queue is bounded: a writer
    that finds it full waits.
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
        self._queue: deque[Request] = deque()
        self._queued = 0
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._want = 1
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="ledgerlake-committer", daemon=True)
        self._thread.start()

    @property
    def max_appends(self) -> int:
        """The most appends that one request may hold."""
        return self._max_appends

    def submit(self, appends: Sequence[Append]) -> Request:
        """Queue one writer's appends; `Request.wait()` gives their outcomes."""
        request = Request(appends)
        if not appends:
            request.settle([])
            return request
        with self._lock:
            while self._queued >= MAX_QUEUED_APPENDS and not self._closing:
                self._drained.wait()
            if self._closing:
                raise EventStoreError("The event store is closed.", "Open it again to append.")
            self._queue.append(request)
            self._queued += len(appends)
            if len(self._queue) >= self._want:
                self._arrived.notify()
        return request

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._lock:
            self._closing = True
            self._arrived.notify()
            self._drained.notify_all()
        self._thread.join()
        self._transaction.close()

    def _serve(self) -> None:
        writers = 1
        while batch := self._next_batch(writers):
            writers = len(batch)
            if not self._commit(batch) and len(batch) > 1:
                # One of them is what the server does not take: the others must not fail with it.
                for request in batch:
                    self._commit([request], last_try=True)

    def _commit(self, batch: list[Request], *, last_try: bool = False) -> bool:
        """Commit and settle a batch; False if the server refused it, and it may be taken apart."""
        try:
            committed = self._transaction.commit(batch)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the writers that wait must hear it
            refused = isinstance(error, PyMongoError)
            if refused and len(batch) > 1 and not last_try:
                return False
            for request in batch:
                request.settle(None, _refusal(error) if isinstance(error, PyMongoError) else error)
            return True
        for request, outcomes in zip(batch, committed.outcomes, strict=True):
            request.settle(outcomes)
        if committed.documents:
            self._on_committed(committed.documents)
        return True

    def _next_batch(self, writers: int) -> list[Request]:
        with self._lock:
            while not self._queue and not self._closing:
                self._want = 1
                self._arrived.wait()
            if self._linger and writers > 1:
                until = time.monotonic() + self._linger
                self._want = writers
                while len(self._queue) < writers and not self._closing:
                    left = until - time.monotonic()
                    if left <= 0 or not self._arrived.wait(left):
                        break
                self._want = 1
            batch: list[Request] = []
            appends = size = 0
            while self._queue:
                request = self._queue[0]
                appends += len(request.appends)
                size += request.size
                if batch and (appends > self._max_appends or size > MAX_BATCH_BYTES):
                    break
                batch.append(self._queue.popleft())
                self._queued -= len(request.appends)
            self._drained.notify_all()
            return batch


def _refusal(error: PyMongoError) -> EventStoreError:
    refusal = EventStoreError(f"MongoDB refused the append ({type(error).__name__}: {error}).")
    refusal.__cause__ = error
    return refusal
