"""What became of payments that failed at first: how many a retry recovered, and how much money."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import ClassVar

from ledgerlake.projections import model
from ledgerlake.projections.payment_totals import RETRY_RECOVERY
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.queries.figures import check_totals, days, exact, no_empty, share, units
from ledgerlake.queries.model import AsOf, Db, as_of, snapshot


@dataclass(frozen=True, slots=True)
class RetryRecoveryRow:
    """Payments of an organization and currency that failed `failures` times before they completed, or so far.

    `rate` is recovered / payments, from 0 to 1. `amount` is what all of them were for (of one that never
    completed: its last attempt), `recovered_amount` what the recovered ones came to; in units.
    """

    organization_id: str
    currency: str
    failures: int
    payments: int
    recovered: int
    rate: Decimal
    amount_minor: int
    amount: Decimal
    recovered_minor: int
    recovered_amount: Decimal


@dataclass(frozen=True, slots=True)
class RetryRecoveryResult:
    """By organization and currency, the fewest failures first."""

    rows: tuple[RetryRecoveryRow, ...]
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetRetryRecovery:
    """Payments that failed at first, by the UTC day of the earliest failure, in [start, end).

    A payment counts once, however often it was tried. It is recovered when a later attempt went through;
    a failure that was only reported after completion is none before it.
    """

    reads: ClassVar[tuple[str, ...]] = (PAYMENTS.name,)

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None

    def answer(self, db: Db) -> RetryRecoveryResult:
        """Raises QueryError for an interval that ends before it starts, or a sum beyond 64 bits."""
        wanted = days(self.organization_id, self.start, self.end)
        key = {"o": "$organizationId", "c": "$currency", "f": "$failuresBefore", "r": "$recovered"}
        group = {"_id": key, "payments": {"$sum": "$payments"}, "amount": {"$sum": "$amountMinor"}}
        with snapshot(db) as session:
            check_totals(db, session)
            recovery = model(db, RETRY_RECOVERY.name, session)
            stages = [{"$match": wanted}, {"$group": group}, no_empty("payments", "amount")]
            found = list(recovery.aggregate(stages, session=session))
            fresh = as_of(db, PAYMENTS.name, session)
        counted: dict[tuple[str, str, int], dict[bool, tuple[int, int]]] = {}
        for each in found:
            of = each["_id"]
            outcomes = counted.setdefault((of["o"], of["c"], int(of["f"])), {})
            outcomes[of["r"]] = (int(each["payments"]), exact(each["amount"]))
        return RetryRecoveryResult(tuple(_row(key, counted[key]) for key in sorted(counted)), fresh)


def _row(key: tuple[str, str, int], outcomes: dict[bool, tuple[int, int]]) -> RetryRecoveryRow:
    organization_id, currency, failures = key
    recovered, recovered_minor = outcomes.get(True, (0, 0))
    lost, lost_minor = outcomes.get(False, (0, 0))
    payments, minor = recovered + lost, recovered_minor + lost_minor
    return RetryRecoveryRow(
        organization_id=organization_id,
        currency=currency,
        failures=failures,
        payments=payments,
        recovered=recovered,
        rate=share(recovered, payments) or Decimal(0),
        amount_minor=minor,
        amount=units(minor, currency),
        recovered_minor=recovered_minor,
        recovered_amount=units(recovered_minor, currency),
    )
