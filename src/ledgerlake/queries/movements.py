"""Queries on movements: statistics and trends. Completed minus refunded is net; failed is no money."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from ledgerlake.domain.money import exponent
from ledgerlake.mongo.indexes import PAYMENTS, STATISTICS, TRENDS
from ledgerlake.projections.statistics import average
from ledgerlake.queries.model import AsOf, Db, QueryError, as_of

GRANULARITIES: Final = ("day", "week", "month")


@dataclass(frozen=True, slots=True)
class StatisticsRow:
    """Movements of one organization, outcome and currency; amounts in units, `total_minor` in minor units.

    `status` is the outcome of a movement: completed, failed or refunded.
    """

    organization_id: str
    status: str
    currency: str
    count: int
    total_minor: int
    total: Decimal
    average: Decimal
    min: Decimal
    max: Decimal


@dataclass(frozen=True, slots=True)
class PaymentState:
    """Payments that are in one state now. `unreferenced`: credit notes, which name no payment."""

    organization_id: str
    status: str
    unreferenced: bool
    currency: str
    count: int
    amount_minor: int
    amount: Decimal
    refunded_minor: int
    refunded: Decimal


@dataclass(frozen=True, slots=True)
class StatisticsResult:
    """Statistics of movements, and without a range also the states that payments are in now."""

    rows: tuple[StatisticsRow, ...]
    payment_states: tuple[PaymentState, ...]
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetStatistics:
    """Statistics of all movements, or of those on the UTC days of [start, end); either end may be open."""

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None

    def answer(self, db: Db) -> StatisticsResult:
        """Raises QueryError for an interval that ends before it starts."""
        days = _days(self.start, self.end)
        if days:
            fresh = as_of(db, TRENDS)
            return StatisticsResult(self._from_trends(db, days), (), fresh)
        fresh = min(as_of(db, STATISTICS), as_of(db, PAYMENTS), key=lambda at: at.position)
        documents = db[STATISTICS].find(_of(self.organization_id)).sort("_id", 1)
        rows = (
            _row(
                (d["organizationId"], d["status"], d["currency"]),
                d["count"],
                d["totalMinor"],
                d["minMinor"],
                d["maxMinor"],
            )
            for d in documents
        )
        return StatisticsResult(tuple(rows), self._states(db), fresh)

    def _from_trends(self, db: Db, days: dict[str, Any]) -> tuple[StatisticsRow, ...]:
        grouped = db[TRENDS].aggregate(
            [
                {"$match": {**_of(self.organization_id), **days}},
                {
                    "$group": {
                        "_id": {"o": "$organizationId", "s": "$status", "c": "$currency"},
                        "count": {"$sum": "$count"},
                        "total": {"$sum": "$totalMinor"},
                        "min": {"$min": "$minMinor"},
                        "max": {"$max": "$maxMinor"},
                    }
                },
                {"$sort": {"_id.o": 1, "_id.s": 1, "_id.c": 1}},
            ]
        )
        return tuple(
            _row((g["_id"]["o"], g["_id"]["s"], g["_id"]["c"]), g["count"], g["total"], g["min"], g["max"])
            for g in grouped
        )

    def _states(self, db: Db) -> tuple[PaymentState, ...]:
        grouped = db[PAYMENTS].aggregate(
            [
                {"$match": _of(self.organization_id)},
                {
                    "$group": {
                        "_id": {
                            "o": "$organizationId",
                            "s": "$status",
                            "u": "$unreferenced",
                            "c": "$currency",
                        },
                        "count": {"$sum": 1},
                        "amount": {"$sum": "$amountMinor"},
                        "refunded": {"$sum": "$refundedMinor"},
                    }
                },
                {"$sort": {"_id.o": 1, "_id.s": 1, "_id.u": 1, "_id.c": 1}},
            ]
        )
        return tuple(
            PaymentState(
                g["_id"]["o"],
                g["_id"]["s"],
                g["_id"]["u"],
                g["_id"]["c"],
                g["count"],
                int(g["amount"]),
                _units(g["amount"], g["_id"]["c"]),
                int(g["refunded"]),
                _units(g["refunded"], g["_id"]["c"]),
            )
            for g in grouped
        )


@dataclass(frozen=True, slots=True)
class TrendRow:
    """Movements of one organization, currency and outcome in the day, week or month from `period` on."""

    period: date
    organization_id: str
    currency: str
    status: str
    count: int
    total_minor: int
    total: Decimal


@dataclass(frozen=True, slots=True)
class TrendsResult:
    """Trends in time order."""

    rows: tuple[TrendRow, ...]
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetTrends:
    """Movements over time, on the UTC days of [start, end), by day, ISO week (from Monday) or month."""

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None
    granularity: str = "day"

    def answer(self, db: Db) -> TrendsResult:
        """Raises QueryError for an unknown granularity, or an interval that ends before it starts."""
        if self.granularity not in GRANULARITIES:
            raise QueryError(f"granularity {self.granularity!r} is none of {', '.join(GRANULARITIES)}.")
        fresh = as_of(db, TRENDS)
        wanted = {**_of(self.organization_id), **_days(self.start, self.end)}
        sums: dict[tuple[date, str, str, str], tuple[int, int]] = {}
        for d in db[TRENDS].find(wanted):
            period = _period(d["day"].date(), self.granularity)
            key = (period, d["organizationId"], d["currency"], d["status"])
            count, total = sums.get(key, (0, 0))
            sums[key] = (count + d["count"], total + d["totalMinor"])
        rows = (
            TrendRow(*key, count=int(count), total_minor=int(total), total=_units(total, key[2]))
            for key, (count, total) in sorted(sums.items())
        )
        return TrendsResult(tuple(rows), fresh)


def _of(organization_id: str | None) -> dict[str, Any]:
    return {} if organization_id is None else {"organizationId": str(organization_id)}


def _days(start: date | None, end: date | None) -> dict[str, Any]:
    if start is not None and end is not None and end < start:
        raise QueryError(f"The interval ends ({end}) before it starts ({start}).")
    bounds: dict[str, Any] = {}
    if start is not None:
        bounds["$gte"] = _midnight(start)
    if end is not None:
        bounds["$lt"] = _midnight(end)
    return {"day": bounds} if bounds else {}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _period(day: date, granularity: str) -> date:
    match granularity:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case _:
            return day


def _row(key: tuple[str, str, str], count: int, total: int, least: int, most: int) -> StatisticsRow:
    currency = key[2]
    return StatisticsRow(
        *key,
        count=int(count),
        total_minor=int(total),
        total=_units(total, currency),
        average=average(int(total), int(count), exponent(currency)),
        min=_units(least, currency),
        max=_units(most, currency),
    )


def _units(minor: int, currency: str) -> Decimal:
    return Decimal(int(minor)).scaleb(-exponent(currency))
