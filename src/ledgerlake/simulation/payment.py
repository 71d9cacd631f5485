"""The life of one simulated payment: attempts, completion, refunds, now and then a command no rule allows."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from random import Random
from typing import NamedTuple

from ledgerlake.domain.money import exponent
from ledgerlake.simulation.organizations import PRICE_LEVEL, Organization

MINUTE, HOUR, DAY = 60, 3_600, 86_400

INCIDENT_DAY = date(2026, 6, 10)
"""The day on which the payment processor times out; the next morning all is well again."""
INCIDENT_HOURS = (7, 19)
"""The incident's first and last hour in UTC, half-open."""
INCIDENT_FAILURE_RATE = 0.6


class Reason(NamedTuple):
    """Why attempts fail, how often, whether and when (seconds) they are repeated, how often that works."""

    code: str
    weight: float
    retried: float
    soonest: int
    latest: int
    recovers: float


REASONS = (
    Reason("insufficient_funds", 0.33, 0.60, DAY, 4 * DAY, 0.62),
    Reason("do_not_honor", 0.18, 0.55, MINUTE, 20 * MINUTE, 0.45),
    Reason("card_expired", 0.13, 0.60, 3 * MINUTE, 2 * DAY, 0.88),
    Reason("authentication_failed", 0.12, 0.75, MINUTE, 8 * MINUTE, 0.78),
    Reason("processor_timeout", 0.09, 0.95, 20, 5 * MINUTE, 0.92),
    Reason("suspected_fraud", 0.08, 0.12, 10 * MINUTE, DAY, 0.30),
    Reason("incorrect_security_code", 0.07, 0.85, 30, 3 * MINUTE, 0.90),
)
INCIDENT_REASON = Reason("processor_timeout", 1.0, 0.92, 15 * MINUTE, 5 * HOUR, 0.92)
REFUND_REASONS = (
    "requested_by_customer",
    "goods_returned",
    "not_delivered",
    "duplicate_order",
    "price_adjustment",
)
MAX_ATTEMPTS = 5

# Chances per payment. What starts wrong: a zero amount and one with too many decimals must be refused, a
# credit note names no payment and is allowed.
ZERO_AMOUNT, TOO_PRECISE, CREDIT_NOTE = 0.0005, 0.0003, 0.003
# What comes after a completed payment's last step: all but the late failure must be refused.
SECOND_COMPLETION, REFUND_ABOVE_REST, REFUND_IN_OTHER_CURRENCY, LATE_FAILURE = 0.0005, 0.0005, 0.0003, 0.0006
REFUND_OF_FAILED = 0.01  # of the payments that were never completed; must be refused
DELIVERED_TWICE = 0.001  # the same command again, to the byte; counts as a duplicate


