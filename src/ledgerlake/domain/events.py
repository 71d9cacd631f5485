"""What happened to a payment: three events, and how each is written into a document and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ledgerlake.domain.money import Money
from ledgerlake.domain.registry import EventRegistry, Model

AGGREGATE_TYPE: Final = "Payment"
# Of eventData as the columns of projections and the lake know it. They read no other: a model that moves
# on to the next version takes them along.
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
    minor = data["amountMinor"]
    if not isinstance(minor, int) or isinstance(minor, bool):
        raise TypeError(f"amountMinor is {minor!r}, not a whole number")
    return Money(int(minor), data["currency"])  # a driver's own kind of int is none of Money's


REGISTRY: Final[EventRegistry[PaymentEvent]] = EventRegistry(
    models=[
        Model("PaymentProcessed", 1, lambda data: PaymentProcessed(_money(data), data["attempt"])),
        Model("PaymentFailed", 1, lambda data: PaymentFailed(_money(data), data["attempt"], data["reason"])),
        Model(
            "PaymentRefunded",
            1,
            lambda data: PaymentRefunded(_money(data), data["reason"], data.get("unreferenced", False)),
        ),
    ],
)


def read_event(event_type: str, schema_version: int, data: Mapping[str, Any]) -> PaymentEvent:
    """The event that eventData of this type and version holds.

    Raises:
        UnknownEvent: no model is registered for the type and version.
        UnreadableEvent: the data is not what its type and version promise.
    """
    return REGISTRY.read(event_type, schema_version, data)
