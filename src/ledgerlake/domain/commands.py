"""What someone wants to happen to a payment: three commands, checked when they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from ledgerlake.domain.money import Money

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# No field holds it: a NUL is refused at the door. So leaving a value out and having none are not the same.
_LEFT_OUT = "\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCommand:
    """The fields that every payment command has.

    Attributes:
        command_id: the idempotency key: a command with the same id and content happens once.
        organization_id: who is paid; fixed for the life of a payment.
        amount: what is charged, was attempted, or goes back; the aggregate wants it positive.
        occurred_at: when it happened in business, timezone-aware; kept in UTC milliseconds.
        user_id: who pays, where known.
        correlation_id: ties together all that one business conversation caused (default: command_id).
        causation_id: the id of the message that caused this command (default: command_id).
        metadata: free keys that are stored with the event.
        personal: free details about who pays (a name, an e-mail address), which need a `user_id`: they
            are stored under that person's key, and can be forgotten.
    """

    name: ClassVar[str]

    command_id: str
    organization_id: str
    amount: Money
    occurred_at: datetime
    user_id: str | None = None
    reason: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def stream_id(self) -> str:
        """The stream that this command is decided on."""
        raise NotImplementedError

    def request_hash(self, without: Collection[str] = ()) -> str:
        """32 hex digits over the business content: tells a repeated command from a reused id.

        `without` names what is left out, of `user_id` and `reason`. A hash of little else than a personal
        value would be a fingerprint of it: whoever guesses the value could make sure.
        """
        # One without a zone is refused, and its refusal has a hash, too.
        at = self.occurred_at if self.occurred_at.tzinfo else self.occurred_at.replace(tzinfo=UTC)
        content = (
            self.name,
            self.stream_id,
            self.organization_id,
            _LEFT_OUT if "user_id" in without else self.user_id or "",
            str(self.amount.minor),
            self.amount.currency,
            str((at - _EPOCH) // _MILLISECOND),
            _LEFT_OUT if "reason" in without else self.reason or "",
        )
        # Length before value: no two different tuples join to the same text.
        joined = "".join([f"{len(part)}:{part}" for part in content])
        return hashlib.blake2b(joined.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPayment(PaymentCommand):
    """The payment went through: completes it."""

    name: ClassVar[str] = "ProcessPayment"

    payment_id: str

    @property
    def stream_id(self) -> str:
        return self.payment_id


@dataclass(frozen=True, slots=True, kw_only=True)
class FailPayment(PaymentCommand):
    """An attempt to pay failed, for `reason` where one is known."""

    name: ClassVar[str] = "FailPayment"

    payment_id: str

    @property
    def stream_id(self) -> str:
        return self.payment_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPayment(PaymentCommand):
    """Money goes back: on a payment, or (payment_id None) as a credit note that names none."""

    name: ClassVar[str] = "RefundPayment"

    payment_id: str | None

    @property
    def stream_id(self) -> str:
        # A credit note is a stream of its own. The prefix keeps it apart from payment ids, and
        # the command id makes a repeated import meet the same stream.
        return self.payment_id if self.payment_id is not None else f"{CREDIT_NOTE}{self.command_id}"


CREDIT_NOTE = "credit-note/"

COMMANDS: dict[str, type[ProcessPayment | FailPayment | RefundPayment]] = {
    kind.name: kind for kind in (ProcessPayment, FailPayment, RefundPayment)
}
