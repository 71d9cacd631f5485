"""Following the log: the rules by which every subscription reads, for either driver.

There is no switch from catching up to live, and so no seam. A follower always does the same: it reads the
head, then the events after its own position up to that head, at majority, in pages; where there are none it
waits until it is woken, and looks again. Positions have no gap and become visible in order, so what
`position > own position` gives is all there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import EventStoreError, LogCorrupted, StoredEvent, StoreUnavailable
from ledgerlake.mongo.steps import Steps
from ledgerlake.subscriptions.causal import CausalReads, PlainReads
from ledgerlake.subscriptions.waking import Waking

P = ParamSpec("P")
T = TypeVar("T")

PAGE_EVENTS: Final = 500
# Positions that one filtered read looks through: a rare event does not make it a read of the whole log.
SPAN_POSITIONS: Final = 10_000
# For so long the log may seem to end before the position from which it is followed.
PATIENCE_SECONDS: Final = 5.0

# A read that failed in passing is done again, for about a minute.
_TRIES: Final = 15
# Cursor not found, cursor killed, interrupted, and interrupted by a change of the primary.
_PASSING: Final = frozenset({43, 237, 11601, 11602})


class SubscriptionError(EventStoreError):
    """A subscription that can not be opened, or can not go on."""


def answered(call: Callable[P, Steps[T]]) -> Callable[P, Steps[T]]:
    """`call`, with an error of its own for what the driver raises: it says what to do.

    The error is StoreUnavailable where MongoDB did not answer, and SubscriptionError where it refused.
    """

    @wraps(call)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        try:
            return (yield from call(*args, **kwargs))
        except PyMongoError as error:
            if passes(error):
                raise StoreUnavailable(
                    f"MongoDB did not answer the subscription ({type(error).__name__}: {error}).",
                    "Do the same again: what was done is stored, and the rest is left to do.",
                ) from error
            raise SubscriptionError(
                f"MongoDB refused the subscription ({type(error).__name__}: {error}).",
                "If a privilege is missing: docs/operations.md says which are needed.",
            ) from error

    return steps


@dataclass(frozen=True, slots=True)
class Page:
    """What one look gave: the wanted events, in order, and the position up to which there are no others.

    It may be empty: a look found nothing that is wanted, or nothing at all.
    """

    events: Sequence[StoredEvent]
    position: int


class Follower:
    """Goes along the log from a position on. `close` may be called from any thread, the rest from one.

    Args:
        reader: an EventReader or AsyncEventReader.
        collect: makes a list of what the reader's read_all returns (a coroutine's, where it is async).
        reads: keeps one read from being of an older state than the one before.
        live: go on at the head of the log; otherwise end there.
    """

    def __init__(
        self,
        reader: Any,
        waking: Waking,
        collect: Callable[[Any], Any],
        reads: CausalReads | PlainReads,
        *,
        after: int = 0,
        only: EventFilter,
        live: bool = True,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        if after < 0 or page_events < 1:
            raise ValueError(f"Can not read pages of {page_events} events after position {after}.")
        self.position = after
        self.closed = False
        self._reader = reader
        self._waking = waking
        self._collect = collect
        self._reads = reads
        self.only = only
        self._live = live
        self._page_events = page_events
        self._head: int | None = None
        self._seen = 0

    def is_closed(self) -> bool:
        """Whether it was closed, by any thread."""
        return self.closed

    def close(self) -> None:
        """End it; a page that is being read is still read."""
        self.closed = True
        self._waking.wake()

    @answered
    def next_page(self, at_most: float | None = None) -> Steps[Page | None]:
        """The next page: at once if there is more, else after a wait (of `at_most` seconds); None at the end.

        Raises:
            LogCorrupted: an unfiltered follower met a gap.
            SubscriptionError: the log ends before the follower's position, or MongoDB refused.
            StoreUnavailable: no answer for about a minute.
        """
        page = None if self.closed else (yield from self._look(at_most))
        if page is None:
            self.closed = True
        return page

    def _look(self, at_most: float | None) -> Steps[Page | None]:
        if self._head == self.position:
            if not self._live:
                return None
            yield self._waking.wait(self._seen, self.is_closed, at_most)
        if self._head is None or self._head <= self.position:
            # Counted before the head is read: a change from here on ends the next wait at once.
            self._seen = self._waking.seen()
            self._head = yield from self._read_head()
            if self._head is None:
                return None
        after, up_to = self.position, reach(self.position, self._head, self.only)
        events: Sequence[StoredEvent] | None = []
        if up_to > after:
            events = yield from self._persistently(
                lambda: self._collect(
                    self._reader.read_all(after, up_to=up_to, limit=self._page_events, only=self.only)
                )
            )
        if events is None:
            return None
        self.position = looked_up_to(after, up_to, events, self._page_events, self.only)
        return Page(events, self.position)

    def _read_head(self) -> Steps[int | None]:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            head: int | None = yield from self._persistently(self._reader.head)
            if head is None or head >= self.position:
                return head
            # Perhaps a new primary that does not know yet how far a majority is. Not for long, however.
            if time.monotonic() > until:
                raise SubscriptionError(
                    f"The log ends at position {head}, before position {self.position} from which it is"
                    " followed.",
                    "Was the database restored from an older backup? Put the consumer back to the same state"
                    " and begin anew: what it handled after that does not exist any more.",
                )
            yield self._waking.pause(0.1, self.is_closed)

    def _persistently(self, call: Callable[[], Any]) -> Steps[Any]:
        """What the call gives, tried again after errors that pass; None if it was closed meanwhile."""
        tries = 0
        while True:
            try:
                if self.closed:
                    return None
                return (yield from self._reads.read(call))
            except PyMongoError as error:
                tries += 1
                if not passes(error):
                    raise
                if tries >= _TRIES:
                    raise StoreUnavailable(
                        f"The log could not be read after position {self.position}: {tries} tries failed,"
                        f" the last with {type(error).__name__}: {error}.",
                        "Subscribe again, from the last checkpoint.",
                    ) from error
            yield self._waking.pause(min(5.0, 0.05 * 2**tries), self.is_closed)


def reach(position: int, head: int, only: EventFilter) -> int:
    """The last position that the next read looks at."""
    return head if only.selects_all else min(head, position + SPAN_POSITIONS)


def looked_up_to(after: int, up_to: int, events: Sequence[StoredEvent], limit: int, only: EventFilter) -> int:
    """The position up to which a read of `limit` events in (after, up_to] has shown all that are wanted.

    Raises:
        LogCorrupted: without a filter, a position in between is missing; with one, they are out of order.
    """
    positions = [event.position for event in events]
    full = len(positions) == limit
    if only.selects_all:
        expected = list(range(after + 1, min(after + limit, up_to) + 1))
        if positions != expected:
            wrong = next(
                (e for e, p in zip(expected, positions, strict=False) if e != p), after + 1 + len(positions)
            )
            raise LogCorrupted(
                f"The log has a gap: position {wrong} was expected (read: {after + 1} to {up_to}).",
                "The log was changed from outside or restored in part; run `ledgerlake verify`.",
            )
    elif not all(low < high for low, high in zip([after, *positions], [*positions, up_to + 1], strict=True)):
        raise LogCorrupted(f"The log's positions are out of order (read: {after + 1} to {up_to}).")
    return positions[-1] if full else up_to


def passes(error: PyMongoError) -> bool:
    """Whether a read that failed so may be done again."""
    if isinstance(error, ConnectionFailure):
        return True
    return isinstance(error, OperationFailure) and error.code in _PASSING
