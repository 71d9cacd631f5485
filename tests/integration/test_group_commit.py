"""Group commit on a real server: what it costs, what it chains, whom it serves, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from bson import Binary, Int64
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from ledgerlake.eventstore import batching
from ledgerlake.eventstore.contract import EventReader, EventWriter
from ledgerlake.eventstore.expected import ANY, NO_STREAM, exact
from ledgerlake.eventstore.model import (
    Appended,
    CheckpointConflict,
    CheckpointMove,
    ConcurrencyError,
    EventStoreError,
    EventTooLarge,
    StoreUnavailable,
)
from ledgerlake.eventstore.store import EventStore
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history
from tests.integration.test_event_store import append, assert_chained, assert_log_is_whole

Db = Database[dict[str, Any]]


class Commands(CommandListener):
    """The names of the commands that were sent, but for those about sessions and the server's health."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: Any) -> None:
        if event.command_name not in ("hello", "endSessions"):
            self.sent.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...

    def taken(self) -> list[str]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def watched(database: Db, mongo_uri: str, commands: Commands) -> Iterator[EventStore]:
    """A store whose commands are counted."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        mongo_uri, event_listeners=[commands], w="majority", readConcernLevel="majority"
    )
    with EventStore(client[database.name]) as store:
        yield store
    client.close()


@pytest.fixture
def store(database: Db) -> Iterator[EventStore]:
    with EventStore(database) as opened:
        yield opened


@pytest.fixture
def gate(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Holds back every commit of `store` until it is called."""
    opened = threading.Event()
    commit = store._transaction.commit

    def held(requests: Any) -> Any:
        opened.wait()
        return commit(requests)

    monkeypatch.setattr(store._transaction, "commit", held)
    yield opened.set
    opened.set()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about; fail where it does not."""
    for _ in range(6_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("It did not come about in a minute.")


def test_an_append_takes_three_commands_where_nobody_interferes(
    watched: EventStore, commands: Commands
) -> None:
    """The hash chain is in it without another round trip."""
    contract: tuple[EventReader, EventWriter] = (watched, watched)
    assert contract  # mypy checks that the store keeps it
    watched.append(append("p", NO_STREAM, "first"))
    commands.taken()
    watched.append(append("p", exact(1), "second"))
    assert commands.taken() == ["findAndModify", "insert", "commitTransaction"]
    watched.append_many([append("q", NO_STREAM, "third"), append("p", ANY, "fourth")])
    assert commands.taken() == ["findAndModify", "insert", "commitTransaction"]
    watched.append_atomically([append("r", NO_STREAM)], CheckpointMove("reader", 3))
    assert commands.taken() == ["findAndModify", "insert", "update", "commitTransaction"]


def test_another_process_between_costs_a_look_and_breaks_nothing(
    watched: EventStore, store: EventStore, commands: Commands, database: Db
) -> None:
    watched.append(append("p", NO_STREAM))
    store.append(append("q", NO_STREAM))
    commands.taken()
    assert watched.append(append("p", exact(1))).position == 3
    assert commands.taken() == ["findAndModify", "findAndModify", "update", "insert", "commitTransaction"]
    for number in range(20):
        (store, watched)[number % 2].append(append("p", ANY, f"c{number}"))
    assert assert_log_is_whole(database) == 23


def test_links_are_kept_about_every_thousand_positions(store: EventStore, database: Db) -> None:
    for batch in range(6):
        store.append_many([append(f"{batch}-{n}", NO_STREAM, events=10) for n in range(41)])
    assert assert_chained(database) == [1_230, 2_050]


def test_a_log_from_before_the_chain_is_chained_by_its_first_append(store: EventStore, database: Db) -> None:
    insert_events(database, payment_history(1, 2_500))
    database["counters"].update_one({"_id": "events"}, {"$unset": {"chain": 1}})
    database["log_chain"].delete_many({})
    assert store.append(append("new", NO_STREAM)).position == 2_501
    assert assert_chained(database) == [1_000, 2_000, 2_500]
    store.append(append("new", exact(1)))
    assert assert_chained(database) == [1_000, 2_000, 2_500]


def test_a_forged_hash_of_the_head_is_not_healed_by_the_next_append(store: EventStore, database: Db) -> None:
    store.append(append("p", NO_STREAM))
    forged = Binary(b"x" * 32)
    database["counters"].update_one({"_id": "events"}, {"$set": {"chain": forged}})
    store.append(append("p", exact(1)))
    with pytest.raises(AssertionError):
        assert_chained(database)


@pytest.mark.parametrize("first", [0, 1])
def test_no_stream_means_none_whichever_version_streams_start_at(
    store: EventStore, database: Db, first: int
) -> None:
    """A stream of one event at version 0 would let the index take a "first" event at version 1."""
    with EventStore(database) as other:
        opened = append("p", NO_STREAM)
        assert other.append(_from(first, opened)).version == first
        store.append(append("unrelated", NO_STREAM))
        for again in (0, 1):
            with pytest.raises(ConcurrencyError, match="version") as conflict:
                store.append(_from(again, opened))
            assert conflict.value.actual == first
        assert store.append(_from(0, append("p", exact(first)))).version == first + 1
    assert [e.version for e in store.read_stream("p")] == [first, first + 1]


def test_of_consumers_that_race_for_an_event_one_stores_what_came_of_it(database: Db) -> None:
    stores = [EventStore(database) for _ in range(2)]
    conflicts: list[int] = []

    def consume(number: int) -> None:
        mine = stores[number % 2]
        for position in range(1, 11):
            try:
                mine.append_atomically(
                    [append(f"from-{position}")], CheckpointMove("consumer", position, after=position - 1)
                )
            except CheckpointConflict:
                conflicts.append(position)
            until(lambda: mine.checkpoint("consumer") >= position)  # noqa: B023

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for opened in stores:
        opened.close()
    assert len(conflicts) == 30
    assert [e["aggregateId"] for e in database["events"].find().sort("position", 1)] == [
        f"from-{position}" for position in range(1, 11)
    ]
    found = database["subscriptions"].find_one({"_id": "consumer"})
    assert found is not None
    assert isinstance(found["position"], Int64)
    assert sorted(found) == ["_id", "position", "updatedAt"]


def test_a_checkpoint_can_move_alone(store: EventStore, database: Db) -> None:
    assert store.append_atomically([], CheckpointMove("reader", 4, after=0)) == []
    with pytest.raises(CheckpointConflict):
        store.append_atomically([], CheckpointMove("reader", 4))
    store.append_atomically([], CheckpointMove("reader", 9))
    assert (store.checkpoint("reader"), store.checkpoint("nobody"), store.head()) == (9, 0, 0)
    with pytest.raises(CheckpointConflict):
        store.append_atomically([append("p")], CheckpointMove("reader", 12, after=4))
    assert database["events"].count_documents({}) == 0


def test_writers_wait_where_a_full_queue_is_ahead_of_them_and_all_are_served(
    store: EventStore, database: Db, gate: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_APPENDS", 4)
    admitted: list[int] = []
    queued = threading.Semaphore(0)
    put = store._committer._intake.put

    def counted(request: Any) -> Any:
        ticket = put(request)
        queued.release()
        return ticket

    monkeypatch.setattr(store._committer._intake, "put", counted)
    blocking = store.submit([append("first")])  # its commit is held back
    queued.acquire()
    until(lambda: len(store._committer._intake) == 0)

    def write(number: int) -> None:
        request = store.submit([append(f"p{number}")])
        admitted.append(number)
        request.wait()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for writer in writers:
        writer.start()
    for _ in writers:
        queued.acquire()
    assert len(admitted) <= 4
    gate()
    for writer in writers:
        writer.join()
    assert isinstance(blocking.wait()[0], Appended)
    assert sorted(admitted) == list(range(12))
    assert assert_log_is_whole(database) == 13


def test_closing_flushes_what_waits_in_front_of_a_full_queue_too(
    store: EventStore, database: Db, gate: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_APPENDS", 1)
    first = store.submit([append("first")])
    until(lambda: len(store._committer._intake) == 0)
    outcomes: list[Any] = []
    writers = [
        threading.Thread(target=lambda n=number: outcomes.extend(store.append_many([append(f"p{n}")])))
        for number in range(7)
    ]
    for writer in writers:
        writer.start()
    until(lambda: len(store._committer._intake) == 7)
    closer = threading.Thread(target=store.close)
    closer.start()
    until(lambda: store._committer._closing)
    with pytest.raises(EventStoreError, match="closed"):
        store.append(append("late"))
    gate()
    for thread in (*writers, closer):
        thread.join()
    assert isinstance(first.wait()[0], Appended)
    assert sorted(outcome.position for outcome in outcomes) == list(range(2, 9))
    assert assert_log_is_whole(database) == 8


def test_a_committer_that_ends_by_an_error_leaves_nobody_waiting(
    store: EventStore, database: Db, gate: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends it here is a handler that ends its thread; what was told before stays told."""

    def exits(documents: Any) -> None:
        raise SystemExit("a handler's")

    monkeypatch.setattr(store._committer, "_on_committed", exits)
    first = store.submit([append("first")])
    until(lambda: len(store._committer._intake) == 0)
    queued = [store.submit([append(f"p{number}")]) for number in range(3)]
    refused: list[BaseException] = []

    def write() -> None:
        try:
            store.append(append("waits"))
        except EventStoreError as error:
            refused.append(error)

    # One that waits for a place in the queue, too.
    monkeypatch.setattr(batching, "MAX_QUEUED_APPENDS", 1)
    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: len(store._committer._intake) == 4)

    gate()
    assert isinstance(first.wait()[0], Appended)
    for request in queued:
        with pytest.raises(StoreUnavailable, match=r"ended by an error \(SystemExit: a handler's\)"):
            request.wait()
    writer.join()
    assert [type(error) for error in refused] == [StoreUnavailable]
    with pytest.raises(EventStoreError, match="ended by an error"):
        store.append(append("late"))
    store.close()
    assert assert_log_is_whole(database) == 1


