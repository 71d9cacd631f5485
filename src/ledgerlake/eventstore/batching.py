"""The rules of group commit, for either driver: which requests make a batch, and how it is settled."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError

from ledgerlake.eventstore.model import (
    Appended,
    EventStoreError,
    EventTooLarge,
    Outcome,
    StoreUnavailable,
    WriteRequest,
)
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.steps import Steps

log = logging.getLogger(__name__)

MAX_BATCH_BYTES: Final = 2_000_000
# How long writers that were served together are waited for. Without it they come in two halves, each of which
# waits while the other is committed: twice as many transactions, of half the size.
LINGER_SECONDS: Final = 0.001
# A request is stored in one command, and MongoDB takes 16 MB in one.
MAX_REQUEST_BYTES: Final = 12_000_000
# What may be queued before writers have to wait: many batches, so that the committer never runs dry.
MAX_QUEUED_APPENDS: Final = 10_000
MAX_QUEUED_BYTES: Final = 64_000_000

CLOSED_UNCONFIRMED: Final = "The event store was closed while MongoDB did not confirm appends."


class Queued(Protocol):
    """What one writer handed over, encoded, and the way to tell it what came of it."""

    @property
    def write(self) -> WriteRequest: ...

    @property
    def encoded(self) -> Sequence[Sequence[bytes]]: ...

    @property
    def size(self) -> int: ...

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more: if no batch has it yet, it need not happen."""
        ...

    def settle(self, outcomes: list[Outcome]) -> None: ...

    def fail(self, error: BaseException) -> None: ...


Q = TypeVar("Q", bound=Queued)


class Ticket(NamedTuple):
    """How much had arrived, since the beginning, when a request came."""

    appends: int
    size: int


class Intake(Generic[Q]):
    """Requests in the order of their arrival. Not thread-safe: its committer guards it.

    A request is queued as soon as it arrives, so nobody overtakes; but its writer has to wait for
    `admits` before it may go on, which is while there is a full queue ahead of it. So a writer that sends
    more than is committed is slowed down, and one that sends little is behind what was there before it,
    and nothing else.
    """

    def __init__(self, max_appends: int) -> None:
        self._max_appends = max_appends
        self._queue: deque[Q] = deque()
        self._arrived = self._taken = Ticket(0, 0)

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, request: Q) -> Ticket:
        """Queue a request; the ticket tells when its writer may go on."""
        ticket = self._arrived
        self._queue.append(request)
        self._arrived = Ticket(ticket.appends + len(request.write.appends), ticket.size + request.size)
        return ticket

    def admits(self, ticket: Ticket) -> bool:
        """Whether less than a full queue is ahead of the request."""
        return (
            ticket.appends - self._taken.appends < MAX_QUEUED_APPENDS
            and ticket.size - self._taken.size < MAX_QUEUED_BYTES
        )

    def take(self) -> list[Q]:
        """The next batch: one request at least, then as many as fit, in order; empty if none is queued."""
        batch: list[Q] = []
        appends = size = 0
        taken_appends, taken_size = self._taken
        while self._queue:
            request = self._queue[0]
            its_appends, its_size = len(request.write.appends), request.size
            if not request.given_up:
                appends += its_appends
                size += its_size
                if batch and (appends > self._max_appends or size > MAX_BATCH_BYTES):
                    break
                batch.append(request)
            self._queue.popleft()
            taken_appends += its_appends
            taken_size += its_size
        self._taken = Ticket(taken_appends, taken_size)
        return batch


def check_request(write: WriteRequest, max_appends: int) -> None:
    """Raise ValueError for a request that no batch can hold, or that holds an append without events."""
    if len(write.appends) > max_appends:
        raise ValueError(f"{len(write.appends)} appends exceed a batch's {max_appends}.")
    if not all(append.events for append in write.appends):
        raise ValueError("An append holds at least one event.")
    # Where the stream must exist it says nothing.
    if any(append.first_version not in (0, 1) and append.expected.allows(None) for append in write.appends):
        raise ValueError("A stream starts at version 0 or 1.")


def total_size(encoded: Sequence[Sequence[bytes]]) -> int:
    """Bytes of a request's events. Raises EventTooLarge if no transaction would take them at once."""
    size = sum([len(document) for documents in encoded for document in documents])
    if size > MAX_REQUEST_BYTES:
        raise EventTooLarge(
            f"The events handed over at once take {size:,} bytes, over {MAX_REQUEST_BYTES:,}.",
            "Append them in several requests.",
        )
    return size


def commit_batch(
    transaction: AppendTransaction,
    batch: Sequence[Queued],
    on_committed: Callable[[list[RawBSONDocument]], None],
) -> Steps[bool]:
    """Commit a batch and settle its requests, whatever happens.

    Returns False if MongoDB did not confirm it in time: what is queued behind it would wait as long.
    """
    error = yield from _commit(transaction, batch, on_committed)
    if isinstance(error, PyMongoError) and len(batch) > 1:
        # One of them is what the server does not take: the others must not fail with it.
        for number, request in enumerate(batch):
            error = yield from _commit(transaction, [request], on_committed)
            if isinstance(error, StoreUnavailable):
                _fail(batch[number:], error)
                return False
            if error is not None:
                _fail([request], error)
        return True
    if error is not None:
        _fail(batch, error)
    return not isinstance(error, StoreUnavailable)


def unconfirmed(why: str) -> StoreUnavailable:
    """What requests are told that nobody will commit any more, or that may be committed and may not."""
    return StoreUnavailable(
        why, "Send the same commands again, with the same command ids: none happens twice."
    )


def _commit(
    transaction: AppendTransaction,
    batch: Sequence[Queued],
    on_committed: Callable[[list[RawBSONDocument]], None],
) -> Steps[BaseException | None]:
    """Commit and settle; returns the error if there was one, and then nobody has been told yet."""
    try:
        committed = yield from transaction.commit(batch)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the writers that wait must hear it
        return error
    for number, (request, outcomes) in enumerate(zip(batch, committed.outcomes, strict=True)):
        refusal = committed.refused.get(number)
        if refusal is None or isinstance(refusal, Appended):
            request.settle(outcomes)
        else:
            request.fail(refusal)
    if committed.documents:
        try:
            on_committed(committed.documents)
        except (
            Exception
        ):  # it is stored, and a notification is a hint: the next writers must not wait for ever
            log.exception("Committed events could not be handed to the event bus.")
    return None


def _fail(batch: Sequence[Queued], error: BaseException) -> None:
    for request in batch:
        request.fail(_refusal(error) if isinstance(error, PyMongoError) else error)


def _refusal(error: PyMongoError) -> EventStoreError:
    refusal = EventStoreError(f"MongoDB refused the append ({type(error).__name__}: {error}).")
    refusal.__cause__ = error
    return refusal
