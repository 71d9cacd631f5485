"""The payment lifecycle: what each command leads to, and what the rules refuse."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.events import (
    PaymentEvent,
    PaymentFailed,
    PaymentProcessed,
    PaymentRefunded,
    event_data,
    read_event,
)
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import NOTHING, Command, CommandRejected, Payment, Status, decide, evolve
from ledgerlake.domain.registry import UnknownEvent
from ledgerlake.testing.scenario import Decider, Scenario

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


def paid(minor: int = 1000, attempt: int = 1) -> PaymentProcessed:
    return PaymentProcessed(eur(minor), attempt)


def failed(attempt: int = 1, minor: int = 1000) -> PaymentFailed:
    return PaymentFailed(eur(minor), attempt, "card_expired")


def refunded(minor: int = 1000) -> PaymentRefunded:
    return PaymentRefunded(eur(minor), None)


def has(status: Status) -> Callable[[Payment], bool]:
    return lambda state: state.status is status


nothing = Scenario(Decider(decide, lambda state, event: evolve(state, event, "acme"), NOTHING))
given = nothing.given


def test_a_payment_completes_at_its_first_attempt() -> None:
    nothing.when(pay()).then(paid())
    nothing.when(pay()).then_state(has(Status.COMPLETED))


def test_a_failed_payment_is_retried_under_the_next_attempt_number() -> None:
    story = nothing.when(fail()).then(failed(1)).when(fail()).then(failed(2))
    story.when(pay()).then(paid(attempt=3))
    story.when(fail()).then_state(has(Status.FAILED))
    story.when(pay()).then_state(has(Status.COMPLETED))


def test_a_failure_after_completion_is_kept_and_changes_no_status() -> None:
    given(paid()).when(fail()).then(failed(2))
    given(paid()).when(fail()).then_state(has(Status.COMPLETED))
    given(paid(), refunded(1)).when(fail()).then_state(has(Status.PARTIALLY_REFUNDED))


def test_a_payment_completes_once() -> None:
    given(paid()).when(pay()).then_error("already_completed")
    given(paid(), refunded()).when(pay()).then_error("already_completed")


def test_refunds_add_up_to_the_payment_and_no_further() -> None:
    part = given(paid(1000), refunded(400))
    part.when(refund(601)).then_error("refund_exceeds_payment")
    part.when(refund(599)).then_state(has(Status.PARTIALLY_REFUNDED))
    part.when(refund(600)).then_state(has(Status.REFUNDED))
    part.when(refund(600)).then(refunded(600)).when(refund(1)).then_error("refund_exceeds_payment")


def test_only_a_completed_payment_is_refunded() -> None:
    nothing.when(refund()).then_error("unknown_payment")
    given(failed()).when(refund()).then_error("not_completed")


def test_a_refund_that_names_no_payment_is_a_stream_of_its_own() -> None:
    note = refund(payment_id=None)
    assert note.stream_id == "credit-note/c"
    nothing.when(note).then_state(has(Status.REFUNDED))
    credited = nothing.when(note).then(PaymentRefunded(eur(1000), None, unreferenced=True))
    credited.when(note).then_error("already_credited")


def test_a_payment_can_not_pass_for_a_credit_note() -> None:
    nothing.when(pay(payment_id="credit-note/x")).then_error("bad_payment_id")


@pytest.mark.parametrize("command", [pay, fail, refund])
def test_nothing_and_less_than_nothing_is_no_amount(command: Any) -> None:
    given(paid()).when(command(0)).then_error("zero_amount")
    given(paid()).when(command(-1)).then_error("negative_amount")


@pytest.mark.parametrize("command", [pay, fail, refund])
def test_organization_and_currency_never_change(command: Any) -> None:
    given(failed()).when(command(organization_id="other")).then_error("organization_mismatch")
    given(failed()).when(command(amount=Money(1000, "USD"))).then_error("currency_mismatch")


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


@generated(commands)
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
