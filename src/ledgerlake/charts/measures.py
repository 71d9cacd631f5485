"""From frames to the exact figures that charts draw: one series per currency, integers of minor units.

A trends frame (Lake.trends gives one) has a row per organization, period, currency and status, with the
columns TRENDS_COLUMNS. Sums are Python integers, so they neither round nor overflow, and no sum crosses
a currency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, get_args

import polars as pl

from ledgerlake.domain.money import exponent
from ledgerlake.errors import LedgerLakeError

Frame = pl.DataFrame | pl.LazyFrame
Granularity = Literal["day", "week", "month"]
WINDOW: dict[Granularity, int] = {"day": 7, "week": 4, "month": 3}
"""How many periods a chart looks back over, to smooth what single ones say."""
Measure = Literal["gross", "refunds", "completed", "failed", "refunded"]
"""What of a CurrencySeries to look at: gross and refunds are amounts, the others numbers of events."""

TRENDS_COLUMNS = ("period", "organization_id", "currency", "status", "count", "total_minor")
"""Columns of a trends frame: `period` is the first day of the day, week (Monday) or month, `status` is
completed, failed or refunded, `total_minor` an integer of minor units. Others are ignored."""


class ChartError(LedgerLakeError):
    """A frame lacks what a chart needs."""


@dataclass(frozen=True, slots=True)
class CurrencySeries:
    """Movements of one currency per period, every period of the calendar from the first to the last.

    Amounts are minor units: gross is what was completed, refunds what was refunded in that period, net
    the difference. Counts are events: `completed` and `failed` are attempts, `refunded` refunds.
    """

    currency: str
    exponent: int
    periods: tuple[date, ...]
    gross: tuple[int, ...]
    refunds: tuple[int, ...]
    completed: tuple[int, ...]
    failed: tuple[int, ...]
    refunded: tuple[int, ...]

    @property
    def net(self) -> tuple[int, ...]:
        return tuple(gross - refund for gross, refund in zip(self.gross, self.refunds, strict=True))

    @property
    def attempts(self) -> tuple[int, ...]:
        return tuple(done + failed for done, failed in zip(self.completed, self.failed, strict=True))

    def of(self, measure: Measure) -> tuple[int, ...]:
        """That measure of every period. Raises ChartError for a measure there is not."""
        if measure not in get_args(Measure):
            raise ChartError(f"There is no measure {measure!r}.", f"Ask for {', '.join(get_args(Measure))}.")
        values: tuple[int, ...] = getattr(self, measure)
        return values

    def told(self, measure: Measure, value: int) -> str:
        """The value of that measure in words: "12.50 EUR" or "3 failed"."""
        amount = exact(value, self.currency) if measure in ("gross", "refunds") else f"{value:,}"
        return f"{amount} {self.unit(measure)}"

    def unit(self, measure: Measure) -> str:
        """What an axis of that measure counts: "EUR" or "failed"."""
        return self.currency if measure in ("gross", "refunds") else measure

    def drawn(self, measure: Measure, value: int) -> float:
        """The value of that measure as an axis shows it: units of the currency, or a number of events."""
        return units(value, self.currency) if measure in ("gross", "refunds") else float(value)


@dataclass(frozen=True, slots=True)
class OrganizationTotals:
    """What one organization moved in one currency: minor units and counts of events."""

    organization_id: str
    currency: str
    gross: int
    refunds: int
    completed: int
    refunded: int

    @property
    def net(self) -> int:
        return self.gross - self.refunds


def series_by_currency(trends: Frame, every: Granularity = "day") -> list[CurrencySeries]:
    """One series per currency, the currency with the most movements first.

    `every` says what the frame's periods are. All series span the same periods, those of the whole
    frame, so that charts below each other share one time axis. An empty frame gives no series.
    Raises ChartError when a column of TRENDS_COLUMNS is missing.
    """
    rows = _sums(trends, ["currency", "period", "status"])
    if not rows:
        return []
    cells: dict[tuple[str, date], dict[str, tuple[int, int]]] = defaultdict(dict)
    movements: dict[str, int] = defaultdict(int)
    for currency, period, status, count, total in rows:
        cells[currency, period][status] = (count, total)
        movements[currency] += count
    known = [period for _, period in cells]
    periods = periods_between(min(known), max(known), every)
    return [_series(currency, periods, cells) for currency in busiest_first(movements)]


def organizations_by_currency(trends: Frame) -> dict[str, list[OrganizationTotals]]:
    """Per currency the organizations that moved money in it, largest gross first.

    Raises ChartError when a column of TRENDS_COLUMNS is missing.
    """
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    for currency, organization, status, count, total in _sums(
        trends, ["currency", "organization_id", "status"]
    ):
        found[currency, organization][status] = (count, total)
    ranked: dict[str, list[OrganizationTotals]] = defaultdict(list)
    for (currency, organization), by_status in found.items():
        completed, gross = by_status.get("completed", (0, 0))
        refunded, refunds = by_status.get("refunded", (0, 0))
        if completed or refunded:
            ranked[currency].append(
                OrganizationTotals(organization, currency, gross, refunds, completed, refunded)
            )
    for totals in ranked.values():
        totals.sort(key=lambda each: (-each.gross, each.refunds, each.organization_id))
    return dict(ranked)


def summary(trends: Frame) -> pl.DataFrame:
    """A row per currency with the exact totals of the frame, to be read: amounts and rates are text.

    Columns: currency, completed, gross, refunds, net (in units of the currency), failed_attempts,
    success_rate (of attempts), refund_rate (of the gross amount); a rate of nothing is "–".
    """
    rows = []
    for series in series_by_currency(trends, "day"):
        gross, refunds, completed = sum(series.gross), sum(series.refunds), sum(series.completed)
        amounts = (exact(minor, series.currency) for minor in (gross, refunds, gross - refunds))
        rates = percent(completed, sum(series.attempts)), percent(refunds, gross)
        rows.append((series.currency, completed, *amounts, sum(series.failed), *rates))
    return pl.DataFrame(
        rows,
        schema={
            "currency": pl.String,
            "completed": pl.Int64,
            "gross": pl.String,
            "refunds": pl.String,
            "net": pl.String,
            "failed_attempts": pl.Int64,
            "success_rate": pl.String,
            "refund_rate": pl.String,
        },
        orient="row",
    )


def percent(part: int, whole: int) -> str:
    """The share with two decimals, rounded down so that "100.00 %" means all of it; "–" of nothing."""
    if not whole:
        return "–"
    hundredths = part * 10_000 // whole
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


def units(minor: int, currency: str) -> float:
    """The amount in units of the currency for a chart's axis: to be drawn, never to be added up."""
    return float(minor) / float(10 ** exponent(currency))


