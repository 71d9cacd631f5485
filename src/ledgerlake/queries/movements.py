"""Queries on movements: statistics and trends. Completed minus refunded is net; failed is no money."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Final, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.bson_columns import Kind, decode, documents
from ledgerlake.projections import model
from ledgerlake.projections.payment_quarters import PAYMENT_QUARTERS
from ledgerlake.projections.payment_totals import PAYMENT_STATES
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.projections.statistics import STATISTICS, average
from ledgerlake.projections.trends import TRENDS
from ledgerlake.queries.figures import Wanted, days, exact, has_totals, interval, of, units
from ledgerlake.queries.model import AsOf, Db, QueryError, as_of, snapshot, text
from ledgerlake.queries.zones import period_of, periods, reach, zone_named

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

    reads: ClassVar[tuple[str, ...]] = (STATISTICS.name, TRENDS.name, PAYMENTS.name)

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None

    def answer(self, db: Db) -> StatisticsResult:
        """Raises QueryError for an interval that ends before it starts."""
        wanted = days(self.organization_id, self.start, self.end)
        with snapshot(db) as session:
            if self.start is not None or self.end is not None:
                rows = _rolled_up(db, wanted, session)
                return StatisticsResult(rows, (), as_of(db, TRENDS.name, session), None)
            rows = tuple(
                _row(
                    (d["organizationId"], d["status"], d["currency"]),
                    d["count"],
                    d["totalMinor"],
                    d["minMinor"],
                    d["maxMinor"],
                )
                for d in statistics_documents(db, self.organization_id, session)
            )
            return StatisticsResult(
                rows,
                payment_states(db, self.organization_id, session),
                as_of(db, STATISTICS.name, session),
                as_of(db, PAYMENTS.name, session),
            )


def statistics_documents(db: Db, organization_id: str | None, session: ClientSession) -> list[dict[str, Any]]:
    """The documents of payment_statistics of one organization, or all, in the order of their keys."""
    found = model(db, STATISTICS.name, session).find(of(organization_id), session=session)
    return sorted(found, key=lambda d: (d["organizationId"], d["status"], d["currency"]))


def _rolled_up(db: Db, wanted: Wanted, session: ClientSession) -> tuple[StatisticsRow, ...]:
    grouped = model(db, TRENDS.name, session).aggregate(
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
        ],
        session=session,
    )
    rows = [
        _row((g["_id"]["o"], g["_id"]["s"], g["_id"]["c"]), g["count"], g["total"], g["min"], g["max"])
        for g in grouped
    ]
    return tuple(sorted(rows, key=lambda row: (row.organization_id, row.status, row.currency)))


def payment_states(db: Db, organization_id: str | None, session: ClientSession) -> tuple[PaymentState, ...]:
    """The states that the payments of one organization, or of all, are in."""
    found: Iterable[dict[str, Any]]
    if has_totals(db, session):
        found = model(db, PAYMENT_STATES.name, session).find(of(organization_id), session=session)
    else:
        found = _counted_now(db, organization_id, session)
    sums: dict[tuple[str, str, bool, str], tuple[int, int, int]] = {}
    # A projection that is split over workers has a document of each worker for one state. They may come to
    # nothing: what was counted before the split is taken out in the document of another worker.
    for d in found:
        key = (d["organizationId"], d["status"], d["unreferenced"], d["currency"])
        count, amount, refunded = sums.get(key, (0, 0, 0))
        sums[key] = (count + d["count"], amount + d["amountMinor"], refunded + d["refundedMinor"])
    return tuple(
        PaymentState(
            *key,
            count=int(count),
            amount_minor=int(amount),
            amount=units(amount, key[3]),
            refunded_minor=int(refunded),
            refunded=units(refunded, key[3]),
        )
        for key, (count, amount, refunded) in sorted(sums.items())
        if (count, amount, refunded) != (0, 0, 0)
    )


def _counted_now(db: Db, organization_id: str | None, session: ClientSession) -> Iterable[dict[str, Any]]:
    """The states, counted payment by payment: a read model of version 1 is asked until it is rebuilt."""
    by = ("organizationId", "status", "unreferenced", "currency")
    group = {
        "_id": {name: f"${name}" for name in by},
        "count": {"$sum": 1},
        "amountMinor": {"$sum": "$amountMinor"},
        "refundedMinor": {"$sum": "$refundedMinor"},
    }
    payments = model(db, PAYMENTS.name, session)
    for d in payments.aggregate([{"$match": of(organization_id)}, {"$group": group}], session=session):
        sums = {name: exact(d[name]) for name in ("count", "amountMinor", "refundedMinor")}
        yield {**d["_id"], **sums}


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
    """Movements over time, on the days of [start, end), by day, ISO week (from Monday) or month.

    Days are those of `zone`, an IANA name: they may have 23 or 25 hours, and start at 18:15 UTC.
    """

    reads: ClassVar[tuple[str, ...]] = (TRENDS.name, PAYMENT_QUARTERS.name)

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None
    granularity: str = "day"
    zone: str = "UTC"

    def answer(self, db: Db) -> TrendsResult:
        """Raises QueryError for an unknown granularity or zone, an interval that ends before it starts,
        or movements of long ago in a quarter of an hour that is part of two of the zone's days."""
        if text("granularity", self.granularity) not in GRANULARITIES:
            raise QueryError(f"granularity {self.granularity!r} is none of {', '.join(GRANULARITIES)}.")
        zone = zone_named(self.zone)
        interval(self.start, self.end)
        with snapshot(db) as session:
            if zone.key == "UTC":
                fresh = as_of(db, TRENDS.name, session)
                sums = self._by_day(model(db, TRENDS.name, session), session)
            else:
                fresh = as_of(db, PAYMENT_QUARTERS.name, session)
                sums = self._by_quarter(model(db, PAYMENT_QUARTERS.name, session), session, zone)
        rows = (
            TrendRow(*key, count=int(count), total_minor=int(total), total=units(total, key[2]))
            for key, (count, total) in sorted(sums.items())
        )
        return TrendsResult(tuple(rows), fresh)

    def _by_day(self, trends: Collection[Any], session: ClientSession) -> _Sums:
        sums: _Sums = {}
        for d in trends.find(days(self.organization_id, self.start, self.end), session=session):
            period = period_of(d["day"].date(), self.granularity)
            key = (period, d["organizationId"], d["currency"], d["status"])
            count, total = sums.get(key, (0, 0))
            sums[key] = (count + d["count"], total + d["totalMinor"])
        return sums

    def _by_quarter(self, quarters: Collection[Any], session: ClientSession, zone: ZoneInfo) -> _Sums:
        first, last = reach(self.start, self.end)
        wanted: Wanted = {} if self.organization_id is None else of(self.organization_id)
        wanted["quarter"] = {"$gte": first, **({} if last is None else {"$lt": last})}
        found = _quarters(quarters.find_raw_batches(wanted, session=session))
        places = periods(found["quarter"].unique().sort(), zone, self.granularity, self.start, self.end)
        placed = pl.DataFrame(
            {"quarter": list(places), "period": list(places.values())},
            schema={"quarter": found.schema["quarter"], "period": pl.Date},
        )
        # As Int128: a sum of int64 wraps silently.
        grouped = (
            found.join(placed, on="quarter")
            .group_by("period", "organizationId", "currency", "status")
            .agg(pl.col("count", "totalMinor").cast(pl.Int128).sum())
        )
        return {row[:4]: row[4:] for row in grouped.iter_rows()}


# (period, organization, currency, status) -> (count, total in minor units)
_Sums: TypeAlias = dict[tuple[date, str, str, str], tuple[int, int]]
_QUARTER: Final = {
    "quarter": Kind.DATE,
    "organizationId": Kind.STRING,
    "currency": Kind.STRING,
    "status": Kind.STRING,
    "count": Kind.INTEGER,
    "totalMinor": Kind.INTEGER,
}


def _quarters(batches: Iterable[bytes]) -> pl.DataFrame:
    """Documents of payment_quarters as a table, without a Python object for each: there may be many."""
    parts = [pa.table(decode(batch, documents(batch), _QUARTER)) for batch in (*batches, b"")]
    found = pl.from_arrow(pa.concat_tables(parts))
    assert isinstance(found, pl.DataFrame)
    return found


def _row(key: tuple[str, str, str], count: int, total: int, least: int, most: int) -> StatisticsRow:
    currency = key[2]
    return StatisticsRow(
        *key,
        count=int(count),
        total_minor=exact(total),
        total=units(total, currency),
        average=average(exact(total), int(count), exponent(currency)),
        min=units(least, currency),
        max=units(most, currency),
    )
