"""The payment lifecycle: what each command leads to, and what the rules refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.events import (
    PaymentEvent,
    PaymentFailed,
    PaymentProcessed,
    PaymentRefunded,
    UnknownEvent,
    event_data,
    read_event,
)
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import NOTHING, Command, CommandRejected, Payment, Status, decide, evolve

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def eur(minor: int) -> Money:
    return Money(minor, "EUR")


def common(money: Money, **fields: Any) -> dict[str, Any]:
    return {"command_id": "c", "organization_id": "acme", "amount": money, "occurred_at": NOON, **fields}


def pay(minor: int = 1000, **fields: Any) -> ProcessPayment:
    return ProcessPayment(**{"payment_id": "p", **common(eur(minor), **fields)})


def fail(minor: int = 1000, **fields: Any) -> FailPayment:
    return FailPayment(**{"payment_id": "p", "reason": "card_expired", **common(eur(minor), **fields)})


def refund(minor: int = 1000, **fields: Any) -> RefundPayment:
    return RefundPayment(**{"payment_id": "p", **common(eur(minor), **fields)})


def after(*commands: Command) -> Payment:
    state = NOTHING
    for command in commands:
        state = evolve(state, decide(state, command), command.organization_id)
    return state


def refused(state: Payment, command: Command) -> str:
    with pytest.raises(CommandRejected) as rejected:
        decide(state, command)
    return rejected.value.code


def test_a_payment_completes_at_its_first_attempt() -> None:
    assert decide(NOTHING, pay()) == PaymentProcessed(eur(1000), attempt=1)
    assert after(pay()).status is Status.COMPLETED


def test_a_failed_payment_is_retried_under_the_next_attempt_number() -> None:
    assert decide(NOTHING, fail()) == PaymentFailed(eur(1000), 1, "card_expired")
    assert after(fail()).status is Status.FAILED
    assert decide(after(fail(), fail()), pay()) == PaymentProcessed(eur(1000), attempt=3)
    assert after(fail(), pay()).status is Status.COMPLETED


def test_a_failure_after_completion_is_kept_and_changes_no_status() -> None:
    assert decide(after(pay()), fail()) == PaymentFailed(eur(1000), 2, "card_expired")
    assert after(pay(), fail()).status is Status.COMPLETED
    assert after(pay(), refund(1), fail()).status is Status.PARTIALLY_REFUNDED


def test_a_payment_completes_once() -> None:
    assert refused(after(pay()), pay()) == "already_completed"
    assert refused(after(pay(), refund()), pay()) == "already_completed"


def test_refunds_add_up_to_the_payment_and_no_further() -> None:
    assert after(pay(1000), refund(400)).status is Status.PARTIALLY_REFUNDED
    assert after(pay(1000), refund(400), refund(600)).status is Status.REFUNDED
    assert refused(after(pay(1000), refund(400)), refund(601)) == "refund_exceeds_payment"
    assert refused(after(pay(1000), refund(1000)), refund(1)) == "refund_exceeds_payment"


def test_only_a_completed_payment_is_refunded() -> None:
    assert refused(NOTHING, refund()) == "unknown_payment"
    assert refused(after(fail()), refund()) == "not_completed"


def test_a_refund_that_names_no_payment_is_a_stream_of_its_own() -> None:
    note = refund(payment_id=None)
    assert note.stream_id == "credit-note/c"
    assert decide(NOTHING, note) == PaymentRefunded(eur(1000), None, unreferenced=True)
    assert after(note).status is Status.REFUNDED
    assert refused(after(note), note) == "already_credited"


def test_a_payment_can_not_pass_for_a_credit_note() -> None:
    assert refused(NOTHING, pay(payment_id="credit-note/x")) == "bad_payment_id"


@pytest.mark.parametrize("command", [pay, fail, refund])
def test_nothing_and_less_than_nothing_is_no_amount(command: Any) -> None:
    assert refused(after(pay()), command(0)) == "zero_amount"
    assert refused(after(pay()), command(-1)) == "negative_amount"


@pytest.mark.parametrize("command", [pay, fail, refund])
def test_organization_and_currency_never_change(command: Any) -> None:
    assert refused(after(fail()), command(organization_id="other")) == "organization_mismatch"
    assert refused(after(fail()), command(amount=Money(1000, "USD"))) == "currency_mismatch"


def test_a_stream_without_events_has_no_status() -> None:
    assert NOTHING.status is None


@pytest.mark.parametrize(
    "event",
    [
        PaymentProcessed(eur(1), 2),
        PaymentFailed(eur(1), 1, "x"),
        PaymentFailed(eur(1), 1, None),
        PaymentRefunded(eur(1), "y"),
        PaymentRefunded(eur(1), None, unreferenced=True),
    ],
)
def test_an_event_is_read_back_as_it_was_written(event: PaymentEvent) -> None:
    data = {"amountMinor": event.amount.minor, "currency": event.amount.currency, **event_data(event)}
    assert read_event(type(event).__name__, 1, data) == event


@pytest.mark.parametrize(("name", "version"), [("PaymentProcessed", 2), ("PaymentLost", 1), ("__class__", 1)])
def test_an_unknown_type_or_schema_version_is_a_clear_error(name: str, version: int) -> None:
    with pytest.raises(UnknownEvent, match="upgrade"):
        read_event(name, version, {})


def test_the_request_hash_tells_a_repetition_from_a_reused_id() -> None:
    assert pay().request_hash() == pay(correlation_id="other").request_hash()
    different = [
        pay(),
        pay(1001),
        fail(),
        refund(),
        refund(payment_id=None),
        pay(user_id="u"),
        pay(organization_id="acm", user_id="e"),
        pay(occurred_at=datetime(2026, 6, 1, 13, tzinfo=UTC)),
        pay(amount=Money(1000, "USD")),
    ]
    assert len({command.request_hash() for command in different}) == len(different)


commands = st.lists(
    st.builds(lambda make, minor: make(minor), st.sampled_from([pay, fail, refund]), st.integers(0, 3000)),
    max_size=20,
)


@given(commands)
def test_no_history_breaks_the_invariants(history: list[Command]) -> None:
    state = NOTHING
    completions = 0
    for command in history:
        try:
            event = decide(state, command)
        except CommandRejected:
            continue
        before = state
        state = evolve(state, event, command.organization_id)
        completions += isinstance(event, PaymentProcessed)
        assert completions <= 1
        assert state.version == before.version + 1
        assert 0 <= state.refunded <= (state.processed or 0)
        assert (state.processed is not None) == (completions == 1)
        if isinstance(event, PaymentFailed) and before.status not in (None, Status.FAILED):
            assert state.status is before.status
