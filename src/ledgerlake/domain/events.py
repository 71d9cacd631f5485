"""What happened to a payment: three events, and how each is written into a document and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ledgerlake.domain.money import Money
from ledgerlake.errors import LedgerLakeError

AGGREGATE_TYPE: Final = "Payment"
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class PaymentProcessed:
    """The attempt number `attempt` (from 1) went through for `amount`."""

    amount: Money
    attempt: int


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """The attempt number `attempt` (from 1) to pay `amount` failed."""

    amount: Money
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class PaymentRefunded:
    """`amount` went back. `unreferenced`: the refund names no payment (a credit note)."""

    amount: Money
    reason: str | None
    unreferenced: bool = False


PaymentEvent: TypeAlias = PaymentProcessed | PaymentFailed | PaymentRefunded

# The outcome that each event type gives a movement in statistics, trends and reports.
EVENT_STATUS: Final[dict[str, str]] = {
    "PaymentProcessed": "completed",
    "PaymentFailed": "failed",
    "PaymentRefunded": "refunded",
}
EVENT_TYPES: Final = tuple(EVENT_STATUS)


class UnknownEvent(LedgerLakeError):
    """An event whose type and schema version this program has no model for."""


def event_data(event: PaymentEvent) -> dict[str, Any]:
    """The fields that the event type adds to the amount, as eventData holds them."""
    match event:
        case PaymentProcessed(attempt=attempt):
            return {"attempt": attempt}
        case PaymentFailed(attempt=attempt, reason=reason):
            return {"attempt": attempt, "reason": reason}
        case PaymentRefunded(reason=reason, unreferenced=True):
            return {"reason": reason, "unreferenced": True}
        case PaymentRefunded(reason=reason):
            return {"reason": reason}


def _money(data: Mapping[str, Any]) -> Money:
    return Money(int(data["amountMinor"]), data["currency"])


# The explicit registry: nothing in a document ever names a class.
_MODELS: Final[dict[tuple[str, int], Callable[[Mapping[str, Any]], PaymentEvent]]] = {
    ("PaymentProcessed", 1): lambda data: PaymentProcessed(_money(data), data["attempt"]),
    ("PaymentFailed", 1): lambda data: PaymentFailed(_money(data), data["attempt"], data["reason"]),
    ("PaymentRefunded", 1): lambda data: PaymentRefunded(
        _money(data), data["reason"], data.get("unreferenced", False)
    ),
}


def read_event(event_type: str, schema_version: int, data: Mapping[str, Any]) -> PaymentEvent:
    """The event that eventData of this type and version holds.

    Raises:
        UnknownEvent: no model is registered for the type and version.
    """
    model = _MODELS.get((event_type, schema_version))
    if model is None:
        raise UnknownEvent(
            f"No model for event type {event_type!r} with schema version {schema_version}.",
            "A newer LedgerLake wrote it: upgrade this one.",
        )
    return model(data)