@pytest.fixture
def nowhere() -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of a server that is not there; its port is held, so that none can come."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client: MongoClient[dict[str, Any]] = MongoClient(
            "127.0.0.1", held.getsockname()[1], serverSelectionTimeoutMS=50
        )
        yield client
        client.close()


def test_closing_without_mongodb_tries_one_batch_and_tells_the_rest(
    nowhere: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = AppendTransaction(nowhere["nothing"], give_up_after=0.0)
    opened = threading.Event()
    tried: list[int] = []
    commit = transaction.commit

    def held(requests: Any) -> Any:
        tried.append(len(requests))
        opened.wait()
        return commit(requests)

    monkeypatch.setattr(transaction, "commit", held)
    store = EventStore(nowhere["nothing"], max_batch=1, transaction=transaction)
    requests = [store.submit([append(f"p{number}")]) for number in range(5)]
    until(lambda: len(store._committer._intake) == 4)
    closer = threading.Thread(target=store.close)
    closer.start()
    until(lambda: store._committer._closing)
    opened.set()
    closer.join()
    assert tried == [1]
    with pytest.raises(StoreUnavailable, match="MongoDB did not confirm the append in time"):
        requests[0].wait()
    for request in requests[1:]:
        with pytest.raises(StoreUnavailable, match="closed while MongoDB did not confirm"):
            request.wait()


def test_a_request_of_many_megabytes_is_stored_whole_and_a_larger_one_refused(store: EventStore) -> None:
    large = append("large", events=11)
    for each in large.events:
        each.data["text"] = "x" * 990_000  # type: ignore[index]
    assert store.append(large).position == 11
    with pytest.raises(EventTooLarge, match="over 12,000,000"):
        store.append_many([append("a"), large, append("b", events=2), _with(large, 2)])
    assert store.append(append("small")).position == 12


KILLED = """
import sys, time
from bson import Binary, Int64
from pymongo import MongoClient
db = MongoClient(sys.argv[1])[sys.argv[2]]
session = db.client.start_session()
session.start_transaction()
db["counters"].update_one(
    {"_id": "events"}, {"$inc": {"position": Int64(1)}, "$set": {"chain": Binary(bytes(32))}}, session=session
)
db["events"].insert_one({"position": Int64(2), "aggregateId": "p", "version": Int64(2)}, session=session)
print("inside", flush=True)
time.sleep(600)
"""


def test_a_process_that_dies_inside_its_transaction_holds_the_others_up_for_a_moment_only(
    store: EventStore, database: Db, settings: Settings
) -> None:
    """The server ends what was abandoned after its transactionLifetimeLimitSeconds: 3, where it is ours."""
    assert settings.mongodb_uri is not None
    store.append(append("p", NO_STREAM))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, settings.mongodb_uri, settings.database],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
    # Not a stopwatch: less than the 60 seconds of the server's default, which would be another limit.
    store._transaction._give_up_after = 50
    assert store.append(append("p", exact(1), "mine")) == Appended("p", 2, 2)
    assert assert_log_is_whole(database) == 2
    limit = database.client.admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    assert limit["transactionLifetimeLimitSeconds"] <= 5


@pytest.mark.parametrize(("seconds", "warned"), [(3, False), (60, True)])
def test_a_server_that_would_let_the_dead_block_the_living_is_warned_of(
    database: Db, settings: Settings, caplog: pytest.LogCaptureFixture, seconds: int, warned: bool
) -> None:
    admin = database.client.admin
    before = admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    try:
        admin.command("setParameter", 1, transactionLifetimeLimitSeconds=seconds)
        open_database(settings).client.close()
    finally:
        limit = before["transactionLifetimeLimitSeconds"]
        admin.command("setParameter", 1, transactionLifetimeLimitSeconds=limit)
    assert ("transactionLifetimeLimitSeconds: 3" in caplog.text) is warned


def _from(first: int, given: Any) -> Any:

    return replace(given, first_version=first)


def _with(given: Any, events: int) -> Any:

    return replace(given, stream_id="more", events=given.events[:events])
