"""Snapshots spare a long stream's events, and change nothing else: with or without them, all is the same."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.application import LedgerLake
from ledgerlake.commands.model import CommandResult
from ledgerlake.commands.payments import PaymentHandler
from ledgerlake.commands.streams import SNAPSHOT
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import Command, CommandRejected, Payment
from ledgerlake.domain.snapshot import snapshot_data, snapshot_state
from ledgerlake.eventstore.snapshots import Broken, Snapshot, SnapshotPolicy, SnapshotStore
from ledgerlake.eventstore.snapshotting import SHORT_STREAM, Snapshots
from ledgerlake.eventstore.store import EventStore
from ledgerlake.settings import Settings
from ledgerlake.testing.memory import InMemoryEventStore
from tests.builders import event, insert_events

Db = Database[dict[str, Any]]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
IDS = itertools.count()


def command(kind: Any, command_id: str, minor: int = 1, payment: str | None = "p", **fields: Any) -> Command:
    made: Command = kind(
        command_id=command_id,
        payment_id=payment,
        organization_id=fields.pop("organization_id", "acme"),
        amount=Money(minor, "EUR"),
        occurred_at=NOON,
        **fields,
    )
    return made


@dataclass(frozen=True)
class Side:
    """A handler with snapshots, on a log and a snapshots collection of its own."""

    handler: PaymentHandler
    snapshots: Snapshots
    store: EventStore
    db: Db

    def do(self, command: Command) -> CommandResult | tuple[str, str]:
        [outcome] = self.all([command])
        return outcome

    def all(self, commands: list[Command]) -> list[CommandResult | tuple[str, str]]:
        outcomes = [told(outcome) for outcome in self.handler.handle_batch(commands)]
        assert self.snapshots.flush(120)
        return outcomes

    def snapshot(self, stream: str = "p") -> Snapshot | Broken | None:
        return SnapshotStore(self.db).load([stream]).get(stream)


def kept(db: Db) -> list[dict[str, Any]]:
    # What was written a moment ago is not yet on a majority, which is what the database is read at.
    return list(db.get_collection("snapshots", read_concern=ReadConcern("local")).find())


def told(outcome: CommandResult | CommandRejected) -> CommandResult | tuple[str, str]:
    return (outcome.code, str(outcome)) if isinstance(outcome, CommandRejected) else outcome


@pytest.fixture
def side(database: Db) -> Iterator[Callable[[int], Side]]:
    """Makes a handler that takes snapshots every so many events; all share one event store."""
    store = EventStore(database)
    made: list[Snapshots] = []

    def make(every: int) -> Side:
        made.append(Snapshots(database, SnapshotPolicy({"Payment": every})))
        return Side(PaymentHandler(store, snapshots=made[-1]), made[-1], store, database)

    yield make
    for snapshots in made:
        snapshots.close()
    store.close()


def paid_and_refunded(side: Side, refunds: int, payment: str = "p") -> None:
    """A payment of 1000, then this many refunds of 1: the commands {payment}-0, {payment}-1 and so on."""
    assert isinstance(side.do(command(ProcessPayment, f"{payment}-0", 1000, payment)), CommandResult)
    for number in range(1, refunds + 1):
        side.do(command(RefundPayment, f"{payment}-{number}", 1, payment))


# What a load costs


def examined(db: Db, work: Callable[[], object]) -> int:
    """Documents that the server looked at for all that `work` asks of events and snapshots."""
    db.command("profile", 0)
    db["system.profile"].drop()
    db.command("profile", 2)
    try:
        work()
    finally:
        db.command("profile", 0)
    return sum(
        entry.get("docsExamined", 0)
        for entry in db["system.profile"].find({"ns": {"$in": [f"{db.name}.events", f"{db.name}.snapshots"]}})
    )


def test_ten_thousand_events_with_a_snapshot_cost_about_what_ten_do(
    database: Db, side: Callable[[int], Side]
) -> None:
    insert_events(
        database,
        [
            *(event(at, "long", "PaymentFailed", 100, version=at, attempt=at) for at in range(1, 10_001)),
            *(
                event(10_000 + at, "short", "PaymentFailed", 100, version=at, attempt=at)
                for at in range(1, 10)
            ),
        ],
    )
    payments = side(100)

    def load(*streams: str) -> int:
        return examined(database, lambda: payments.handler._load(set(streams)))

    assert load("long") == 10_000 + SHORT_STREAM  # there is no snapshot yet: the price, for the comparison
    payments.snapshots.flush(120)
    short = load("short")
    assert short <= SHORT_STREAM
    assert load("long") <= short + 3
    assert load("long", "short") <= short + SHORT_STREAM + 3
    assert payments.handler._load({"long"})["long"].state.attempts == 10_000


def test_a_short_stream_does_not_ask_for_a_snapshot(database: Db, side: Callable[[int], Side]) -> None:
    payments = side(100)
    paid_and_refunded(payments, 3)
    database.command("profile", 2)
    payments.handler.handle(command(RefundPayment, "r"))
    database.command("profile", 0)
    asked = database["system.profile"].distinct("ns", {"op": {"$in": ["query", "command", "getmore"]}})
    assert f"{database.name}.snapshots" not in asked
    assert f"{database.name}.events" in asked


def test_snapshots_are_taken_every_so_many_events_and_of_the_types_that_the_policy_names(
    database: Db, side: Callable[[int], Side]
) -> None:
    payments = side(4)
    seen = []
    for number in range(12):
        payments.do(command(FailPayment, f"f-{number}"))
        found = payments.snapshot()
        seen.append(found.version if isinstance(found, Snapshot) else None)
    assert seen == [None] * 4 + [4] * 4 + [8] * 4
    other = Snapshots(database, SnapshotPolicy({"Other": 1}))
    paid_and_refunded(
        Side(PaymentHandler(payments.store, snapshots=other), other, payments.store, database), 5, "q"
    )
    assert payments.snapshot("q") is None
    with pytest.raises(ValueError, match="not 0"):
        SnapshotPolicy({"Payment": 0})


# What it must not change

kinds = st.sampled_from([ProcessPayment, FailPayment, FailPayment, RefundPayment, RefundPayment])
asked = st.tuples(
    kinds, st.integers(0, 11), st.sampled_from([1, 1, 2, 9]), st.sampled_from(["p", "p", "p", "q", None])
)
steps = st.lists(
    st.tuples(st.lists(asked, min_size=1, max_size=6), st.sampled_from(["", "", "", "lost", "late"])),
    max_size=10,
)


@pytest.fixture
def compared(side: Callable[[int], Side]) -> Iterator[tuple[Callable[[int], Side], PaymentHandler]]:
    with InMemoryEventStore() as memory:
        yield side, PaymentHandler(memory)


@given(st.integers(1, 6), steps)
@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_snapshots_of_any_policy_every_command_comes_to_what_it_comes_to_without(
    compared: tuple[Callable[[int], Side], PaymentHandler], every: int, steps: list[tuple[list[Any], str]]
) -> None:
    make, without = compared
    payments = make(every)
    example = next(IDS)
    for wanted, fate in steps:
        commands = [
            command(
                kind if payment is not None else RefundPayment,
                f"{example}-{number}",
                minor,
                None if payment is None else f"{payment}-{example}",
            )
            for kind, number, minor, payment in wanted
        ]
        if fate == "lost":
            payments.db["snapshots"].delete_many({})
        outcomes = [told(outcome) for outcome in payments.handler.handle_batch(commands)]
        if fate != "late":
            payments.snapshots.flush(120)
        assert outcomes == [told(outcome) for outcome in without.handle_batch(commands)]


def test_writers_at_once_with_snapshots_refund_no_more_than_the_payment_and_nothing_twice(
    side: Callable[[int], Side],
) -> None:
    payments = side(3)
    paid_and_refunded(payments, 0)
    payments.do(command(RefundPayment, "first", 970))
    outcomes: list[CommandResult | tuple[str, str]] = []

    def write(writer: int) -> None:
        for number in range(12):
            # Every command is sent by two writers.
            again = command(RefundPayment, f"r-{writer // 2}-{number}")
            outcomes.extend(told(outcome) for outcome in payments.handler.handle_batch([again]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    results = [outcome for outcome in outcomes if isinstance(outcome, CommandResult)]
    refused = {outcome[0] for outcome in outcomes if isinstance(outcome, tuple)}
    assert refused == {"refund_exceeds_payment"}
    assert len({result.command_id for result in results}) == 30
    assert sorted(result.version for result in results if not result.duplicate) == list(range(3, 33))
    assert payments.handler._load({"p"})["p"].state.refunded == 1000


@pytest.mark.parametrize("together", [False, True])
def test_a_command_done_before_the_snapshot_is_a_duplicate_with_its_first_result(
    side: Callable[[int], Side], together: bool
) -> None:
    payments = side(5)
    paid_and_refunded(payments, 20)
    found = payments.snapshot()
    assert isinstance(found, Snapshot)
    assert found.version == 20
    # The rules refuse the first now, and would take the others once more.
    again = [
        command(ProcessPayment, "p-0", 1000),
        command(RefundPayment, "p-1"),
        command(ProcessPayment, "p-0", 1000),
        command(RefundPayment, "p-1"),
        command(RefundPayment, "p-2"),
    ]
    outcomes = payments.all(again) if together else [payments.do(each) for each in again]
    versions = [1, 2, 1, 2, 3]
    assert outcomes == [
        CommandResult(each.command_id, "p", version, version, duplicate=True)
        for each, version in zip(again, versions, strict=True)
    ]
    assert payments.store.stream_version("p") == 21


@pytest.mark.parametrize("together", [False, True])
def test_the_id_of_a_command_before_the_snapshot_is_refused_for_other_content(
    side: Callable[[int], Side], together: bool
) -> None:
    payments = side(5)
    paid_and_refunded(payments, 20)
    other = [
        command(ProcessPayment, "p-0", 999),
        command(RefundPayment, "p-1", 2),
        command(RefundPayment, "p-1", 5000),
        command(ProcessPayment, "p-1", 7, "another"),
        command(RefundPayment, "p-1", 7, "unknown"),
    ]
    outcomes = payments.all(other) if together else [payments.do(each) for each in other]
    assert [outcome[0] for outcome in outcomes if isinstance(outcome, tuple)] == ["command_id_reused"] * 5


def test_without_the_collection_everything_is_as_before(database: Db, side: Callable[[int], Side]) -> None:
    payments = side(3)
    paid_and_refunded(payments, 12)
    assert payments.snapshot() is not None
    before = payments.handler._load({"p"})["p"].state
    database["snapshots"].drop()
    assert payments.handler._load({"p"})["p"].state == before
    assert payments.do(command(RefundPayment, "more", 989)) == (
        "refund_exceeds_payment",
        "A refund of 9.89 EUR exceeds the 9.88 EUR left of the payment.",
    )
    payments.snapshots.flush(120)
    assert payments.snapshot() is not None


# What a snapshot may be, and is not believed


def lie(side: Side, stream: str, **change: Any) -> None:
    """A snapshot that says something else, as its own program would have written it."""
    found = side.snapshot(stream)
    assert isinstance(found, Snapshot)
    side.db["snapshots"].delete_one({"_id": stream})
    assert SnapshotStore(side.db).save(replace(found, **change))


def data(**change: Any) -> dict[str, Any]:
    return snapshot_data(Payment(10, "acme", "EUR", 1000, 9, 1)) | change


# Documents that were changed in the collection ...
CHANGED: list[dict[str, Any]] = [
    {"data.refundedMinor": 0},
    {"version": 9},
    {"aggregateId": "q"},
    {"eventId": "0" * 24},
    {"checksum": "0" * 32},
    {"data": "nothing"},
    {"data": None},
    {"schemaVersion": "1"},
    {"version": "10"},
]
# ... and snapshots that are well-formed, and wrong.
LIES: list[dict[str, Any]] = [
    {"aggregate_type": "Order"},
    {"version": 9},
    {"version": 13},
    {"version": 10**12},
    {"version": 0},
    {"event_id": "0" * 24},
    {"data": {}},
    {"data": data(more=1)},
    {"data": data(refundedMinor="9")},
    {"data": data(refundedMinor=-9)},
    {"data": data(refundedMinor=1001)},
    {"data": data(attempts=11)},
    {"data": data(unreferenced=1)},
    {"data": data(processedMinor=True)},
    {"data": data(processedMinor=1000.0)},
]


def test_a_broken_snapshot_is_ignored_removed_and_taken_anew(
    side: Callable[[int], Side], caplog: pytest.LogCaptureFixture
) -> None:
    payments = side(10)
    documents = payments.db["snapshots"]
    damages: list[Callable[[str], object]] = [
        *(lambda s, c=c: documents.update_one({"_id": s}, {"$set": c}) for c in CHANGED),
        *(lambda s, c=c: documents.replace_one({"_id": s}, c) for c in ({}, {"hello": "world"})),
        *(lambda s, c=c: lie(payments, s, **c) for c in LIES),
    ]
    for number, damage in enumerate(damages):
        stream = f"p{number}"
        eleven_events_and_a_snapshot_of_ten(payments, stream)
        damage(stream)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            state = payments.handler._load({stream})[stream].state
        assert state == Payment(11, "acme", "EUR", 1000, 10, 1), f"damage {number} was believed"
        assert f"The snapshot of {stream!r} is ignored and removed: " in caplog.text
        payments.snapshots.flush(120)
        found = payments.snapshot(stream)
        assert isinstance(found, Snapshot)
        assert (found.version, found.data) == (11, data(refundedMinor=10))


def eleven_events_and_a_snapshot_of_ten(side: Side, stream: str) -> None:
    commands = [command(RefundPayment, f"{stream}-{number}", 1, stream) for number in range(1, 11)]
    side.all([command(ProcessPayment, f"{stream}-0", 1000, stream), *commands[:9]])
    side.all(commands[9:])
    found = side.snapshot(stream)
    assert isinstance(found, Snapshot)
    assert (found.version, found.data) == (10, data())


def test_control_a_snapshot_that_nothing_tells_from_a_right_one_is_what_a_load_goes_by(
    side: Callable[[int], Side],
) -> None:
    payments = side(10)
    eleven_events_and_a_snapshot_of_ten(payments, "p")
    lie(payments, "p", data=data(refundedMinor=500))
    assert payments.handler._load({"p"})["p"].state.refunded == 501


def test_a_snapshot_of_another_schema_is_ignored_and_only_ever_replaced_by_a_later_one(
    side: Callable[[int], Side],
) -> None:
    payments = side(10)
    paid_and_refunded(payments, 10)
    right = payments.handler._load({"p"})["p"].state
    lie(payments, "p", schema_version=0, data={"of": "yesterday"})
    assert payments.handler._load({"p"})["p"].state == right
    payments.snapshots.flush(120)
    found = payments.snapshot()
    assert isinstance(found, Snapshot)
    assert found.schema_version == SNAPSHOT.schema_version
    # A later program runs beside this one: its snapshots are left to it.
    lie(payments, "p", schema_version=99, data={"of": "tomorrow"})
    assert payments.handler._load({"p"})["p"].state == right
    payments.snapshots.flush(120)
    found = payments.snapshot()
    assert isinstance(found, Snapshot)
    assert found.schema_version == 99


def test_a_snapshot_never_replaces_a_newer_one(database: Db) -> None:
    store = SnapshotStore(database)
    at = [Snapshot("p", "Payment", version, f"{version}", 1, {"at": version}) for version in range(4)]
    assert [store.save(at[version]) for version in (2, 1, 2, 3, 0)] == [True, False, False, True, False]
    assert store.load(["p", "q"]) == {"p": at[3]}
    store.discard("p", 2)
    assert store.load(["p"]) == {"p": at[3]}
    store.discard("p", 3)
    assert store.load(["p"]) == {}


@given(
    st.builds(
        Payment,
        version=st.integers(1, 10**6),
        organization_id=st.text(max_size=5),
        currency=st.sampled_from(["EUR", "JPY"]),
        processed=st.none() | st.integers(10**15, 10**16),
        refunded=st.just(0) | st.integers(0, 10**15),
        attempts=st.just(1),
        unreferenced=st.just(False),
    ).filter(lambda state: state.processed is not None or not state.refunded)
)
def test_the_state_of_a_payment_comes_back_as_it_was(state: Payment) -> None:
    assert snapshot_state(snapshot_data(state), state.version) == state


# Off the path of whoever waits


def test_a_snapshot_that_can_not_be_written_is_logged_and_harms_nobody(
    database: Db, side: Callable[[int], Side], caplog: pytest.LogCaptureFixture
) -> None:
    database.command({"collMod": "snapshots", "validator": {"never": {"$exists": True}}})
    payments = side(2)
    with caplog.at_level(logging.WARNING):
        paid_and_refunded(payments, 5)
    assert payments.store.stream_version("p") == 6
    assert payments.snapshot() is None
    assert "The snapshot of 'p' was not written: Document failed validation" in caplog.text


def test_snapshots_that_can_not_be_read_are_logged_and_harm_nobody(
    database: Db, side: Callable[[int], Side], caplog: pytest.LogCaptureFixture
) -> None:
    payments = side(2)
    paid_and_refunded(payments, 5)
    database["snapshots"].drop()
    broken = [{"$set": {"_id": "$aggregateId", "never": {"$divide": ["$version", 0]}}}]
    database.command({"create": "snapshots", "viewOn": "events", "pipeline": broken})
    with caplog.at_level(logging.WARNING):
        result = payments.do(command(RefundPayment, "more"))
    assert isinstance(result, CommandResult)
    assert result.version == 7
    assert "Snapshots can not be read" in caplog.text


def test_writing_holds_nobody_up_and_what_finds_no_room_is_dropped(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, save = threading.Event(), SnapshotStore.save

    def slow(self: SnapshotStore, snapshot: Snapshot) -> bool:
        assert free.wait(120)
        return save(self, snapshot)

    monkeypatch.setattr(SnapshotStore, "save", slow)
    snapshots = Snapshots(database, SnapshotPolicy({"Payment": 1}), capacity=2)
    with EventStore(database) as store:
        handler = PaymentHandler(store, snapshots=snapshots)
        for number in range(8):
            handler.handle(command(FailPayment, f"f-{number}"))
        assert snapshots.dropped >= 4
        assert not snapshots.flush(0)
        assert len(kept(database)) == 0
        free.set()
        snapshots.close()
    assert len(kept(database)) == 1
    snapshots.close()


def test_the_ledger_takes_snapshots_as_its_setting_says_and_writes_them_before_it_closes(
    settings: Settings, database: Db
) -> None:
    for every, expected in ((0, 0), (3, 1)):
        with LedgerLake.open(replace(settings, snapshot_every=every)) as ledger:
            for number in range(4):
                ledger.commands.dispatch(
                    command(FailPayment, f"{every}-{number}", user_id="Ada", reason="lost her card")
                )
        assert len(kept(database)) == expected
    assert "Ada" in str(list(database["events"].find()))
    assert "Ada" not in (written := str(kept(database)))
    assert "card" not in written
    assert "acme" in written
