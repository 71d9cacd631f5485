"""How long it takes until money goes back: from a payment's completion to its first refund."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from ledgerlake.projections import model
from ledgerlake.projections.payment_totals import BY_THE_HOUR, REFUND_LATENCY
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.queries.figures import check_totals, days, no_empty
from ledgerlake.queries.model import AsOf, Db, as_of, snapshot


@dataclass(frozen=True, slots=True)
class LatencyBucket:
    """Payments whose first refund came at least `from_hours` and less than `to_hours` after completion.

    An hour wide in the first seven days, then a day. `from_hours` is None where the refund bears an
    earlier date than the completion.
    """

    from_hours: int | None
    to_hours: int
    payments: int


@dataclass(frozen=True, slots=True)
class RefundLatencyRow:
    """Refunded payments of one organization and currency.

    `median_hours` and `p90_hours`: within that many hours (a bucket's end) half, or nine tenths, of them
    had their first refund.
    """

    organization_id: str
    currency: str
    payments: int
    median_hours: int
    p90_hours: int
    buckets: tuple[LatencyBucket, ...]

    def within(self, hours: int) -> int:
        """Payments first refunded in less than `hours`; exact for a number of hours that ends a bucket."""
        return sum(bucket.payments for bucket in self.buckets if bucket.to_hours <= hours)


@dataclass(frozen=True, slots=True)
class RefundLatencyResult:
    """By organization and currency."""

    rows: tuple[RefundLatencyRow, ...]
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetRefundLatency:
    """Time to the first refund, of payments that were completed on the UTC days of [start, end).

    Only payments that were refunded count, and of them the first refund only. Credit notes that name no
    payment have no completion, and do not count.
    """

    reads: ClassVar[tuple[str, ...]] = (PAYMENTS.name,)

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None

    def answer(self, db: Db) -> RefundLatencyResult:
        """Raises QueryError for an interval that ends before it starts."""
        wanted = days(self.organization_id, self.start, self.end)
        key = {"o": "$organizationId", "c": "$currency", "b": "$bucket"}
        group = {"_id": key, "payments": {"$sum": "$payments"}}
        with snapshot(db) as session:
            check_totals(db, session)
            latency = model(db, REFUND_LATENCY.name, session)
            stages = [{"$match": wanted}, {"$group": group}, no_empty("payments")]
            found = list(latency.aggregate(stages, session=session))
            fresh = as_of(db, PAYMENTS.name, session)
        counted: dict[tuple[str, str], dict[int, int]] = {}
        for each in found:
            buckets = counted.setdefault((each["_id"]["o"], each["_id"]["c"]), {})
            buckets[int(each["_id"]["b"])] = int(each["payments"])
        return RefundLatencyResult(tuple(_row(*whose, counted[whose]) for whose in sorted(counted)), fresh)


def _row(organization_id: str, currency: str, counted: dict[int, int]) -> RefundLatencyRow:
    buckets = tuple(
        LatencyBucket(None if hours < 0 else hours, _end(hours), payments)
        for hours, payments in sorted(counted.items())
    )
    payments = sum(counted.values())
    return RefundLatencyRow(
        organization_id=organization_id,
        currency=currency,
        payments=payments,
        median_hours=_quantile(buckets, payments, 50),
        p90_hours=_quantile(buckets, payments, 90),
        buckets=buckets,
    )


def _end(hours: int) -> int:
    return hours + (1 if hours < BY_THE_HOUR else 24)


def _quantile(buckets: tuple[LatencyBucket, ...], payments: int, percent: int) -> int:
    """The end of the bucket in which so many percent of the payments are reached."""
    reached = 0
    for bucket in buckets:
        reached += bucket.payments
        if reached * 100 >= payments * percent:
            return bucket.to_hours
    raise AssertionError("no bucket reaches all payments")
