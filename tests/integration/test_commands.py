"""Commands through the bus: once each, decided on the stream as it is, refusals kept with their reason."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.commands import payments
from ledgerlake.commands.bus import CommandBus, UnknownCommand
from ledgerlake.commands.middleware import validation_batches
from ledgerlake.commands.model import CommandResult
from ledgerlake.commands.payments import PaymentHandler
from ledgerlake.domain.commands import FailPayment, PaymentCommand, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.model import ConcurrencyError, EventTooLarge
from ledgerlake.eventstore.store import EventStore
from ledgerlake.settings import Settings
from ledgerlake.testing.memory import InMemoryEventStore

NOON = datetime(2026, 6, 1, 12, 0, 0, 123000, tzinfo=UTC)
Db = Database[dict[str, Any]]


def common(command_id: str, amount: str, currency: str, **fields: Any) -> dict[str, Any]:
    return {
        "command_id": command_id,
        "organization_id": "acme",
        "amount": Money.parse(amount, currency),
        "occurred_at": NOON,
        **fields,
    }


def pay(
    payment: str, command_id: str, amount: str = "10.00", currency: str = "EUR", **fields: Any
) -> ProcessPayment:
    return ProcessPayment(payment_id=payment, **common(command_id, amount, currency, **fields))


def refund(
    payment: str | None, command_id: str, amount: str = "10.00", currency: str = "EUR", **fields: Any
) -> RefundPayment:
    return RefundPayment(payment_id=payment, **common(command_id, amount, currency, **fields))


@pytest.fixture
def ledger(settings: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(settings) as opened:
        yield opened


def test_a_command_becomes_an_event_with_exact_amounts(ledger: LedgerLake) -> None:
    result = ledger.commands.dispatch(
        pay("p", "c", "12.345", "BHD", user_id="u", metadata={"channel": "web"})
    )
    assert result == CommandResult("c", "p", 1, 1, duplicate=False)
    document = ledger.db["events"].find_one({"position": 1}) or {}
    assert document["eventType"] == "PaymentProcessed"
    assert document["eventData"] == {
        "amount": Decimal128("12.345"),
        "amountMinor": 12345,
        "currency": "BHD",
        "attempt": 1,
    }
    assert document["timestamp"] == NOON
    assert document["correlationId"] == document["causationId"] == document["commandId"] == "c"
    metadata = document["metadata"]
    assert (metadata["userId"], metadata["organizationId"], metadata["channel"]) == ("u", "acme", "web")


def test_correlation_and_causation_are_kept_where_given(ledger: LedgerLake) -> None:
    ledger.commands.dispatch(pay("p", "c", correlation_id="order-1", causation_id="event-0"))
    event = ledger.store.read_stream("p")[0]
    assert (event.correlation_id, event.causation_id) == ("order-1", "event-0")


def test_a_command_is_done_once(ledger: LedgerLake) -> None:
    first = ledger.commands.dispatch(pay("p", "c"))
    assert ledger.commands.dispatch(pay("p", "c")) == replace(first, duplicate=True)
    assert ledger.store.head() == 1
    assert ledger.db["command_rejections"].count_documents({}) == 0


@pytest.mark.parametrize("other", [pay("p", "c", "11.00"), pay("q", "c"), refund("p", "c")])
def test_a_reused_command_id_is_refused_and_leaves_the_first_alone(
    ledger: LedgerLake, other: PaymentCommand
) -> None:
    ledger.commands.dispatch(pay("p", "c"))
    with pytest.raises(CommandRejected) as rejected:
        ledger.commands.dispatch(other)
    assert rejected.value.code == "command_id_reused"
    kept = ledger.db["command_rejections"].find_one({}) or {}
    assert (kept["commandId"], kept["reasonCode"], kept["resolvedAt"]) == ("c", "command_id_reused", None)
    ledger.commands.dispatch(pay("p", "c"))
    assert (ledger.db["command_rejections"].find_one({}) or {})["resolvedAt"] is None
    assert ledger.store.head() == 1


def test_a_refused_command_is_kept_and_cleared_when_it_is_right_after_all(ledger: LedgerLake) -> None:
    with pytest.raises(CommandRejected, match="no payment"):
        ledger.commands.dispatch(refund("p", "r", "4.00"))
    kept = ledger.db["command_rejections"].find_one({"commandId": "r"}) or {}
    assert (kept["reasonCode"], kept["amount"], kept["currency"], kept["paymentId"], kept["resolvedAt"]) == (
        "unknown_payment",
        "4.00",
        "EUR",
        "p",
        None,
    )
    ledger.commands.dispatch(pay("p", "c"))
    ledger.commands.dispatch(refund("p", "r", "4.00"))
    assert (ledger.db["command_rejections"].find_one({"commandId": "r"}) or {})["resolvedAt"] is not None


def test_a_date_without_a_zone_is_refused_and_the_refusal_is_kept(ledger: LedgerLake) -> None:
    with pytest.raises(CommandRejected, match="no time zone"):
        ledger.commands.dispatch(pay("p", "c", occurred_at=datetime(2026, 1, 1)))
    [kept] = ledger.db["command_rejections"].find()
    assert (kept["commandId"], kept["reasonCode"]) == ("c", "bad_date")


def test_a_batch_comes_to_what_its_commands_come_to_one_by_one(
    ledger: LedgerLake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ledgerlake.commands")
    ledger.commands.dispatch(pay("p", "c1"))
    batch = [
        refund("q", "r1", "4.00"),
        pay("q", "c2"),
        refund("q", "r2", "4.00"),
        pay("p", "c1"),
        pay("x\0", "c3"),
        refund("q", "r3", "7.00"),
        pay("q", "c2"),
    ]
    outcomes = ledger.commands.dispatch_batch(batch)
    told = [each.code if isinstance(each, CommandRejected) else each.duplicate for each in outcomes]
    assert told == ["unknown_payment", False, False, True, "bad_payment_id", "refund_exceeds_payment", True]
    kept = {each["commandId"]: each["reasonCode"] for each in ledger.db["command_rejections"].find()}
    assert kept == {"r1": "unknown_payment", "c3": "bad_payment_id", "r3": "refund_exceeds_payment"}
    ledger.commands.dispatch_batch([batch[0]])
    assert (ledger.db["command_rejections"].find_one({"commandId": "r1"}) or {})["resolvedAt"] is not None
    lines = [each.getMessage() for each in caplog.records if "c2" in each.getMessage()]
    assert [line.split(" at ")[0] for line in lines] == [
        "ProcessPayment c2 done",
        "ProcessPayment c2 was done before",
    ]
    with pytest.raises(UnknownCommand):
        CommandBus({FailPayment: ledger.payments.handle_batch}).dispatch_batch([pay("z", "c9")])


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (pay("", "c"), "missing_payment_id"),
        (pay("p", " "), "missing_command_id"),
        (pay("p", "c", organization_id=""), "missing_organization_id"),
        (pay("p" * 513, "c"), "bad_payment_id"),
        (pay("p\0", "c"), "bad_payment_id"),
        (pay("p", "c", occurred_at=datetime(2026, 1, 1)), "bad_date"),
        (pay("p", "c", occurred_at=datetime(9999, 12, 31, tzinfo=UTC)), "bad_date"),
        (pay("p", "c", occurred_at=datetime(1066, 10, 14, tzinfo=UTC)), "bad_date"),
        (pay("p\ud800", "c"), "bad_payment_id"),
        (pay("p", "c", reason="x" * 5_000), "bad_reason"),
        (pay("p", "c", metadata={"k": "\udfff"}), "bad_metadata"),
    ],
)
def test_a_command_that_can_not_be_stored_is_refused_before_anything_is_read(
    command: PaymentCommand, code: str
) -> None:
    def handler(commands: Sequence[PaymentCommand]) -> list[CommandResult]:
        assert commands == [], "the handler must not see it"
        return []

    bus = CommandBus({ProcessPayment: handler}, shared=[validation_batches])
    with pytest.raises(CommandRejected) as rejected:
        bus.dispatch(command)
    assert rejected.value.code == code


def test_a_command_without_a_handler_is_a_clear_error() -> None:
    with pytest.raises(UnknownCommand, match="ProcessPayment"):
        CommandBus({FailPayment: lambda commands: []}).dispatch(pay("p", "c"))


def test_middleware_wraps_the_handler_first_one_outermost() -> None:
    order: list[str] = []

    def layer(name: str) -> Any:
        def middleware(given: Any, handle: Any) -> Any:
            order.append(f"{name} in")
            result = handle(given)
            order.append(f"{name} out")
            return result

        return middleware

    def handler(commands: Sequence[PaymentCommand]) -> list[CommandResult]:
        order.append("handler")
        return [CommandResult("c", "p", 1, 1, False) for _ in commands]

    bus = CommandBus(
        {ProcessPayment: handler},
        [layer("a"), layer("b")],
        batch_middleware=[layer("c"), layer("d")],
        shared=[layer("s"), layer("t")],
    )
    bus.dispatch(pay("p", "c"))
    inside = ["s in", "t in", "handler", "t out", "s out"]
    assert order == ["a in", "b in", *inside, "b out", "a out"]
    order.clear()
    bus.dispatch_batch([pay("p", "c"), pay("q", "d")])
    assert order == ["c in", "d in", *inside, "d out", "c out"]


def test_commands_go_to_the_handlers_of_their_types_in_their_order() -> None:
    taken: list[str] = []

    def handler(name: str) -> Any:
        def handle(commands: Sequence[PaymentCommand]) -> list[CommandResult]:
            taken.append(name + "".join(each.command_id for each in commands))
            return [CommandResult(each.command_id, "p", 1, 1, False) for each in commands]

        return handle

    bus = CommandBus({ProcessPayment: handler("pay "), RefundPayment: handler("refund ")})
    outcomes = bus.dispatch_batch([pay("p", "1"), pay("p", "2"), refund("p", "3"), pay("p", "4")])
    assert taken == ["pay 12", "refund 3", "pay 4"]
    assert [each.command_id for each in outcomes if isinstance(each, CommandResult)] == ["1", "2", "3", "4"]


def test_a_conflict_is_tried_again_and_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[int] = []
    monkeypatch.setattr(payments, "backoff", slept.append)
    with InMemoryEventStore() as store:
        PaymentHandler(store).handle(pay("p", "c"))
        stale = store.read_streams({"p"})
        left = 3

        class Behind:
            """The store, whose reads are of before the last event, a few times."""

            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def read_streams(self, stream_ids: set[str]) -> Any:
                nonlocal left
                left -= 1
                return store.read_streams(stream_ids) if left < 0 else stale

        PaymentHandler(store).handle(refund("p", "r1", "1.00"))
        behind: Any = Behind()
        assert PaymentHandler(behind).handle(refund("p", "r2", "1.00")).version == 3
        assert slept == [2, 3]
        left = payments.MOST_TRIES
        bus = CommandBus({RefundPayment: PaymentHandler(behind).handle_batch})
        with pytest.raises(ConcurrencyError, match="is at version 3"):
            bus.dispatch(refund("p", "r3", "1.00"))
        assert store.head() == 3


def test_logs_say_what_became_of_a_command_and_nothing_personal(
    ledger: LedgerLake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ledgerlake.commands")
    ledger.commands.dispatch(pay("p", "c", user_id="secret-user"))
    with pytest.raises(CommandRejected):
        ledger.commands.dispatch(pay("p", "d", user_id="secret-user"))
    assert "ProcessPayment c done at position 1" in caplog.text
    assert "ProcessPayment d rejected: already_completed" in caplog.text
    assert "secret-user" not in caplog.text


def test_concurrent_refunds_never_exceed_the_payment(settings: Settings, database: Db) -> None:
    """Twelve threads on two stores want 3.00 each of one payment of 10.00: three get it."""
    stores = [EventStore(database) for _ in range(2)]
    handlers = [PaymentHandler(store) for store in stores]
    handlers[0].handle(pay("p", "c"))
    outcomes: list[str] = []

    def want(number: int) -> None:
        bus = CommandBus({RefundPayment: handlers[number % 2].handle_batch})
        try:
            bus.dispatch(refund("p", f"r{number}", "3.00"))
            outcomes.append("refunded")
        except CommandRejected as rejected:
            outcomes.append(rejected.code)

    threads = [threading.Thread(target=want, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert sorted(outcomes) == ["refund_exceeds_payment"] * 9 + ["refunded"] * 3


def test_commands_at_once_share_a_batch_and_are_decided_each_by_itself(database: Db) -> None:
    with EventStore(database) as store:
        loads: list[list[str]] = []
        opened, asked = threading.Event(), threading.Event()

        class Held:
            """The store, whose first load waits until the others have come."""

            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def read_streams(self, stream_ids: set[str]) -> Any:
                loads.append(sorted(stream_ids))
                asked.set()
                opened.wait()
                return store.read_streams(stream_ids)

        PaymentHandler(store).handle(pay("paid", "c0"))
        held: Any = Held()
        handler = PaymentHandler(held)
        bus = CommandBus({RefundPayment: handler.handle_batch, ProcessPayment: handler.handle_batch})
        outcomes: dict[str, str] = {}

        def dispatch(command: PaymentCommand) -> None:
            try:
                result = bus.dispatch(command)
                outcomes[command.command_id] = "duplicate" if result.duplicate else "done"
            except CommandRejected as rejected:
                outcomes[command.command_id] = rejected.code
            except EventTooLarge:
                outcomes[command.command_id] = "too large"

        first = threading.Thread(target=dispatch, args=(pay("first", "c1"),))
        first.start()
        asked.wait()
        threads = [
            threading.Thread(target=dispatch, args=(command,))
            for command in (
                pay("paid", "c0"),
                pay("new", "c2"),
                refund("paid", "r1", "7.00"),
                refund("paid", "r2", "7.00"),
                refund("unknown", "r3"),
                pay("large", "c3", metadata={"text": "x" * 1_100_000}),
            )
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while len(bus._grouped._gathering) < len(threads) and time.monotonic() < deadline:
            time.sleep(0.01)
        opened.set()
        for thread in (first, *threads):
            thread.join()
        # The one that is too large is about itself only, so then each is done by itself.
        assert loads[:2] == [["first"], ["large", "new", "paid", "unknown"]]
        assert outcomes["c3"] == "too large"
        assert [outcomes[name] for name in ("c0", "c1", "c2", "r3")] == [
            "duplicate",
            "done",
            "done",
            "unknown_payment",
        ]
        assert sorted((outcomes["r1"], outcomes["r2"])) == ["done", "refund_exceeds_payment"]


def test_a_batch_comes_to_the_same_as_its_commands_one_by_one(ledger: LedgerLake) -> None:
    chance = random.Random(7)
    commands: list[Any] = []
    for i in range(300):
        payment = f"p{chance.randrange(30)}"
        amount = f"{chance.randrange(0, 900) / 100:.2f}"
        kind = chance.choice(["pay", "refund", "credit", "repeat"])
        if kind == "repeat" and commands:
            commands.append(chance.choice(commands))
        elif kind == "credit":
            commands.append(refund(None, f"c{i}", amount))
        else:
            commands.append((pay if kind == "pay" else refund)(payment, f"c{i}", amount))
    one_by_one: list[str] = []
    other = LedgerLake(ledger.settings, ledger.db.client.get_database(f"{ledger.db.name}_b"))
    from ledgerlake.mongo.indexes import ensure_schema

    ensure_schema(other.db)
    try:
        for command in commands:
            try:
                result = other.payments.handle(command)
                one_by_one.append(f"{result.stream_id} {result.version} {result.duplicate}")
            except CommandRejected as rejected:
                one_by_one.append(rejected.code)
        batch = [
            outcome.code
            if isinstance(outcome, CommandRejected)
            else f"{outcome.stream_id} {outcome.version} {outcome.duplicate}"
            for outcome in ledger.payments.handle_batch(commands)
        ]
        assert batch == one_by_one
        assert ledger.store.head() == other.store.head() > 50
    finally:
        other.store.close()
        ledger.db.client.drop_database(other.db.name)


def test_a_reused_id_is_told_as_such_whatever_else_is_wrong(ledger: LedgerLake) -> None:
    """Also where another rule would refuse the command too, and the first use lies on another stream."""
    ledger.commands.dispatch(pay("p", "c"))
    for other in (refund("nobody", "c"), pay("q", "c", "0.00")):
        with pytest.raises(CommandRejected) as rejected:
            ledger.commands.dispatch(other)
        assert rejected.value.code == "command_id_reused"
    kept = list(ledger.db["command_rejections"].find())
    assert [(k["paymentId"], k["reasonCode"], k["resolvedAt"]) for k in kept] == [
        ("nobody", "command_id_reused", None),
        ("q", "command_id_reused", None),
    ]
