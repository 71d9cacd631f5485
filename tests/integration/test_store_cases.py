"""Every store keeps the same promises: on MongoDB and in memory, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.testing.memory import InMemoryEventStore
from ledgerlake.testing.memory_async import AsyncInMemoryEventStore
from tests.shared_log import SharedLog, shared_log

pytest.register_assert_rewrite("ledgerlake.testing.cases")

from ledgerlake.testing.cases import (  # noqa: E402 - the asserts in them are rewritten by then
    AsyncCases,
    AsyncStore,
    AtomicCases,
    Blocking,
    MeetingCases,
    ReadingCases,
    Store,
    WritingCases,
)
from ledgerlake.testing.cases.blocking import Loop  # noqa: E402

Pair = tuple[Store, Store]


@pytest.fixture(scope="module")
def log(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedLog]:
    with shared_log(mongo_uri, tmp_path_factory.mktemp("store-cases")) as made:
        yield made


@pytest.fixture
def empty_log(log: SharedLog) -> SharedLog:
    log.empty()
    return log


def in_memory(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with InMemoryEventStore() as store:
        yield store, store


def on_mongodb(request: pytest.FixtureRequest) -> Iterator[Pair]:
    database = request.getfixturevalue("empty_log").database
    with EventStore(database) as store, EventStore(database) as other:
        yield store, other


def async_in_memory(request: pytest.FixtureRequest) -> Iterator[Pair]:
    log = InMemoryEventStore()
    with Loop() as loop, Blocking(loop, lambda: AsyncInMemoryEventStore(log)) as store:
        yield store, store


def async_on_mongodb(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Beside a synchronous one: the two share a log as two processes do."""
    log: SharedLog = request.getfixturevalue("empty_log")
    with Loop() as loop:
        opened = loop.run(open_async_database(log.settings))
        try:
            with Blocking(loop, lambda: AsyncEventStore(opened)) as store, EventStore(log.database) as other:
                yield store, other
        finally:
            loop.run(opened.client.close())


@pytest.fixture(
    params=[in_memory, on_mongodb, async_in_memory, async_on_mongodb], ids=lambda each: each.__name__
)
def stores(request: pytest.FixtureRequest) -> Iterator[Pair]:
    yield from request.param(request)


@pytest.fixture
def store(stores: Pair) -> Store:
    return stores[0]


@pytest.fixture
def other(stores: Pair) -> Store:
    return stores[1]


class TestReading(ReadingCases):
    pass


class TestWriting(WritingCases):
    pass


class TestAtomic(AtomicCases):
    pass


class TestMeeting(MeetingCases):
    pass


@pytest.fixture(params=["memory", "mongodb"])
def opened(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        log = InMemoryEventStore()
        return lambda: AsyncInMemoryEventStore(log)
    settings = request.getfixturevalue("empty_log").settings

    @asynccontextmanager
    async def on_database() -> AsyncIterator[AsyncStore]:
        database = await open_async_database(settings)
        try:
            async with AsyncEventStore(database) as store:
                yield store
        finally:
            await database.client.close()

    return on_database


class TestAsync(AsyncCases):
    pass