def exact(minor: int, currency: str) -> str:
    """The amount in units of the currency to the last minor unit, with thousands separated."""
    places = exponent(currency)
    whole, fraction = divmod(abs(minor), 10**places)
    sign = "-" if minor < 0 else ""
    return f"{sign}{whole:,}" + (f".{fraction:0{places}d}" if places else "")


def counted(number: int, thing: str) -> str:
    """So many things: "1 payment", "2,345 payments"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def lazy(frame: Frame, columns: Sequence[str], source: str) -> pl.LazyFrame:
    """The frame, to be asked. Raises ChartError when it lacks one of the columns; `source` gives them all."""
    known = frame.lazy().collect_schema().names()
    missing = [name for name in columns if name not in known]
    if missing:
        raise ChartError(
            f"The frame has no column {', '.join(missing)}.", f"This takes what {source} returns."
        )
    return frame.lazy()


def busiest_first(movements: Mapping[str, int]) -> list[str]:
    """The currencies, the one with the most movements first."""
    return sorted(movements, key=lambda currency: (-movements[currency], currency))


def _sums(trends: Frame, keys: list[str]) -> list[tuple[Any, ...]]:
    """Rows of the keys, then count and total of minor units, sorted by the keys."""
    return (
        lazy(trends, TRENDS_COLUMNS, "Lake.trends()")
        .group_by(keys)
        # Int128 because a sum of int64 wraps silently.
        .agg(pl.col("count").cast(pl.Int64).sum(), pl.col("total_minor").cast(pl.Int128).sum())
        .sort(keys)
        .collect()
        .rows()
    )


def _series(
    currency: str, periods: tuple[date, ...], cells: dict[tuple[str, date], dict[str, tuple[int, int]]]
) -> CurrencySeries:
    nothing: dict[str, tuple[int, int]] = {}
    of_period = [cells.get((currency, period), nothing) for period in periods]

    def column(status: str, part: int) -> tuple[int, ...]:
        return tuple(by_status.get(status, (0, 0))[part] for by_status in of_period)

    return CurrencySeries(
        currency,
        exponent(currency),
        periods,
        gross=column("completed", 1),
        refunds=column("refunded", 1),
        completed=column("completed", 0),
        failed=column("failed", 0),
        refunded=column("refunded", 0),
    )


def periods_between(first: date, last: date, every: Granularity) -> tuple[date, ...]:
    """Every period of the calendar from the one starting on `first` to the one starting on `last`."""
    periods = [first]
    while (after := period_after(periods[-1], every)) <= last:
        periods.append(after)
    return tuple(periods)


def period_after(period: date, every: Granularity) -> date:
    """The first day of the period that follows the one starting on `period`."""
    if every == "month":
        return (period.replace(day=1) + timedelta(days=31)).replace(day=1)
    return period + timedelta(days=7 if every == "week" else 1)
