"""The Payment aggregate: a value, and two pure functions on it.

`decide(state, command)` says which event a command leads to, or refuses it with a reason code;
`evolve(state, event)` is the state after the event. The lifecycle:

    (nothing) --PaymentFailed--> failed --PaymentFailed--> failed ...
    (nothing) or failed --PaymentProcessed--> completed
    completed --PaymentRefunded--> partially_refunded ... --> refunded
    (nothing) --PaymentRefunded, unreferenced--> refunded        a credit note, its own stream

A failure that is reported after completion is kept as an attempt and changes no status.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from ledgerlake.domain.commands import CREDIT_NOTE, FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.events import PaymentEvent, PaymentFailed, PaymentProcessed, PaymentRefunded
from ledgerlake.domain.money import Money
from ledgerlake.errors import LedgerLakeError

Command: TypeAlias = ProcessPayment | FailPayment | RefundPayment


# Minor units: ten trillion euros. Totals are int64, and an event can never be taken back: without a limit
# at the door, a card number in the amount column would one day stop every total of its organization.
MAX_AMOUNT: Final = 10**15


class Status(StrEnum):
    """What a payment has come to, derived from its events."""

    FAILED = "failed"
    COMPLETED = "completed"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


class CommandRejected(LedgerLakeError):
    """The rules refuse a command. `code` is stable and kept in command_rejections."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Payment:
    """State of one payment stream after `version` events.

    `processed` and `refunded` are int64 minor units of `currency`; `processed` is None until an
    attempt went through.
    """

    version: int = 0
    organization_id: str = ""
    currency: str = ""
    processed: int | None = None
    refunded: int = 0
    attempts: int = 0
    unreferenced: bool = False

    @property
    def status(self) -> Status | None:
        """The derived status; None for a stream without events."""
        if self.version == 0:
            return None
        if self.unreferenced:
            return Status.REFUNDED
        if self.processed is None:
            return Status.FAILED
        if self.refunded == 0:
            return Status.COMPLETED
        return Status.REFUNDED if self.refunded == self.processed else Status.PARTIALLY_REFUNDED


NOTHING: Final = Payment()


def decide(state: Payment, command: Command) -> PaymentEvent:
    """The event that `command` leads to.

    Raises:
        CommandRejected: with the code of the first rule that refuses it.
    """
    _check_fields(command)
    if state.version:
        _check_identity(state, command)
    match command:
        case ProcessPayment():
            if state.processed is not None:
                raise CommandRejected("already_completed", "The payment was completed before.")
            return PaymentProcessed(command.amount, state.attempts + 1)
        case FailPayment():
            return PaymentFailed(command.amount, state.attempts + 1, command.reason)
        case RefundPayment(payment_id=None):
            if state.version:
                raise CommandRejected("already_credited", "This credit note is in the ledger already.")
            return PaymentRefunded(command.amount, command.reason, unreferenced=True)
        case RefundPayment():
            return _refund(state, command)


def _check_fields(command: Command) -> None:
    if command.amount.minor == 0:
        raise CommandRejected("zero_amount", "The amount is zero.")
    if command.amount.minor < 0:
        raise CommandRejected("negative_amount", f"The amount {command.amount} is negative.")
    if command.amount.minor > MAX_AMOUNT:
        raise CommandRejected("amount_too_large", f"The amount {command.amount} is beyond any payment.")
    if command.payment_id is not None and command.payment_id.startswith(CREDIT_NOTE):
        raise CommandRejected("bad_payment_id", f"Payment ids may not start with {CREDIT_NOTE!r}.")


def _check_identity(state: Payment, command: Command) -> None:
    if command.organization_id != state.organization_id:
        raise CommandRejected(
            "organization_mismatch",
            f"The payment belongs to {state.organization_id!r}, not {command.organization_id!r}.",
        )
    if command.amount.currency != state.currency:
        raise CommandRejected(
            "currency_mismatch", f"The payment is in {state.currency}, not {command.amount.currency}."
        )


def _refund(state: Payment, command: RefundPayment) -> PaymentRefunded:
    if state.version == 0:
        raise CommandRejected("unknown_payment", f"There is no payment {command.payment_id!r}.")
    if state.processed is None:
        raise CommandRejected("not_completed", "The payment was never completed.")
    left = state.processed - state.refunded
    if command.amount.minor > left:
        raise CommandRejected(
            "refund_exceeds_payment",
            f"A refund of {command.amount} exceeds the {Money(left, state.currency)} left of the payment.",
        )
    return PaymentRefunded(command.amount, command.reason)


def evolve(state: Payment, event: PaymentEvent, organization_id: str) -> Payment:
    """The state after one more event. `organization_id` comes from the first event's metadata."""
    refund = isinstance(event, PaymentRefunded)
    first = state.version == 0
    return Payment(
        version=state.version + 1,
        organization_id=organization_id if first else state.organization_id,
        currency=event.amount.currency if first else state.currency,
        processed=event.amount.minor if isinstance(event, PaymentProcessed) else state.processed,
        refunded=state.refunded + (event.amount.minor if refund else 0),
        attempts=state.attempts + (0 if refund else 1),
        unreferenced=state.unreferenced or (isinstance(event, PaymentRefunded) and event.unreferenced),
    )


def has_ended(payment: Payment, idle: timedelta, refund_window: timedelta) -> bool:
    """Whether nothing more is expected of the payment: all of it is refunded, or the time for that is over.

    Args:
        idle: time since its last event.
        refund_window: how long after its last event a payment may still be refunded, or tried again.
    """
    return payment.status is Status.REFUNDED or idle >= refund_window
