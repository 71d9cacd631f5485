"""Subscriptions: the log as an iterator that goes on for ever, and named consumers with a checkpoint.

    with Subscriptions(database, store) as subscriptions:
        for event in subscriptions.subscribe(after=store.head()):
            ...
        subscriptions.consumer("mailer", send_mail, only=EventFilter.of(event_types=["PaymentFailed"])).run()

`async_subscriptions` is the same for asyncio. The rules are in following (reading), handling (failures and
checkpoints), parking and waking.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pymongo.database import Database

from ledgerlake.eventstore.contract import EventReader
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.steps import run
from ledgerlake.subscriptions.causal import PlainReads
from ledgerlake.subscriptions.consuming import (
    DEFAULT_POLICY,
    ConsumerBody,
    SubscriptionBody,
    SubscriptionSteps,
)
from ledgerlake.subscriptions.following import PAGE_EVENTS, Follower
from ledgerlake.subscriptions.parking import ParkedEvent
from ledgerlake.subscriptions.policy import Handled, Handler, HandlingPolicy
from ledgerlake.subscriptions.retrying import Retried
from ledgerlake.subscriptions.standing import Lag, SubscriptionState
from ledgerlake.subscriptions.waking import IDLE_SECONDS, POLL_SECONDS, LogWatch


def subscribe(
    reader: EventReader,
    *,
    after: int = 0,
    only: EventFilter = EVERYTHING,
    live: bool = True,
    page_events: int = PAGE_EVENTS,
) -> Subscription:
    """As Subscriptions.subscribe, for the log of any event store, woken by the clock alone.

    With a filter the store must never answer with an older state than before, as one in memory does not; of
    a replica set, whose primary may change, only Subscriptions makes sure of that.
    """
    follower = Follower(
        reader, LogWatch(None), list, PlainReads(), after=after, only=only, live=live, page_events=page_events
    )
    return Subscription(follower)


class Subscription(SubscriptionBody):
    """The wanted events after a position, in order and each once; at the head of the log it waits for more.

    An iterator for one thread; `close` ends it from any other. It holds one page of events, and no more.
    `position` is up to where all that is wanted was handed out: it moves past what the filter leaves out.
    What iterating raises: see Follower.next_page.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        while (event := self._next()) is None:
            if not run(self._turn()):
                raise StopIteration
        return event

    def save(self) -> None:
        """Store `position` as the checkpoint that the subscription was opened with.

        The event last handed out is in it: save when you are done with it.

        Raises:
            CheckpointConflict: someone else has moved it meanwhile.
            ValueError: the subscription was opened from a position, not from a checkpoint.
        """
        run(self._save())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Consumer(ConsumerBody):
    """Calls a handler with the events of a named subscription; made by Subscriptions.consumer."""

    def run(self) -> Handled:
        """Handle events from the checkpoint on, until `close` or, if it is not live, until the log's head.

        A consumer runs once; make another one to go on.

        Raises:
            HandlerFailed: the policy is to stop; a new run tries again where it stands.
            CheckpointConflict: someone else runs the same subscription, and was faster.
            SubscriptionError: it has come to where it is with another filter, or is ahead of the log.
            LogCorrupted: the log has a gap.
            StoreUnavailable: MongoDB did not answer; run it again.
        """
        return run(self._run())


class Subscriptions:
    """The subscriptions of the log that `store` keeps on this very `database`. Closing it ends them all.

    One change stream wakes them all. Without `change_streams`, or where the server refuses them, each looks
    every `poll_seconds`.
    """

    def __init__(
        self,
        database: Database[dict[str, Any]],
        store: EventStore,
        *,
        change_streams: bool = True,
        poll_seconds: float = POLL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._watch = LogWatch(database if change_streams else None, poll_seconds, idle_seconds)
        self._steps = SubscriptionSteps(database, store, list, self._watch)

    def subscribe(
        self,
        name: str | None = None,
        *,
        after: int = 0,
        only: EventFilter = EVERYTHING,
        live: bool = True,
        page_events: int = PAGE_EVENTS,
    ) -> Subscription:
        """Iterate over the events after a position or, with a `name`, after the checkpoint of that name.

        Args:
            after: a position; 0 is the beginning, `store.head()` is from now on. Not with a name.
            live: at the head of the log wait for more; otherwise the iteration ends there.
            page_events: how many events are read at once, and held.

        Raises:
            SubscriptionError: the checkpoint was made with another filter.
            ValueError: a name and a position.
        """
        return Subscription(*run(self._steps.subscribe(name, after, only, live, page_events)))

    def consumer(
        self,
        name: str,
        handler: Handler,
        *,
        only: EventFilter = EVERYTHING,
        policy: HandlingPolicy = DEFAULT_POLICY,
        live: bool = True,
        page_events: int = PAGE_EVENTS,
    ) -> Consumer:
        """A consumer of this name, which calls `handler` with each event after its checkpoint, in order.

        An event is handled at least once: after a crash again, from the last checkpoint. What the handler
        returns, appends, is stored exactly once, in one transaction with the checkpoint. A new consumer
        starts at the beginning of the log.
        """
        follower = self._steps.follower(only, live=live, page_events=page_events)
        return Consumer(self._steps, name, handler, policy, follower)

    def state(self, name: str) -> SubscriptionState:
        """Where a subscription stands. Raises SubscriptionError if there is none of that name."""
        return run(self._steps.state(name))

    def states(self) -> list[SubscriptionState]:
        """All of them, by name."""
        return run(self._steps.states())

    def lag(self, name: str) -> Lag:
        """How far a subscription is behind the head of the log. Raises SubscriptionError: see `state`."""
        return run(self._steps.lag(name))

    def parked(self, name: str, *, limit: int = 100, after: int = 0) -> list[ParkedEvent]:
        """Events that the subscription has parked, after a position, in position order."""
        return run(self._steps.parked(name, limit, after))

    def parked_count(self, name: str) -> int:
        """How many events the subscription has parked."""
        return run(self._steps.parked_count(name))

    def retry_parked(self, name: str, handler: Handler) -> Retried:
        """Handle the parked events, in order; what fails stays parked. See retrying.retry_parked."""
        return run(self._steps.retry_parked(name, handler))

    def forget(self, name: str) -> None:
        """Remove a subscription and what it has parked: under its name, everything starts anew."""
        run(self._steps.forget(name))

    def close(self) -> None:
        """End all subscriptions that were opened here, and the change stream."""
        self._steps.close()
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
