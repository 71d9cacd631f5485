"""A reader that follows `position > checkpoint` sees every event once, in order, whatever the writers do."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database

from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import Append, Appended, LogCorrupted, NewEvent, StoredEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.settings import Settings
from tests.builders import looked_at
from tests.faults.listening import Gate, Record, listening
from tests.faults.log_writers import ABORTED, STARTED, SUCCEEDED

Db = Database[dict[str, Any]]

SEED = 20261127
EVENTS = 100_000
# (how many processes, of what kind, with how many writers each): 32 writers with the four that are killed.
WRITERS = [(2, "steady", 12), (2, "slow", 1), (2, "aborting", 1)]
# What each of the killed writers has just done or is about to do, and for which time. All but the last leave
# a transaction behind that holds the counter.
DEATHS = [
    (SUCCEEDED, "findAndModify", 3),
    (SUCCEEDED, "insert", 6),
    (STARTED, "commitTransaction", 9),
    (SUCCEEDED, "commitTransaction", 4),
]
PAYMENTS = EventFilter.of(aggregate_types=["Payment"])
POLL_SECONDS = 0.02
PATIENCE = 600.0  # seconds for the whole run, which takes a tenth of it at most
LIFETIME = "transactionLifetimeLimitSeconds"


@dataclass(slots=True)
class Tail:
    """A reader that polls from its checkpoint, and takes nothing but the next position."""

    store: EventStore
    checkpoint: int = 0
    seen: list[StoredEvent] = field(default_factory=list)

    def poll(self) -> None:
        for event in self.store.read_all(after=self.checkpoint):
            assert event.position == self.checkpoint + 1
            self.checkpoint = event.position
            self.seen.append(event)


@pytest.mark.slow
def test_a_reader_beside_32_writers_that_abort_dawdle_and_die_sees_every_position_once(
    database: Db, environ: dict[str, str], tmp_path: Path
) -> None:
    numbers = itertools.count()
    writers: list[subprocess.Popen[bytes]] = []
    doomed: list[subprocess.Popen[bytes]] = []

    def start(kind: str, threads: int, *fate: str) -> subprocess.Popen[bytes]:
        number = next(numbers)
        place = str(tmp_path / f"acknowledged-{number}")
        arguments = [kind, f"{SEED}.{number}", str(threads), str(EVENTS), place, *fate]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.log_writers", *arguments],
            env=environ,
            stdout=subprocess.PIPE if kind == "aborting" else subprocess.DEVNULL,
        )

    with EventStore(database) as store:
        tail = Tail(store)
        try:
            for moment, command, number in DEATHS:
                doomed.append(start("dying", 1, moment, command, str(number)))
            for processes, kind, threads in WRITERS:
                writers.extend(start(kind, threads) for _ in range(processes))
            give_up = time.monotonic() + PATIENCE
            running = True
            while running:
                assert time.monotonic() < give_up, f"the writers are at {tail.checkpoint} of {EVENTS}"
                # What is committed before the last writer ended is seen by a poll that begins after it.
                running = any(process.poll() is None for process in (*doomed, *writers))
                tail.poll()
                time.sleep(POLL_SECONDS)
        finally:
            for process in (*doomed, *writers):
                process.kill()
        assert [process.wait() for process in doomed] == [-signal.SIGKILL] * len(DEATHS)
        assert [process.wait() for process in writers] == [0] * len(writers)
        aborted = sum(int(process.stdout.read()) for process in writers if process.stdout is not None)

        assert tail.checkpoint == store.head() >= EVENTS
    assert [event.position for event in tail.seen] == list(range(1, tail.checkpoint + 1))
    assert not any(event.event_type == ABORTED for event in tail.seen)
    ends = {event.command_id: event.position for event in tail.seen if event.command_id is not None}
    lines = [line.split() for path in tmp_path.glob("acknowledged-*") for line in path.open()]
    acknowledged = {command: int(position) for position, command in lines}
    assert len(acknowledged) == len(lines)
    assert acknowledged.items() <= ends.items(), "acknowledged, and not where it was said to be"
    # Killed between its commit and the answer to its writer: one append that is there, and nobody knows.
    assert len(ends) - len(acknowledged) == 1
    assert looked_at(database).ok

    kinds = Counter(event.stream_id.partition("-")[0] for event in tail.seen)
    assert aborted > 0
    assert min(kinds[kind] for kind in ("steady", "slow", "dying")) > 0
    print(f"seed {SEED}; {tail.checkpoint} events ({dict(kinds)}), {aborted} transactions aborted")
    times = [event.recorded_at for event in tail.seen]
    pauses = sorted(((b - a).total_seconds() for a, b in itertools.pairwise(times)), reverse=True)
    print(f"longest pauses of the log, in seconds: {[round(pause, 2) for pause in pauses[:6]]}")


class CounterOutside:
    """The counter as a store must not take it: whatever is done to it does not wait for the transaction."""

    def __init__(self, counters: Collection[dict[str, Any]]) -> None:
        self._counters = counters

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._counters, name)

        def without_session(*arguments: Any, session: object, **options: Any) -> Any:
            return call(*arguments, **options)

        return without_session


def one_event(stream: str) -> Append:
    event = NewEvent("PaymentProcessed", {"amountMinor": 1}, datetime.now(UTC), stream, stream)
    return Append(stream, "Payment", [event], NO_STREAM, stream, "h")


@pytest.fixture
def patient_server(database: Db) -> Iterator[None]:
    """A server that ends no transaction which a test holds open, however long that takes."""
    admin = database.client.admin
    before = admin.command({"getParameter": 1, LIFETIME: 1})[LIFETIME]
    admin.command({"setParameter": 1, LIFETIME: 600})
    yield
    admin.command({"setParameter": 1, LIFETIME: before})


def in_thread(store: EventStore, append: Append, results: list[Appended]) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(store.append(append)))
    thread.start()
    return thread


@pytest.mark.usefixtures("patient_server")
def test_a_later_append_waits_for_the_one_that_is_slow_to_commit(settings: Settings, database: Db) -> None:
    gate, record = Gate("commitTransaction"), Record()
    results: list[Appended] = []
    with (
        listening(settings, gate) as slow_database,
        listening(settings, record) as quick_database,
        EventStore(slow_database) as slow,
        EventStore(quick_database) as quick,
        EventStore(database) as store,
    ):
        tail = Tail(store)
        gate.close()
        first = in_thread(slow, one_event("slow"), results)
        try:
            assert gate.reached.wait(PATIENCE)
            second = in_thread(quick, one_event("quick"), results)
            assert record.conflict.wait(PATIENCE)
            tail.poll()
            assert tail.seen == []
        finally:
            gate.open()
        first.join()
        second.join()
        tail.poll()
    assert [event.stream_id for event in tail.seen] == ["slow", "quick"]
    assert {result.stream_id: result.position for result in results} == {"slow": 1, "quick": 2}


@pytest.mark.usefixtures("patient_server")
def test_negative_control_with_the_counter_outside_the_transaction_a_position_is_skipped(
    settings: Settings, database: Db
) -> None:
    gate = Gate("commitTransaction")
    results: list[Appended] = []
    with (
        listening(settings, gate) as slow_database,
        EventStore(slow_database) as slow,
        EventStore(database) as store,
    ):
        for each in (slow, store):
            each._transaction._counters = CounterOutside(each._transaction._counters)
        gate.close()
        first = in_thread(slow, one_event("slow"), results)
        try:
            assert gate.reached.wait(PATIENCE)
            assert store.append(one_event("quick")).position == 2
            with pytest.raises(LogCorrupted, match="no event at position 1"):
                Tail(store).poll()
            careless = [event.position for event in store.read_all(only=PAYMENTS)]
        finally:
            gate.open()
        first.join()
        careless += [event.position for event in store.read_all(after=careless[-1], only=PAYMENTS)]
    assert [result.position for result in results] == [1]
    assert careless == [2], "a reader that does not look for gaps never hears of position 1"


HOLDER = """
import sys, time
from bson import Int64
from pymongo.errors import PyMongoError
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.transactions import CONCERNS, commit_until_known
from ledgerlake.settings import Settings

