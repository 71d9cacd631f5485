"""The event store for asyncio: the same log, the same rules, and writers that may be cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.database import Database

from ledgerlake.eventstore import batching
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.contract import AsyncEventReader, AsyncEventWriter
from ledgerlake.eventstore.expected import ANY, NO_STREAM, exact
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import (
    Appended,
    CheckpointConflict,
    CheckpointMove,
    CommandIdReused,
    ConcurrencyError,
    EventStoreError,
    LogCorrupted,
    StoreUnavailable,
)
from ledgerlake.eventstore.store import EventStore
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.settings import Settings
from tests.integration.test_event_store import append, assert_log_is_whole

Db = Database[dict[str, Any]]
APP = "async-faults"


@asynccontextmanager
async def opened(settings: Settings, **options: Any) -> AsyncIterator[AsyncEventStore]:
    database = await open_async_database(settings, app_name=APP)
    try:
        async with AsyncEventStore(database, **options) as store:
            yield store
    finally:
        await database.client.close()


def run(settings: Settings, scenario: Callable[[AsyncEventStore], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with opened(settings, **options) as store:
            await scenario(store)

    asyncio.run(main())


def held_back(store: AsyncEventStore) -> tuple[asyncio.Event, asyncio.Event]:
    """Holds back every commit of the store until the second event; the first tells that one has begun."""
    begun, gate = asyncio.Event(), asyncio.Event()
    commit = store._transaction.commit

    def held(requests: Any) -> Any:
        begun.set()
        yield gate.wait()
        return (yield from commit(requests))

    store._transaction.commit = held  # type: ignore[method-assign]
    return begun, gate


def test_the_two_drivers_share_one_log_and_its_rules(settings: Settings, database: Db) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        contract: tuple[AsyncEventReader, AsyncEventWriter] = (store, store)
        assert contract  # mypy checks that the store keeps it
        with EventStore(database) as other:
            assert await store.append(append("p", NO_STREAM, "c", events=2)) == Appended("p", 2, 2)
            assert other.append(append("p", NO_STREAM, "c", events=2)).duplicate
            assert other.append(append("q", NO_STREAM)).position == 3
            assert await store.append(append("q", exact(1))) == Appended("q", 2, 4)
            with pytest.raises(ConcurrencyError, match="version 2") as conflict:
                await store.append(append("q", NO_STREAM))
            assert conflict.value.actual == 2
            with pytest.raises(CommandIdReused):
                await store.append(append("p", ANY, "c", request="other"))
            for number in range(10):
                await store.append(append("p", ANY, f"async-{number}"))
                other.append(append("p", ANY, f"sync-{number}"))
            outcomes = await store.append_many([append("r", exact(3)), append("s", NO_STREAM)])
            assert [type(outcome) for outcome in outcomes] == [ConcurrencyError, Appended]
            assert await store.read_stream("p") == other.read_stream("p")
            assert await store.read_stream("p", from_version=3, to_version=9, backwards=True, limit=2) == (
                other.read_stream("p", from_version=3, to_version=9, backwards=True, limit=2)
            )
            assert await store.read_streams(["p", "q"]) == other.read_streams(["p", "q"])
            assert [e async for e in store.read_all(5, up_to=20)] == list(other.read_all(5, up_to=20))
            none = EventFilter.of(event_types=["Other"])
            assert [e async for e in store.read_all(only=none)] == []
            assert await store.read_correlation("correlation") == list(other.read_all())
            assert await store.find_commands(["c"]) == other.find_commands(["c"])
            assert (await store.stream_version("p"), await store.stream_version("x")) == (22, None)
            assert await store.head() == other.head() == 25

    run(settings, scenario)
    assert assert_log_is_whole(database) == 25


def test_tasks_that_append_at_once_share_few_transactions(settings: Settings, database: Db) -> None:
    batches: list[int] = []

    async def scenario(store: AsyncEventStore) -> None:
        commit = store._transaction.commit

        def counted(requests: Any) -> Any:
            batches.append(len(requests))
            return commit(requests)

        store._transaction.commit = counted  # type: ignore[method-assign]

        async def write(number: int) -> None:
            for i in range(5):
                await store.append(append(f"own-{number}", ANY if i else NO_STREAM, f"{number}-{i}"))

        await asyncio.gather(*(write(number) for number in range(50)))

    run(settings, scenario, linger_seconds=0.01)
    assert assert_log_is_whole(database) == sum(batches) == 250
    assert len(batches) <= 50


def test_an_atomic_request_and_its_checkpoint_are_stored_or_refused_as_one(
    settings: Settings, database: Db
) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        move = CheckpointMove("reader", 5, after=0)
        assert len(await store.append_atomically([append("a"), append("b")], move)) == 2
        with pytest.raises(CheckpointConflict):
            await store.append_atomically([append("c")], move)
        with pytest.raises(ConcurrencyError):
            await store.append_atomically(
                [append("c"), append("a", exact(7))], CheckpointMove("reader", 6, after=5)
            )
        assert (await store.checkpoint("reader"), await store.head()) == (5, 2)
        assert await store.append_many([]) == []

    run(settings, scenario)
    assert database["events"].count_documents({"aggregateId": "c"}) == 0


def test_a_writer_that_is_cancelled_before_its_batch_stores_nothing_and_hurts_nobody(
    settings: Settings, database: Db
) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        begun, gate = held_back(store)
        inside = asyncio.create_task(store.append(append("inside", NO_STREAM, "i")))
        beside = asyncio.create_task(store.append(append("beside", NO_STREAM)))
        await begun.wait()
        waiting = [asyncio.create_task(store.append(append(f"w{n}", NO_STREAM))) for n in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        inside.cancel()
        gate.set()
        results = await asyncio.gather(inside, beside, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [
            asyncio.CancelledError,
            Appended,
            Appended,
            asyncio.CancelledError,
            Appended,
        ]
        # Its batch had begun: it is stored, and sending it again tells so.
        assert (await store.append(append("inside", NO_STREAM, "i"))).duplicate

    run(settings, scenario)
    assert database["events"].count_documents({"aggregateId": "w1"}) == 0
    assert assert_log_is_whole(database) == 4


def test_closing_flushes_what_was_queued(settings: Settings, database: Db) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        requests = [await store.submit([append(f"p{n}")]) for n in range(100)]
        await store.close()
        positions = [(await request.wait())[0].position for request in requests]  # type: ignore[union-attr]
        assert positions == list(range(1, 101))
        with pytest.raises(EventStoreError, match="closed"):
            await store.append(append("late"))

    run(settings, scenario)
    assert assert_log_is_whole(database) == 100


def test_a_loop_that_ends_without_closing_does_not_hang_and_its_writers_are_told(settings: Settings) -> None:
    told: list[BaseException] = []

    async def write(store: AsyncEventStore, name: str) -> None:
        try:
            await store.append(append(name))
        except BaseException as error:
            told.append(error)
            raise

    async def main() -> None:
        database = await open_async_database(settings)
        store = AsyncEventStore(database)
        begun, _ = held_back(store)
        request = await store.submit([append("inside")])
        await begun.wait()
        queued = await store.submit([append("queued")])
        assert store._committer._task is not None
        store._committer._task.cancel()
        for each in (request, queued):
            try:
                await each.wait()
            except StoreUnavailable as error:
                told.append(error)
        with pytest.raises(EventStoreError, match="closed"):
            await store.append(append("late"))
        await store.close()
        # And one that nobody ends: asyncio.run cancels it.
        other = AsyncEventStore(database)
        begun, _ = held_back(other)
        never = asyncio.create_task(write(other, "never"))
        await begun.wait()
        assert not never.done()

    asyncio.run(main())
    assert [type(error) for error in told] == [StoreUnavailable, StoreUnavailable, asyncio.CancelledError]


def test_writers_wait_where_a_full_queue_is_ahead_of_them_and_may_give_up(
    settings: Settings, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_APPENDS", 4)

    async def scenario(store: AsyncEventStore) -> None:
        begun, gate = held_back(store)
        first = await store.submit([append("first")])
        await begun.wait()
        submitted: list[int] = []

        async def write(number: int) -> None:
            request = await store.submit([append(f"p{number}")])
            submitted.append(number)
            await request.wait()

        writers = [asyncio.create_task(write(number)) for number in range(12)]
        await asyncio.sleep(0)
        assert submitted == [0, 1, 2, 3]
        writers[7].cancel()
        gate.set()
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert [type(r) for r in results].count(asyncio.CancelledError) == 1
        assert submitted == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
        assert isinstance((await first.wait())[0], Appended)

    run(settings, scenario)
    assert assert_log_is_whole(database) == 12


def test_a_committer_that_ends_by_an_error_leaves_nobody_waiting(settings: Settings, database: Db) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        begun, gate = held_back(store)
        first = await store.submit([append("first")])
        await begun.wait()
        queued = [await store.submit([append(f"p{number}")]) for number in range(3)]

        async def broken(writers: int) -> Any:
            raise RuntimeError("a fault of ours")

        store._committer._next_batch = broken  # type: ignore[method-assign]
        gate.set()
        assert isinstance((await first.wait())[0], Appended)
        for request in queued:
            with pytest.raises(StoreUnavailable, match="a fault of ours"):
                await request.wait()
        with pytest.raises(EventStoreError, match="ended by an error"):
            await store.append(append("late"))

    run(settings, scenario)
    assert assert_log_is_whole(database) == 1


def test_closing_without_mongodb_tries_one_batch_and_tells_the_rest() -> None:
    async def main() -> list[Any]:
        with socket.socket() as held:  # so that no server can come
            held.bind(("127.0.0.1", 0))
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                "127.0.0.1", held.getsockname()[1], serverSelectionTimeoutMS=50
            )
            transaction = AppendTransaction(client["nothing"], sleep=asyncio.sleep, give_up_after=0.0)
            store = AsyncEventStore(client["nothing"], max_batch=1, transaction=transaction)
            begun, gate = held_back(store)
            requests = [await store.submit([append(f"p{number}")]) for number in range(5)]
            await begun.wait()
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            gate.set()
            await closing
            told = await asyncio.gather(*(request.wait() for request in requests), return_exceptions=True)
            await client.close()
            return told

    first, *rest = asyncio.run(main())
    assert isinstance(first, StoreUnavailable)
    assert "MongoDB did not confirm the append in time" in str(first)
    assert {str(each).split(" Send")[0] for each in rest} == {batching.CLOSED_UNCONFIRMED}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("findAndModify", {"closeConnection": True}),
        ("insert", {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}),
        ("commitTransaction", {"closeConnection": True}),
        ("commitTransaction", {"errorCode": 91, "errorLabels": ["UnknownTransactionCommitResult"]}),
    ],
    ids=str,
)
def test_under_faults_every_append_is_stored_exactly_once(
    settings: Settings, database: Db, command: str, fault: dict[str, Any]
) -> None:
    admin = database.client.admin
    data = {"failCommands": [command], "appName": APP, **fault}

    async def scenario(store: AsyncEventStore) -> None:
        admin.command({"configureFailPoint": "failCommand", "mode": {"times": 3}, "data": data})

        async def write(number: int) -> None:
            for i in range(3):
                assert not (
                    await store.append(append(f"p{number}-{i}", NO_STREAM, f"{number}-{i}"))
                ).duplicate

        await asyncio.gather(*(write(number) for number in range(8)))

    try:
        run(settings, scenario)
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert assert_log_is_whole(database) == 24


def test_a_gap_in_the_log_is_an_error_and_not_an_end(settings: Settings, database: Db) -> None:
    async def scenario(store: AsyncEventStore) -> None:
        await store.append(append("p", events=5))
        database["events"].delete_one({"position": 3})
        with pytest.raises(LogCorrupted, match="position 3"):
            _ = [event async for event in store.read_all()]

    run(settings, scenario)
