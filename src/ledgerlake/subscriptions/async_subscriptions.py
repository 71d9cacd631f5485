"""Subscriptions for asyncio: the methods of `subscriptions` as coroutines, its iterator as an async one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from pymongo.asynchronous.database import AsyncDatabase

from ledgerlake.eventstore.contract import AsyncEventReader
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, StoredEvent
from ledgerlake.mongo.steps import run_async
from ledgerlake.subscriptions.consuming import (
    DEFAULT_POLICY,
    ConsumerBody,
    SubscriptionBody,
    SubscriptionSteps,
)
from ledgerlake.subscriptions.following import PAGE_EVENTS
from ledgerlake.subscriptions.parking import ParkedEvent
from ledgerlake.subscriptions.policy import Handled, HandlingPolicy
from ledgerlake.subscriptions.retrying import Retried
from ledgerlake.subscriptions.standing import Lag, SubscriptionState
from ledgerlake.subscriptions.waking import IDLE_SECONDS, POLL_SECONDS, AsyncLogWatch

T = TypeVar("T")

AsyncHandler: TypeAlias = Callable[[StoredEvent], Awaitable[Sequence[Append] | None]]


class AsyncSubscription(SubscriptionBody):
    """As Subscription: an async iterator for one task; `close` ends it from any other of the loop."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        while (event := self._next()) is None:
            if not await run_async(self._turn()):
                raise StopAsyncIteration
        return event

    async def save(self) -> None:
        """As Subscription.save."""
        await run_async(self._save())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncConsumer(ConsumerBody):
    """As Consumer; the handler is a coroutine function."""

    async def run(self) -> Handled:
        """As Consumer.run."""
        return await run_async(self._run())


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
        return AsyncSubscription(
            *await run_async(self._steps.subscribe(name, after, only, live, page_events))
        )

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
        follower = self._steps.follower(only, live=live, page_events=page_events)
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

    async def close(self) -> None:
        """End all subscriptions that were opened here, and the change stream."""
        self._steps.close()
        await self._watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _collect(events: AsyncIterator[StoredEvent]) -> list[StoredEvent]:
    return [event async for event in events]
