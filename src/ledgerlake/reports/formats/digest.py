"""What a page shows of a report's lines, gathered in one reading: sums by time, reasons, some lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final, Literal, TypeAlias

import numpy as np
import polars as pl

from ledgerlake.reports.clock import Clock
from ledgerlake.reports.formats.chart import Point
from ledgerlake.reports.formats.source import Source

Granularity: TypeAlias = Literal["day", "week", "month"]

MOST_CORRECTIONS: Final = 50
MOST_LINES: Final = 20
_LONGEST_REASON: Final = 200  # characters; longer ones with the same beginning count as one
_DAY: Final = 86_400_000  # milliseconds
_MOST_DAYS: Final = 62
_MOST_WEEKS: Final = 371  # days


@dataclass(slots=True)
class Digest:
    """Gathered from the lines; amounts are minor units.

    `failures` are count and sum of failed attempts per currency and (the beginning of) their reason.
    """

    every: Granularity
    periods: tuple[date, ...]
    first_lines: pl.DataFrame
    corrections: pl.DataFrame
    corrections_count: int = 0
    failures: dict[tuple[str, str | None], tuple[int, int]] = field(default_factory=dict)
    _sums: dict[tuple[str, date], tuple[int, int, int]] = field(default_factory=dict)

    def points(self, currency: str, opening: int) -> list[Point]:
        """What happened in each day, week or month of the interval; `opening` is the balance before."""
        found = []
        for period in self.periods:
            charged, returned, opening = self._sums.get((currency, period), (0, 0, opening))
            found.append(Point(_label(period, self.every), charged, returned, opening))
        return found

    def add(self, lines: pl.DataFrame, clock: Clock) -> None:
        """Gather a group of lines, in the order of the report; `clock` is that of its zone."""
        if self.first_lines.height < MOST_LINES:
            self.first_lines = pl.concat([self.first_lines, lines]).head(MOST_LINES)
        corrections = lines.filter(pl.col("category") == "correction")
        self.corrections_count += corrections.height
        if self.corrections.height < MOST_CORRECTIONS:
            self.corrections = pl.concat([self.corrections, corrections]).head(MOST_CORRECTIONS)
        self._add_sums(lines, clock)
        self._add_failures(lines.filter(pl.col("movement") == "failure"))

    def _add_sums(self, lines: pl.DataFrame, clock: Clock) -> None:
        days = clock.local(lines["booked_at"].dt.epoch("ms").to_numpy()) // _DAY
        amount = pl.col("amount_minor").cast(pl.Int128)
        sums = (
            lines.with_columns(pl.Series("day", days.astype(np.int32)).cast(pl.Date))
            .group_by("currency", "day", maintain_order=True)
            .agg(
                amount.filter(amount > 0).sum().alias("charged"),
                amount.filter(amount < 0).sum().alias("returned"),
                pl.col("balance_minor").last(),
            )
        )
        for currency, day, charged, returned, balance in sums.rows():
            key = (currency, start_of(day, self.every))
            held = self._sums.get(key, (0, 0, 0))
            self._sums[key] = (held[0] + charged, held[1] - returned, balance)

    def _add_failures(self, failed: pl.DataFrame) -> None:
        reason = pl.col("reason").str.head(_LONGEST_REASON)
        counted = failed.group_by("currency", reason, maintain_order=True).agg(
            pl.len(), pl.col("failed_minor").cast(pl.Int128).sum()
        )
        for currency, text, count, minor in counted.rows():
            held = self.failures.get((currency, text), (0, 0))
            self.failures[currency, text] = (held[0] + count, held[1] + minor)


def digest_of(source: Source) -> Digest:
    """Read all lines of a report once."""
    first, last = source.days
    length = (last - first).days + 1
    every: Granularity = "day" if length <= _MOST_DAYS else "week" if length <= _MOST_WEEKS else "month"
    digest = Digest(every, tuple(_periods(first, last, every)), source.no_lines, source.no_lines)
    clock = Clock(source.zone)
    for lines in source.lines():
        digest.add(lines, clock)
    return digest


def start_of(day: date, every: Granularity) -> date:
    """The first day of the week (Monday) or month that a day is in."""
    if every == "day":
        return day
    return day - timedelta(day.weekday()) if every == "week" else day.replace(day=1)


def _periods(first: date, last: date, every: Granularity) -> Iterator[date]:
    period = start_of(first, every)
    while period <= last:
        yield period
        period = start_of(period + timedelta({"day": 1, "week": 7, "month": 31}[every]), every)


def _label(period: date, every: Granularity) -> str:
    if every == "month":
        return f"{period:%b %Y}"
    return f"{period:%d %b}".lstrip("0") if every == "day" else f"week of {period:%d %b %Y}"
