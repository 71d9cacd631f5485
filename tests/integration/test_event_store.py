"""The event store's promises, on a real server."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from ledgerlake.eventstore.chain import GENESIS, extend
from ledgerlake.eventstore.expected import ANY, NO_STREAM, ExpectedVersion, after
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    ConcurrencyError,
    EventStoreError,
    LogCorrupted,
    NewEvent,
    StoredEvent,
)
from ledgerlake.eventstore.store import EventStore
from ledgerlake.settings import Settings

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
Db = Database[dict[str, Any]]


def event(name: str = "PaymentProcessed", organization: str = "acme") -> NewEvent:
    return NewEvent(
        name,
        {"amount": Decimal128("1.00"), "amountMinor": Int64(100), "currency": "EUR", "attempt": 1},
        NOON,
        "correlation",
        "causation",
        {"userId": "u", "organizationId": organization},
    )


def append(
    stream: str,
    expected: ExpectedVersion = ANY,
    command: str | None = None,
    events: int = 1,
    request: str = "h",
) -> Append:
    return Append(stream, "Payment", [event()] * events, expected, command, request if command else None)


@pytest.fixture
def store(database: Db) -> Iterator[EventStore]:
    with EventStore(database) as opened:
        yield opened


@pytest.fixture
def other(database: Db) -> Iterator[EventStore]:
    """A second store on the same log, as another process would have it."""
    with EventStore(database) as opened:
        yield opened


def assert_log_is_whole(database: Db) -> int:
    """Positions 1..n without a gap, the counter at n, and versions 1..m in every stream."""
    events = list(database["events"].find().sort("position", 1))
    assert [e["position"] for e in events] == list(range(1, len(events) + 1))
    counter = database["counters"].find_one({"_id": "events"})
    assert counter is not None
    assert counter["position"] == len(events)
    streams: dict[str, list[int]] = {}
    for e in events:
        streams.setdefault(e["aggregateId"], []).append(e["version"])
    assert all(versions == list(range(1, len(versions) + 1)) for versions in streams.values())
    assert_chained(database)
    return len(events)


def assert_chained(database: Db) -> list[int]:
    """The counter and every link hold the hash of the events up to them, as stored; where the links stand."""
    raw: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
    events: Any = database.get_collection("events", codec_options=raw)
    documents = [bytes(event.raw) for event in events.find().sort("position", 1)]
    links = {link["_id"]: bytes(link["hash"]) for link in database["log_chain"].find().sort("_id", 1)}
    counter = database["counters"].find_one({"_id": "events"})
    assert counter is not None
    expected, value = {}, GENESIS
    for position, document in enumerate(documents, start=1):
        value = extend(value, [document])
        if position in links:
            expected[position] = value
    assert links == expected
    assert bytes(counter["chain"]) == value
    return list(links)


def test_an_event_is_stored_with_exactly_the_fields_of_the_contract(store: EventStore, database: Db) -> None:
    assert store.append(append("p", NO_STREAM, "c")) == Appended("p", 1, 1)
    document = database["events"].find_one()
    assert document is not None
    assert sorted(document) == sorted(
        [
            "_id",
            "aggregateId",
            "aggregateType",
            "eventType",
            "eventData",
            "version",
            "timestamp",
            "correlationId",
            "causationId",
            "metadata",
            "position",
            "commandId",
            "recordedAt",
            "schemaVersion",
        ]
    )
    assert isinstance(document.pop("_id"), ObjectId)
    assert isinstance(document["position"], Int64)
    assert isinstance(document["version"], Int64)
    recorded = document.pop("recordedAt")
    assert abs((datetime.now(UTC) - recorded).total_seconds()) < 60
    assert document == {
        "aggregateId": "p",
        "aggregateType": "Payment",
        "eventType": "PaymentProcessed",
        "eventData": {"amount": Decimal128("1.00"), "amountMinor": 100, "currency": "EUR", "attempt": 1},
        "version": 1,
        "timestamp": NOON,
        "correlationId": "correlation",
        "causationId": "causation",
        "metadata": {"userId": "u", "organizationId": "acme", "requestHash": "h"},
        "position": 1,
        "commandId": "c",
        "schemaVersion": 1,
    }


def test_positions_have_no_gap_under_many_writers_with_conflicts(database: Db) -> None:
    """Two stores, 16 threads, hot streams, every command sent twice, and a reader that tails the log."""
    stores = [EventStore(database, linger_seconds=linger) for linger in (0, 0.002)]
    seen: list[int] = []
    stop = threading.Event()

    def tail() -> None:
        while True:
            last = stop.is_set()
            for e in database["events"].find({"position": {"$gt": len(seen)}}).sort("position", 1):
                seen.append(e["position"])
            if last:
                return

    def write(number: int) -> None:
        chance = random.Random(number)
        mine = stores[number % 2]
        for i in range(25):
            stream = f"hot-{chance.randrange(5)}" if i % 3 else f"own-{number}-{i}"
            while True:
                version = len(mine.read_stream(stream))
                try:
                    mine.append(append(stream, after(version), f"{number}-{i}"))
                    break
                except ConcurrencyError:
                    continue
            assert mine.append(append(stream, ANY, f"{number}-{i}")).duplicate

    reader = threading.Thread(target=tail)
    reader.start()
    writers = [threading.Thread(target=write, args=(n,)) for n in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    for opened in stores:
        opened.close()
    assert assert_log_is_whole(database) == 16 * 25
    assert seen == list(range(1, 16 * 25 + 1))


def test_a_counter_behind_the_log_is_an_error_and_not_a_second_use_of_positions(
    store: EventStore, database: Db
) -> None:
    store.append(append("p", events=3))
    database["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(1)}})
    with pytest.raises(LogCorrupted, match="position|Position"):
        store.append(append("q"))
    assert database["events"].count_documents({}) == 3


def test_committed_events_reach_the_bus_in_position_order_and_refused_ones_do_not(store: EventStore) -> None:
    heard: list[StoredEvent] = []
    failed: list[int] = []

    def broken(event: StoredEvent) -> None:
        failed.append(event.position)
        raise RuntimeError("this subscriber is broken")

    store.bus.subscribe(broken)
    stop = store.bus.subscribe(heard.append)
    refunds: list[StoredEvent] = []
    store.bus.subscribe(refunds.append, event_types=["PaymentRefunded"])
    store.append_many([append("a", NO_STREAM), append("a", NO_STREAM), append("b", NO_STREAM, events=2)])
    store.bus.close()
    assert [e.position for e in heard] == [1, 2, 3] == failed
    assert [(e.stream_id, e.version) for e in heard] == [("a", 1), ("b", 1), ("b", 2)]
    assert heard[0].event_id == store.read_stream("a")[0].event_id
    assert refunds == []
    stop()
    assert len(store.bus._subscribers) == 2


def test_the_checks_inside_the_transaction_are_answered_by_indexes(store: EventStore, database: Db) -> None:
    store.append_many([append(f"p{i % 20}", ANY, f"c{i}") for i in range(200)])
    heads = database.command(
        "explain",
        {
            "aggregate": "events",
            "pipeline": [
                {"$match": {"aggregateId": {"$in": ["p1", "p2"]}}},
                {"$sort": {"aggregateId": -1, "version": -1}},
                {"$group": {"_id": "$aggregateId", "version": {"$first": "$version"}}},
            ],
            "cursor": {},
        },
        verbosity="queryPlanner",
    )
    assert "DISTINCT_SCAN" in str(heads) or "IXSCAN" in str(heads)
    assert "COLLSCAN" not in str(heads)
    commands = database["events"].find({"commandId": {"$in": ["c1", "c2"]}}).explain()
    assert "events_command" in str(commands["queryPlanner"]["winningPlan"])


def test_a_subscriber_that_appends_or_gives_up_holds_up_nobody(store: EventStore) -> None:
    heard: list[int] = []

    def react(event: StoredEvent) -> None:
        heard.append(event.position)
        if event.stream_id == "a":
            store.append(append("reaction"))

    def give_up(event: StoredEvent) -> None:
        raise SystemExit(1)

    store.bus.subscribe(give_up)
    store.bus.subscribe(react)
    store.append(append("a"))
    store.append(append("b"))
    store.bus.close()
    assert sorted(e.stream_id for s in ("a", "b", "reaction") for e in store.read_stream(s)) == [
        "a",
        "b",
        "reaction",
    ]
    assert heard[0] == 1


def test_what_the_server_refuses_does_not_fail_the_other_writers_of_its_batch(store: EventStore) -> None:
    """A key that no index takes is found by the server only, in the middle of everyone's transaction."""
    bad = append("bad")
    bad.events[0].data["$bad"] = 1  # type: ignore[index]
    commit = store._transaction.commit
    tried: list[int] = []

    def refuse(requests: Any) -> Any:
        tried.append(len(requests))
        if any(a.stream_id == "bad" for r in requests for a in r.write.appends):
            raise OperationFailure("refused")
        return commit(requests)

    store._transaction.commit = refuse  # type: ignore[method-assign]
    gate = threading.Lock()
    with gate:
        requests = [store.submit([append(s) if s != "bad" else bad]) for s in ("x", "bad", "y", "z")]
    outcomes: list[Any] = []
    for request in requests:
        try:
            outcomes.append(request.wait()[0].stream_id)  # type: ignore[union-attr]
        except EventStoreError:
            outcomes.append("refused")
    assert outcomes == ["x", "refused", "y", "z"]


