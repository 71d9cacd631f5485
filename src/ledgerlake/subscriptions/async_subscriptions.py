"""Subscriptions for asyncio: the methods of `subscriptions` as coroutines, its iterator as an async one."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from pymongo.asynchronous.database import AsyncDatabase

from ledgerlake.eventstore.contract import AsyncEventReader
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, StoredEvent
from ledgerlake.mongo.steps import Steps, run_async
from ledgerlake.subscriptions.consuming import DEFAULT_POLICY, SubscriptionSteps
from ledgerlake.subscriptions.following import PAGE_EVENTS, Follower
from ledgerlake.subscriptions.parking import ParkedEvent
from ledgerlake.subscriptions.policy import Handled, HandlingPolicy
from ledgerlake.subscriptions.retrying import Retried
from ledgerlake.subscriptions.standing import Lag, SubscriptionState
from ledgerlake.subscriptions.waking import IDLE_SECONDS, POLL_SECONDS, AsyncLogWatch

T = TypeVar("T")

AsyncHandler: TypeAlias = Callable[[StoredEvent], Awaitable[Sequence[Append] | None]]


class AsyncSubscription:
    """As Subscription: an async iterator for one task; `close` ends it from any other of the loop."""

    def __init__(self, follower: Follower, save: Callable[[int, int], Steps[None]] | None = None) -> None:
        self._follower = follower
        self._save = save
        self._saved = self.position = follower.position
        self._events: Iterator[StoredEvent] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        while not self._follower.closed:
            for event in self._events:
                self.position = event.position
                return event
            self.position = self._follower.position
            page = await run_async(self._follower.next_page())
            if page is None:
                break
            self._events = iter(page.events)
        raise StopAsyncIteration

    async def save(self) -> None:
        """As Subscription.save."""
        if self._save is None:
            raise ValueError("This subscription has no checkpoint: open it with a name.")
        if self.position > self._saved:
            to = self.position
            await run_async(self._save(self._saved, to))
            self._saved = to

    def close(self) -> None:
        """End the iteration, also in a task that waits in it for the next event."""
        self._follower.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncConsumer:
    """As Consumer; the handler is a coroutine function."""

    def __init__(
        self,
        steps: SubscriptionSteps,
        name: str,
        handler: AsyncHandler,
        policy: HandlingPolicy,
        follower: Follower,
    ) -> None:
        self._steps = steps
        self._name = name
        self._handler = handler
        self._policy = policy
        self._follower = follower

    async def run(self) -> Handled:
        """As Consumer.run."""
        return await run_async(self._steps.consume(self._name, self._handler, self._policy, self._follower))

    def close(self) -> None:
        """End `run` after the event that is being handled; its checkpoint is stored."""
        self._follower.close()


class AsyncSubscriptions:
    """As Subscriptions, for one event loop. `store` is an AsyncEventStore on the same database."""

    def __init__(
        self,
        database: AsyncDatabase[dict[str, Any]],
        store: AsyncEventReader,
        *,
        change_streams: bool = True,
        poll_seconds: float = POLL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._watch = AsyncLogWatch(database if change_streams else None, poll_seconds, idle_seconds)
        self._steps = SubscriptionSteps(database, store, _collect, self._watch)
        self._open: weakref.WeakSet[Follower] = weakref.WeakSet()

    async def subscribe(
        self,
        name: str | None = None,
        *,
        after: int = 0,
        only: EventFilter = EVERYTHING,
        live: bool = True,
        page_events: int = PAGE_EVENTS,
    ) -> AsyncSubscription:
        """As Subscriptions.subscribe."""
        follower = self._follower(only, after=after, live=live, page_events=page_events)
        if name is None:
            return AsyncSubscription(follower)
        if after:
            raise ValueError("A subscription starts from a position or from a checkpoint, not from both.")
        follower.position = (await run_async(self._steps.register(name, only))).position
        return AsyncSubscription(follower, lambda saved, to: self._steps.save(name, saved, to))

    def consumer(
        self,
        name: str,
        handler: AsyncHandler,
        *,
        only: EventFilter = EVERYTHING,
        policy: HandlingPolicy = DEFAULT_POLICY,
        live: bool = True,
        page_events: int = PAGE_EVENTS,
    ) -> AsyncConsumer:
        """As Subscriptions.consumer."""
        follower = self._follower(only, live=live, page_events=page_events)
        return AsyncConsumer(self._steps, name, handler, policy, follower)

    async def state(self, name: str) -> SubscriptionState:
        """As Subscriptions.state."""
        return await run_async(self._steps.state(name))

    async def states(self) -> list[SubscriptionState]:
        """As Subscriptions.states."""
        return await run_async(self._steps.states())

    async def lag(self, name: str) -> Lag:
        """As Subscriptions.lag."""
        return await run_async(self._steps.lag(name))

    async def parked(self, name: str, *, limit: int = 100, after: int = 0) -> list[ParkedEvent]:
        """As Subscriptions.parked."""
        return await run_async(self._steps.parked(name, limit, after))

    async def parked_count(self, name: str) -> int:
        """As Subscriptions.parked_count."""
        return await run_async(self._steps.parked_count(name))

    async def retry_parked(self, name: str, handler: AsyncHandler) -> Retried:
        """As Subscriptions.retry_parked."""
        return await run_async(self._steps.retry_parked(name, handler))

    async def forget(self, name: str) -> None:
        """As Subscriptions.forget."""
        await run_async(self._steps.forget(name))

    def _follower(self, only: EventFilter, **how: Any) -> Follower:
        follower = self._steps.follower(only, **how)
        self._open.add(follower)
        return follower

    async def close(self) -> None:
        """End all subscriptions that were opened here, and the change stream."""
        for follower in list(self._open):
            follower.close()
        await self._watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _collect(events: AsyncIterator[StoredEvent]) -> list[StoredEvent]:
    return [event async for event in events]
