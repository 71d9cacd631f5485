"""One organization at a glance: since when, how much, and how well its payments go through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.projections.statistics import STATISTICS
from ledgerlake.queries.figures import share, units
from ledgerlake.queries.model import AsOf, Db, as_of, snapshot, text
from ledgerlake.queries.movements import payment_states, statistics_documents


@dataclass(frozen=True, slots=True)
class OrganizationVolume:
    """All that an organization has in one currency; amounts in units, rates from 0 to 1 (None of nothing).

    gross: completed movements; refunded: refunds, with or without a payment behind them; net: gross minus
    refunded. `credit_notes` are the refunds that name no payment. `payments` are all but those, and
    `completed_payments` the ones that went through, whatever was refunded since.

    success_rate_by_attempt: completed / (completed + failed) attempts. success_rate_by_payment:
    completed_payments / payments. refund_rate: refunded / gross, in money; over 1 where credit notes
    exceed what came in.
    """

    currency: str
    gross_minor: int
    gross: Decimal
    refunded_minor: int
    refunded: Decimal
    net_minor: int
    net: Decimal
    attempts: int
    failed_attempts: int
    refunds: int
    credit_notes: int
    payments: int
    completed_payments: int
    success_rate_by_attempt: Decimal | None
    success_rate_by_payment: Decimal | None
    refund_rate: Decimal | None


@dataclass(frozen=True, slots=True)
class OrganizationResult:
    """An organization's overview, a volume for each currency; no sum across currencies.

    `first_payment_at` and `last_payment_at` are the business times of its earliest and latest completed
    payment; None when there is none. Counts and rates of payments come from a read model with a
    checkpoint of its own, `states_as_of`.
    """

    organization_id: str
    first_payment_at: datetime | None
    last_payment_at: datetime | None
    volumes: tuple[OrganizationVolume, ...]
    as_of: AsOf
    states_as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetOrganization:
    """The overview of one organization; without volumes when nothing is known of it."""

    reads: ClassVar[tuple[str, ...]] = (STATISTICS.name, PAYMENTS.name)

    organization_id: str

    def answer(self, db: Db) -> OrganizationResult:
        """Raises QueryError for an id that is no text."""
        organization_id = text("organization_id", self.organization_id)
        with snapshot(db) as session:
            movements = statistics_documents(db, organization_id, session)
            states = payment_states(db, organization_id, session)
            fresh, states_fresh = as_of(db, STATISTICS.name, session), as_of(db, PAYMENTS.name, session)
        completed = [each for each in movements if each["status"] == "completed"]
        sums = {
            (each["currency"], each["status"]): (int(each["count"]), int(each["totalMinor"]))
            for each in movements
        }
        payments: dict[str, list[int]] = {}
        for state in states:
            counts = payments.setdefault(state.currency, [0, 0, 0])
            counts[0] += state.count if state.unreferenced else 0
            counts[1] += 0 if state.unreferenced else state.count
            counts[2] += 0 if state.unreferenced or state.status == "failed" else state.count
        currencies = sorted({currency for currency, _ in sums} | set(payments))
        return OrganizationResult(
            organization_id,
            min((each["firstAt"] for each in completed), default=None),
            max((each["lastAt"] for each in completed), default=None),
            tuple(_volume(currency, sums, payments.get(currency, [0, 0, 0])) for currency in currencies),
            fresh,
            states_fresh,
        )


def _volume(
    currency: str, sums: dict[tuple[str, str], tuple[int, int]], counts: list[int]
) -> OrganizationVolume:
    done, gross = sums.get((currency, "completed"), (0, 0))
    failed, _ = sums.get((currency, "failed"), (0, 0))
    refunds, refunded = sums.get((currency, "refunded"), (0, 0))
    credit_notes, payments, completed = counts
    return OrganizationVolume(
        currency=currency,
        gross_minor=gross,
        gross=units(gross, currency),
        refunded_minor=refunded,
        refunded=units(refunded, currency),
        net_minor=gross - refunded,
        net=units(gross - refunded, currency),
        attempts=done + failed,
        failed_attempts=failed,
        refunds=refunds,
        credit_notes=credit_notes,
        payments=payments,
        completed_payments=completed,
        success_rate_by_attempt=share(done, done + failed),
        success_rate_by_payment=share(completed, payments),
        refund_rate=share(refunded, gross),
    )