class Step(NamedTuple):
    """A command at a second counted from the first midnight; sorts by time, then by its order of creation."""

    at: int
    number: int
    command: str
    command_id: str
    payment_id: str
    amount: str
    currency: str
    reason: str
    organization_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the incident lies, in seconds from the first midnight; one outside the period never comes."""

    incident_start: int
    incident_end: int

    def in_incident(self, at: int) -> bool:
        return self.incident_start <= at < self.incident_end


_REASON_EDGES = tuple(accumulate(reason.weight for reason in REASONS))
_MISHAP_EDGES = tuple(
    accumulate((SECOND_COMPLETION, REFUND_ABOVE_REST, REFUND_IN_OTHER_CURRENCY, LATE_FAILURE))
)


def _draw(rng: Random, edges: tuple[float, ...]) -> int:
    # Only Random.random() is promised to stay the same in every Python version; choice() is not.
    return min(bisect(edges, rng.random() * edges[-1]), len(edges) - 1)


def _between(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def amount_text(minor: int, currency: str) -> str:
    """`minor` units as decimal text with the currency's own decimals: 1250 JPY, 12.50 EUR, 1.250 BHD."""
    decimals = exponent(currency)
    if decimals == 0:
        return str(minor)
    whole, part = divmod(minor, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


class Life:
    """Writes down the steps of one payment as they are drawn."""

    def __init__(
        self, rng: Random, clock: Clock, organization: Organization, payment_id: str, number: int
    ) -> None:
        self.rng = rng
        self.clock = clock
        self.organization = organization
        self.payment_id = payment_id
        self.number = number
        self.steps: list[Step] = []
        self.currency = organization.currencies[
            _draw(rng, tuple(accumulate(weight for _, weight in organization.currencies)))
        ][0]
        customer = rng.random()
        # Squared: a few customers pay often. The last twelfth buys as a guest.
        self.user_id = (
            ""
            if customer > 0.92
            else f"{organization.id}-c{1 + int(customer * customer * organization.customers / 0.8464):05d}"
        )

    def add(
        self, at: int, command: str, minor: int, reason: str = "", *, amount: str = "", currency: str = ""
    ) -> None:
        """One command; `amount` overrides the text of `minor`, `currency` the payment's own."""
        currency = currency or self.currency
        self.steps.append(
            Step(
                at,
                self.number,
                command,
                f"{self.payment_id}.{len(self.steps) + 1}",
                self.payment_id,
                amount or amount_text(minor, currency),
                currency,
                reason,
                self.organization.id,
                self.user_id,
            )
        )

    def price(self) -> int:
        low, high = self.organization.prices[_between(self.rng, 0, len(self.organization.prices) - 1)]
        skewed = self.rng.random()
        numerator, denominator = PRICE_LEVEL[self.currency]
        return max(1, (low + int((high - low) * skewed * skewed)) * numerator // denominator)

    def attempts(self, at: int, minor: int) -> int | None:
        """The attempts from `at` on; the second of the completion, or None if nobody tries any more."""
        rng, chance = self.rng, self.organization.failure_rate
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if self.clock.in_incident(at) and rng.random() < INCIDENT_FAILURE_RATE:
                reason = INCIDENT_REASON
            elif rng.random() < chance:
                reason = REASONS[_draw(rng, _REASON_EDGES)]
            else:
                self.add(at, "ProcessPayment", minor)
                return at
            self.add(at, "FailPayment", minor, reason.code)
            if rng.random() >= reason.retried or attempt == MAX_ATTEMPTS:
                return None
            at += _between(rng, reason.soonest, reason.latest)
            chance = 1.0 - reason.recovers
        return None

    def refunds(self, completed_at: int, minor: int) -> tuple[int, int]:
        """Refunds of a completed payment; returns the second of the last one and the minor units left."""
        rng, at, left = self.rng, completed_at, minor
        kind = rng.random()
        parts = 1 if kind < 0.8 else _between(rng, 2, 4)
        reason = REFUND_REASONS[_between(rng, 0, len(REFUND_REASONS) - 1)]
        for part in range(parts):
            late = rng.random()
            at += 2 * HOUR + int(late * late * 24 * DAY)
            in_full = kind < 0.5 or (part + 1 == parts and parts > 1 and rng.random() < 0.5)
            refunded = left if in_full else max(1, left * _between(rng, 10, 70) // 100)
            self.add(at, "RefundPayment", refunded, reason)
            left -= refunded
            if left == 0:
                break
        return at, left

    def mishaps(self, at: int, minor: int, left: int) -> None:
        """What should not have been sent after the last step at `at`, and what only comes late."""
        rng = self.rng
        mishap = bisect(_MISHAP_EDGES, rng.random())
        if mishap == len(_MISHAP_EDGES):
            return
        at += _between(rng, 5 * MINUTE, 2 * DAY)
        if mishap == 0:
            self.add(at, "ProcessPayment", minor)
        elif mishap == 1:
            self.add(at, "RefundPayment", left + _between(rng, 1, minor), "requested_by_customer")
        elif mishap == 2:
            other = "USD" if self.currency != "USD" else "EUR"
            self.add(at, "RefundPayment", minor, "requested_by_customer", currency=other)
        else:
            self.add(at, "FailPayment", minor, "processor_timeout")


def payment_steps(
    rng: Random, clock: Clock, organization: Organization, payment_id: str, number: int, at: int
) -> list[Step]:
    """Every command of one payment that is first tried at second `at`, in the order in which they happen."""
    life = Life(rng, clock, organization, payment_id, number)
    minor = life.price()
    dice = rng.random()
    if dice < ZERO_AMOUNT:
        life.add(at, "ProcessPayment", 0)
    elif dice < ZERO_AMOUNT + TOO_PRECISE:
        text = amount_text(minor, life.currency)
        life.add(at, "ProcessPayment", minor, amount=text + (".5" if "." not in text else "5"))
    elif dice < ZERO_AMOUNT + TOO_PRECISE + CREDIT_NOTE:
        # A credit note from outside: it names no payment, and becomes a stream of its own.
        life.add(at, "RefundPayment", minor, "credit_note")
        life.steps = [step._replace(payment_id="") for step in life.steps]
    else:
        completed_at = life.attempts(at, minor)
        if completed_at is None:
            if rng.random() < REFUND_OF_FAILED:
                life.add(life.steps[-1].at + HOUR, "RefundPayment", minor, "requested_by_customer")
        else:
            last, left = completed_at, minor
            if rng.random() < organization.refund_rate:
                last, left = life.refunds(completed_at, minor)
            life.mishaps(last, minor, left)
    if rng.random() < DELIVERED_TWICE:
        life.steps.insert(0, life.steps[0])
    return life.steps
