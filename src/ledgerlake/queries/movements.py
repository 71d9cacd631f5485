"""Queries on movements: statistics and trends. Completed minus refunded is net; failed is no money."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from pymongo.client_session import ClientSession

from ledgerlake.domain.money import exponent
from ledgerlake.mongo.indexes import PAYMENTS, STATISTICS, TRENDS
from ledgerlake.projections.statistics import average
from ledgerlake.queries.model import AsOf, Db, QueryError, as_of, day, snapshot, text

Wanted: TypeAlias = dict[str, Any]

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
    """Statistics of movements, and without a range also the states that payments are in now.

    The states come from a read model with a checkpoint of its own: `states_as_of`, None with a range.
    """

    rows: tuple[StatisticsRow, ...]
    payment_states: tuple[PaymentState, ...]
    as_of: AsOf
    states_as_of: AsOf | None


@dataclass(frozen=True, slots=True)
class GetStatistics:
    """Statistics of all movements, or of those on the UTC days of [start, end); either end may be open."""

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None

    def answer(self, db: Db) -> StatisticsResult:
        """Raises QueryError for an interval that ends before it starts."""
        of = _of(self.organization_id)
        days = _days(self.start, self.end)
        with snapshot(db) as session:
            if days:
                rows = _rolled_up(db, {**of, **days}, session)
                return StatisticsResult(rows, (), as_of(db, TRENDS, session), None)
            documents = db[STATISTICS].find(of, session=session).sort("_id", 1)
            rows = tuple(
                _row(
                    (d["organizationId"], d["status"], d["currency"]),
                    d["count"],
                    d["totalMinor"],
                    d["minMinor"],
                    d["maxMinor"],
                )
                for d in documents
            )
            return StatisticsResult(
                rows, _states(db, of, session), as_of(db, STATISTICS, session), as_of(db, PAYMENTS, session)
            )


def _rolled_up(db: Db, wanted: Wanted, session: ClientSession) -> tuple[StatisticsRow, ...]:
    grouped = db[TRENDS].aggregate(
        [
            {"$match": wanted},
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
        ],
        session=session,
    )
    return tuple(
        _row((g["_id"]["o"], g["_id"]["s"], g["_id"]["c"]), g["count"], g["total"], g["min"], g["max"])
        for g in grouped
    )


def _states(db: Db, wanted: Wanted, session: ClientSession) -> tuple[PaymentState, ...]:
    key = {"o": "$organizationId", "s": "$status", "u": "$unreferenced", "c": "$currency"}
    grouped = db[PAYMENTS].aggregate(
        [
            {"$match": wanted},
            {
                "$group": {
                    "_id": key,
                    "count": {"$sum": 1},
                    "amount": {"$sum": "$amountMinor"},
                    "refunded": {"$sum": "$refundedMinor"},
                }
            },
            {"$sort": {"_id.o": 1, "_id.s": 1, "_id.u": 1, "_id.c": 1}},
        ],
        session=session,
    )
    return tuple(
        PaymentState(
            g["_id"]["o"],
            g["_id"]["s"],
            g["_id"]["u"],
            g["_id"]["c"],
            g["count"],
            _exact(g["amount"]),
            _units(g["amount"], g["_id"]["c"]),
            _exact(g["refunded"]),
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
        if text("granularity", self.granularity) not in GRANULARITIES:
            raise QueryError(f"granularity {self.granularity!r} is none of {', '.join(GRANULARITIES)}.")
        wanted = {**_of(self.organization_id), **_days(self.start, self.end)}
        sums: dict[tuple[date, str, str, str], tuple[int, int]] = {}
        with snapshot(db) as session:
            fresh = as_of(db, TRENDS, session)
            for d in db[TRENDS].find(wanted, session=session):
                period = _period(d["day"].date(), self.granularity)
                key = (period, d["organizationId"], d["currency"], d["status"])
                count, total = sums.get(key, (0, 0))
                sums[key] = (count + d["count"], total + d["totalMinor"])
        rows = (
            TrendRow(*key, count=int(count), total_minor=int(total), total=_units(total, key[2]))
            for key, (count, total) in sorted(sums.items())
        )
        return TrendsResult(tuple(rows), fresh)


def _of(organization_id: str | None) -> Wanted:
    return {} if organization_id is None else {"organizationId": text("organization_id", organization_id)}


def _days(start: date | None, end: date | None) -> Wanted:
    if start is not None and end is not None and day("end", end) < day("start", start):
        raise QueryError(f"The interval ends ({end}) before it starts ({start}).")
    bounds: dict[str, Any] = {}
    if start is not None:
        bounds["$gte"] = _midnight(day("start", start))
    if end is not None:
        bounds["$lt"] = _midnight(day("end", end))
    return {"day": bounds} if bounds else {}


def _midnight(of: date) -> datetime:
    return datetime.combine(of, time(), UTC)


def _period(of: date, granularity: str) -> date:
    match granularity:
        case "week":
            return of - timedelta(days=of.weekday())
        case "month":
            return of.replace(day=1)
        case _:
            return of


def _row(key: tuple[str, str, str], count: int, total: int, least: int, most: int) -> StatisticsRow:
    currency = key[2]
    return StatisticsRow(
        *key,
        count=int(count),
        total_minor=_exact(total),
        total=_units(total, currency),
        average=average(_exact(total), int(count), exponent(currency)),
        min=_units(least, currency),
        max=_units(most, currency),
    )


def _units(minor: float, currency: str) -> Decimal:
    return Decimal(_exact(minor)).scaleb(-exponent(currency))


def _exact(total: float) -> int:
    """A sum as the server gives it. It turns into a float, and is rounded, where 64 bits are too few."""
    if isinstance(total, float):
        raise QueryError(
            f"A sum of about {total:.6g} minor units does not fit 64 bits.",
            "Ask for one organization, or for fewer days.",
        )
    return int(total)