database = open_database(Settings.from_env())
with database.client.start_session() as session:
    session.start_transaction(**CONCERNS)
    database["counters"].update_one({"_id": "events"}, {"$inc": {"position": Int64(1)}}, session=session)
    print("holds the counter", flush=True)
    sys.stdin.readline()
    try:
        commit_until_known(session, time.monotonic() + 60)
    except PyMongoError as error:
        print("undone" if error.has_error_label("TransientTransactionError") else error)
"""


def test_a_client_that_freezes_inside_its_transaction_does_not_hold_up_the_others_for_ever(
    database: Db, environ: dict[str, str]
) -> None:
    """Frozen, it keeps its connection: nothing but the transaction's lifetime tells the server to end it."""
    limit = database.client.admin.command({"getParameter": 1, LIFETIME: 1})[LIFETIME]
    with (
        EventStore(database) as store,
        subprocess.Popen(
            [sys.executable, "-c", HOLDER], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"holds the counter\n"
            held = time.monotonic()
            holder.send_signal(signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(holder.pid, os.WUNTRACED)[1])
            assert store.append(one_event("p")).position == 1
            blocked = time.monotonic() - held
        finally:
            holder.send_signal(signal.SIGCONT)
        holder.stdin.write(b"commit\n")
        holder.stdin.close()
        assert holder.stdout.read() == b"undone\n"
        assert [event.position for event in store.read_all()] == [1]
    print(f"blocked for {blocked:.1f} s, with a limit of {limit} s")
    # Only a guard against another limit being at work: the server's default is 60.
    assert limit <= 5
    assert blocked < 55