def test_an_event_that_no_subscriber_could_be_told_of_stops_no_writer(store: EventStore) -> None:
    store.bus.subscribe(lambda _: None)
    beyond = replace(event(), data={"at": DatetimeMS(10**16)})  # it can be written, and not be read as a date
    assert store.append(replace(append("a"), events=[beyond])).position == 1
    assert store.append(append("b")).position == 2


def test_a_repetition_and_a_refusal_wait_for_a_majority_of_what_they_rest_on(
    settings: Settings, store: EventStore
) -> None:
    """Were their transaction aborted, what it has read could still be rolled back."""
    store.append(append("a", NO_STREAM, "c"))
    commands: list[str] = []

    class Listener(CommandListener):
        def started(self, event: CommandStartedEvent) -> None:
            commands.append(event.command_name)

        def succeeded(self, event: CommandSucceededEvent) -> None: ...

        def failed(self, event: CommandFailedEvent) -> None: ...

    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongodb_uri, event_listeners=[Listener()], tz_aware=True
    )
    with client, EventStore(client[settings.database]) as another:
        assert another.append(append("a", NO_STREAM, "c")).duplicate
        assert commands[-1] == "commitTransaction"
        commands.clear()
        with pytest.raises(ConcurrencyError):
            another.append(append("a", NO_STREAM, "d"))
        assert commands[-1] == "commitTransaction"
        assert another.head() == 1
        assert_chained(client[settings.database])
