"""What can be done with subscriptions, each written once, as bodies of driver calls for either driver."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import CheckpointConflict, CheckpointMove, StoredEvent
from ledgerlake.mongo.indexes import EVENTS, PARKED_EVENTS, SUBSCRIPTIONS
from ledgerlake.mongo.steps import Steps
from ledgerlake.subscriptions import parking, retrying, standing
from ledgerlake.subscriptions.causal import CausalReads
from ledgerlake.subscriptions.following import PAGE_EVENTS, Follower, SubscriptionError, answered
from ledgerlake.subscriptions.handling import Handling
from ledgerlake.subscriptions.parking import ParkedEvent
from ledgerlake.subscriptions.policy import Handled, HandlingPolicy
from ledgerlake.subscriptions.retrying import Retried
from ledgerlake.subscriptions.standing import Lag, SubscriptionState
from ledgerlake.subscriptions.waking import Waking

DEFAULT_POLICY: Final = HandlingPolicy()

# Moves a checkpoint from where it is known to stand to a later position.
Save: TypeAlias = Callable[[int, int], Steps[None]]


class SubscriptionBody:
    """What a subscription is, whichever driver turns its pages: `position` is how far it has handed out."""

    def __init__(self, follower: Follower, save: Save | None = None) -> None:
        self._follower = follower
        self._move = save
        self._saved = self.position = follower.position
        self._events: Iterator[StoredEvent] = iter(())

    def _next(self) -> StoredEvent | None:
        """The next event of the page in hand; None at its end, and once the subscription is closed."""
        if not self._follower.closed:
            for event in self._events:
                self.position = event.position
                return event
        return None

    def _turn(self) -> Steps[bool]:
        """Take the next page in hand; False where there is none."""
        if self._follower.closed:
            return False
        self.position = self._follower.position
        page = yield from self._follower.next_page()
        if page is None:
            return False
        self._events = iter(page.events)
        return True

    def _save(self) -> Steps[None]:
        if self._move is None:
            raise ValueError("This subscription has no checkpoint: open it with a name.")
        if self.position > self._saved:
            to = self.position
            yield from self._move(self._saved, to)
            self._saved = to

    def close(self) -> None:
        """End the iteration, also in a thread or task that waits in it for the next event."""
        self._follower.close()


class ConsumerBody:
    """What a consumer is, whichever driver runs it."""

    def __init__(
        self,
        steps: SubscriptionSteps,
        name: str,
        handler: Callable[[StoredEvent], Any],
        policy: HandlingPolicy,
        follower: Follower,
    ) -> None:
        self._steps = steps
        self._name = name
        self._handler = handler
        self._policy = policy
        self._follower = follower

    def _run(self) -> Steps[Handled]:
        return self._steps.consume(self._name, self._handler, self._policy, self._follower)

    def close(self) -> None:
        """End `run` after the event that is being handled; its checkpoint is stored."""
        self._follower.close()


class SubscriptionSteps:
    """The subscriptions of a log.

    Args:
        database: of either driver; the bodies are to be run by the steps of that driver.
        store: an event store of the same client.
        collect: makes a list of what the store's read_all returns; a coroutine function, as the driver is.
    """

    def __init__(self, database: Any, store: Any, collect: Callable[[Any], Any], waking: Waking) -> None:
        majority = ReadConcern("majority")
        self._database = database
        self._store = store
        self._collect = collect
        self._waking = waking
        self._events = database.get_collection(EVENTS, read_concern=majority)
        self._subscriptions = database.get_collection(SUBSCRIPTIONS, read_concern=majority)
        self._parked = database.get_collection(PARKED_EVENTS, read_concern=majority)
        self._open: weakref.WeakSet[Follower] = weakref.WeakSet()

    def follower(
        self, only: EventFilter, *, after: int = 0, live: bool = True, page_events: int = PAGE_EVENTS
    ) -> Follower:
        """One that goes along the log, from wherever its `position` is put before it sets out."""
        follower = Follower(
            self._store,
            self._waking,
            self._collect,
            CausalReads(self._database.client),
            after=after,
            only=only,
            live=live,
            page_events=page_events,
        )
        self._open.add(follower)
        return follower

    def subscribe(
        self, name: str | None, after: int, only: EventFilter, live: bool, page_events: int
    ) -> Steps[tuple[Follower, Save | None]]:
        """A follower that stands at the position, or at the checkpoint of that name, and what saves it."""
        follower = self.follower(only, after=after, live=live, page_events=page_events)
        if name is None:
            return follower, None
        if after:
            raise ValueError("A subscription starts from a position or from a checkpoint, not from both.")
        follower.position = (yield from self.register(name, only)).position
        return follower, partial(self.save, name)

    def close(self) -> None:
        """End all followers that were made here."""
        for follower in list(self._open):
            follower.close()

    @answered
    def register(self, name: str, only: EventFilter) -> Steps[SubscriptionState]:
        return standing.register(self._subscriptions, name, only)

    @answered
    def consume(
        self, name: str, handler: Callable[[StoredEvent], Any], policy: HandlingPolicy, follower: Follower
    ) -> Steps[Handled]:
        """Run a subscription from its checkpoint until the follower ends."""
        state = yield from self.register(name, follower.only)
        follower.position = state.position
        handling = Handling(
            name,
            handler,
            follower,
            self._store,
            self._database,
            policy,
            lambda seconds: self._waking.pause(seconds, follower.is_closed),
        )
        return (yield from handling.run())

    @answered
    def save(self, name: str, after: int, to: int) -> Steps[None]:
        """Move a checkpoint from where it is known to stand."""
        if not (yield from standing.move(self._subscriptions, name, after, to)):
            at = yield from standing.read(self._subscriptions, name)
            raise CheckpointConflict(CheckpointMove(name, to, after=after), 0 if at is None else at.position)

    @answered
    def state(self, name: str) -> Steps[SubscriptionState]:
        found = yield from standing.read(self._subscriptions, name)
        if found is None:
            raise SubscriptionError(f"There is no subscription {name!r}.", "It begins with its first run.")
        return found

    @answered
    def states(self) -> Steps[list[SubscriptionState]]:
        found = yield self._subscriptions.find({}, sort=[("_id", 1)]).to_list()
        return [standing.state_of(document) for document in found]

    @answered
    def lag(self, name: str) -> Steps[Lag]:
        state = yield from self.state(name)
        return (yield from standing.lag(self._events, self._store, self._collect, state))

    @answered
    def parked(self, name: str, limit: int, after: int) -> Steps[list[ParkedEvent]]:
        return parking.parked(self._parked, name, limit, after)

    @answered
    def parked_count(self, name: str) -> Steps[int]:
        count: int = yield self._parked.count_documents({"subscription": name})
        return count

    @answered
    def retry_parked(self, name: str, handler: Callable[[StoredEvent], Any]) -> Steps[Retried]:
        return retrying.retry_parked(name, handler, self._store, self._parked, self._collect)

    @answered
    def forget(self, name: str) -> Steps[None]:
        # The other way round, a crash in between would leave a checkpoint past events that nobody knows of.
        yield self._subscriptions.delete_one({"_id": name})
        yield self._parked.delete_many({"subscription": name})
