"""Subscriptions for asyncio keep the promises of the others: the same rules, on the other driver."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import Append, CheckpointConflict, LogCorrupted, NewEvent, StoredEvent
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.settings import Settings
from ledgerlake.subscriptions.async_subscriptions import AsyncSubscription, AsyncSubscriptions
from ledgerlake.subscriptions.policy import HandlerFailed, HandlingPolicy, OnFailure

Db = Database[dict[str, Any]]
NEVER = 3_600.0
REFUNDS = EventFilter.of(event_types=["Refunded"])


def append(stream: str, name: str = "Paid") -> Append:
    return Append(
        stream, "Payment", [NewEvent(name, {"n": 1}, datetime.now(UTC), "correlation", "causation")]
    )


@asynccontextmanager
async def opened(
    settings: Settings, database: Db, **how: Any
) -> AsyncIterator[tuple[AsyncEventStore, AsyncSubscriptions]]:
    assert database.name == settings.database
    same = await open_async_database(settings)
    async with (
        same.client,
        AsyncEventStore(same) as store,
        AsyncSubscriptions(same, store, **how) as subscriptions,
    ):
        yield store, subscriptions


async def within(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(work, 180)


async def taken(subscription: AsyncSubscription, count: int) -> list[int]:
    return [(await anext(subscription)).position for _ in range(count)]


async def everything(subscription: AsyncSubscription) -> list[int]:
    return [event.position async for event in subscription]


async def eventually(reached: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(180):
        while not await reached():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("change_streams", [True, False])
def test_no_event_is_missed_doubled_or_out_of_order_from_catching_up_to_live(
    settings: Settings, database: Db, change_streams: bool
) -> None:
    async def scenario() -> None:
        async with opened(settings, database, change_streams=change_streams, poll_seconds=0.02) as (
            store,
            subscriptions,
        ):

            async def write(number: int) -> None:
                for i in range(30):
                    await store.append(append(f"p-{number}-{i}", "Refunded" if i % 5 == 0 else "Paid"))

            await store.append_many([append(f"old-{i}") for i in range(60)])
            whole = await subscriptions.subscribe(page_events=7)
            later = await subscriptions.subscribe(after=40, page_events=7)
            refunds = await subscriptions.subscribe(only=REFUNDS, page_events=7)
            *_, first, second, third = await asyncio.gather(
                *(write(number) for number in range(8)),
                taken(whole, 300),
                taken(later, 260),
                taken(refunds, 48),
            )
            assert first == list(range(1, 301))
            assert second == list(range(41, 301))
            stored = database["events"].find({"eventType": "Refunded"}).sort("position", 1)
            assert third == [event["position"] for event in stored]

    asyncio.run(within(scenario()))


def test_a_change_stream_wakes_a_subscription_that_would_not_look_by_itself(
    settings: Settings, database: Db
) -> None:
    async def scenario() -> None:
        async with opened(settings, database, poll_seconds=NEVER, idle_seconds=NEVER) as (
            store,
            subscriptions,
        ):
            subscription = await subscriptions.subscribe()
            waiting = asyncio.create_task(taken(subscription, 3))
            for _ in range(3):
                await asyncio.sleep(0)
                await store.append(append("p"))
            assert await waiting == [1, 2, 3]
            rest = asyncio.create_task(everything(subscription))
            await asyncio.sleep(0)
            subscription.close()
            assert await rest == []

    asyncio.run(within(scenario()))


def test_a_wait_that_is_cancelled_loses_no_event(settings: Settings, database: Db) -> None:
    async def scenario() -> None:
        async with opened(settings, database) as (store, subscriptions):
            subscription = await subscriptions.subscribe()
            for expected in range(1, 6):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(subscription), 0.01)
                await store.append(append("p"))
                assert (await anext(subscription)).position == expected

    asyncio.run(within(scenario()))


def test_a_gap_stops_a_subscription_before_it(settings: Settings, database: Db) -> None:
    async def scenario() -> None:
        async with opened(settings, database) as (store, subscriptions):
            await store.append_many([append(f"p{i}") for i in range(9)])
            database["events"].delete_one({"position": 5})
            subscription = await subscriptions.subscribe(page_events=4)
            assert await taken(subscription, 4) == [1, 2, 3, 4]
            with pytest.raises(LogCorrupted, match="position 5"):
                await anext(subscription)

    asyncio.run(within(scenario()))


def test_a_checkpoint_moves_past_what_the_filter_leaves_out_and_is_compared(
    settings: Settings, database: Db
) -> None:
    async def scenario() -> None:
        async with opened(settings, database) as (store, subscriptions):
            await store.append_many([append("p"), append("q", "Refunded"), append("r")])
            first = await subscriptions.subscribe("c", only=REFUNDS, live=False)
            other = await subscriptions.subscribe("c", only=REFUNDS, live=False)
            assert (await subscriptions.lag("c")).events == 1
            assert [event.position async for event in first] == [2]
            assert [event.position async for event in other] == [2]
            await first.save()
            assert (await subscriptions.state("c")).position == await store.checkpoint("c") == 3
            with pytest.raises(CheckpointConflict):
                await other.save()
            assert (await subscriptions.lag("c")).events == 0

    asyncio.run(within(scenario()))


def test_a_consumer_stores_results_once_retries_parks_and_stops(settings: Settings, database: Db) -> None:
    async def scenario() -> None:
        async with opened(settings, database) as (store, subscriptions):
            await store.append_many([append(stream) for stream in ("p", "bad", "p", "bad")])
            broken = True

            async def handler(event: StoredEvent) -> list[Append] | None:
                if event.event_type == "Receipt":
                    return None
                if broken and event.stream_id == "bad":
                    raise RuntimeError("no")
                return [append(f"receipt-{event.position}", "Receipt")]

            async def receipts() -> list[str]:
                stored = database["events"].find({"eventType": "Receipt"}).sort("position", 1)
                return [event["aggregateId"] for event in stored]

            stop = HandlingPolicy(retries=1, first_delay=0.001)
            with pytest.raises(HandlerFailed, match="position 2"):
                await subscriptions.consumer("c", handler, policy=stop, live=False).run()
            state = await subscriptions.state("c")
            assert (state.position, state.status) == (1, "stopped")
            assert state.last_error is not None
            assert re.fullmatch(
                r"RuntimeError \(test_async_subscriptions\.py:\d+ handler\)", state.last_error
            )
            assert await receipts() == ["receipt-1"]

            park = HandlingPolicy(OnFailure.PARK_STREAM, retries=1, first_delay=0.001)
            done = await subscriptions.consumer("c", handler, policy=park, live=False).run()
            assert (done.parked, await receipts()) == (2, ["receipt-1", "receipt-3"])
            parked = await subscriptions.parked("c")
            assert [(event.position, event.attempts) for event in parked] == [(2, 2), (4, 0)]
            assert (await subscriptions.retry_parked("c", handler)).left == 2
            broken = False
            assert (await subscriptions.retry_parked("c", handler)).handled == 2
            assert await receipts() == [f"receipt-{position}" for position in (1, 3, 2, 4)]
            assert await subscriptions.parked_count("c") == 0

            live = subscriptions.consumer("c", handler, policy=park)
            running = asyncio.create_task(live.run())
            await store.append(append("later"))

            async def stored() -> bool:
                return len(await receipts()) == 5

            await eventually(stored)
            live.close()
            assert (await running).events >= 2
            assert [state.name for state in await subscriptions.states()] == ["c"]
            await subscriptions.forget("c")
            assert await subscriptions.states() == []

    asyncio.run(within(scenario()))
