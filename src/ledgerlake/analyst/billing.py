"""The books as the lake and the folder of reports tell them: months, lines, corrections, reconciliation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa

from ledgerlake.analyst.reconciling import compared, manifests
from ledgerlake.eventstore.columnar import scale
from ledgerlake.lake.errors import LakeError
from ledgerlake.reports.billing_definition import ITEMISED_FILE, LINE_FX
from ledgerlake.reports.bookings import bookings, intervals_table, movements, summaries
from ledgerlake.reports.books import BEGINNING, Books, Entry
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.lines import LineMaker
from ledgerlake.reports.revisions import DRAFT
from ledgerlake.reports.spec import ReportSpec

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection
    from ledgerlake.lake.pinned import PinnedLake

_LINE: Final = [each.name for each in ITEMISED_FILE if each.name not in {fx.name for fx in LINE_FX}]
_FIRST_INSTANT: Final = timedelta(milliseconds=1)
_END: Final = datetime(9999, 12, 31, tzinfo=UTC)

_MONTHS: Final = """
WITH chosen AS (
  SELECT
    *,
    frontier > occurred_at AS late,
    CAST(CASE WHEN event_type = 'PaymentProcessed' THEN amount_minor ELSE 0 END AS DECIMAL(38, 0)) AS gross,
    CAST(CASE WHEN event_type = 'PaymentRefunded' THEN amount_minor ELSE 0 END AS DECIMAL(38, 0)) AS refunded
  FROM bookings
  WHERE $organization IS NULL OR organization_id = $organization
),
here AS (
  SELECT
    number, currency, exponent,
    COUNT(*) AS movements,
    COUNT(*) FILTER (WHERE event_type = 'PaymentProcessed') AS charges,
    COUNT(*) FILTER (WHERE event_type = 'PaymentRefunded') AS refunds,
    COUNT(*) FILTER (WHERE event_type = 'PaymentFailed') AS failures,
    SUM(gross) AS gross,
    SUM(refunded) AS refunded,
    COUNT(*) FILTER (WHERE late) AS corrections
  FROM chosen JOIN intervals ON booked_at >= start AND booked_at < before
  GROUP BY ALL
),
later AS (
  SELECT number, currency, exponent, COUNT(*) AS late, SUM(gross - refunded) AS late_net
  FROM chosen JOIN intervals ON occurred_at >= start AND occurred_at < before
  WHERE late
  GROUP BY ALL
)
SELECT
  number, currency, exponent, movements, charges, refunds, failures, gross, refunded,
  gross - refunded AS net, corrections, late, late_net
FROM here FULL JOIN later USING (number, currency, exponent)
ORDER BY number, currency
"""
_LATE: Final = """
SELECT DISTINCT frontier
FROM bookings
WHERE frontier > occurred_at AND occurred_at >= $start AND occurred_at < $end
  AND ($organization IS NULL OR organization_id = $organization)
ORDER BY frontier
"""


@dataclass(frozen=True, slots=True)
class Billing:
    """The books as of the position of a lake, with the folder that their reports lie in."""

    pinned: PinnedLake
    books: Books
    reports: Path

    def periods(self, organization: str | None) -> pl.DataFrame:
        """See `Lake.periods`."""
        with self.pinned.naming_damage(), self.pinned.duckdb() as connection:
            bookings(connection, self.books)
            ends = "SELECT MIN(occurred_at) AS first, MAX(booked_at) AS last FROM bookings"
            [row] = connection.sql(ends).to_arrow_table().to_pylist()
            months = self._months(row["first"], row["last"])
            connection.register("intervals", intervals_table(months))
            found = connection.sql(_MONTHS, params={"organization": organization}).to_arrow_table()
        counts = ("movements", "charges", "refunds", "failures", "corrections", "late")
        amounts = ("gross", "refunded", "net", "late_net")
        columns: dict[str, Any] = {name: found[name] for name in ("number", "currency", "exponent")}
        columns |= {name: found[name].cast(pa.int64()).fill_null(0) for name in counts[:4]}
        for name in amounts:
            minor = found[name].cast(pa.int64()).fill_null(0)
            if name == "late_net":
                columns |= {each: found[each].cast(pa.int64()).fill_null(0) for each in counts[4:]}
            columns |= {f"{name}_minor": minor, name: scale(minor, found["exponent"])}
        frame = pl.from_arrow(pa.table(columns))
        assert isinstance(frame, pl.DataFrame)
        # Every second interval is a gap, numbered evenly: see `intervals_table`.
        told = pl.DataFrame([{"number": 2 * at + 1, **self._told(m)} for at, m in enumerate(months)], _TOLD)
        with_movements = told.join(frame, "number", how="left", maintain_order="left")
        kept = pl.col("currency").is_not_null() | pl.col("revision").is_not_null()
        state = (
            pl.when((pl.col("state") == "closed") & (pl.col("late").sum().over("period") > 0))
            .then(pl.lit("corrected"))
            .otherwise("state")
            .alias("state")
        )
        return with_movements.filter(kept).with_columns(state).drop("number")

    def lines(self, period: str, organization: str | None, revision: int | None) -> pl.DataFrame:
        """See `Lake.billing`."""
        interval, pinned, books = self._asked(period, revision)
        with pinned.naming_damage(), pinned.duckdb() as connection:
            return _lines(connection, books, interval, organization)

    def corrections(self, period: str | None, organization: str | None) -> pl.DataFrame:
        """See `Lake.corrections`."""
        of = None if period is None else self._interval(period)
        start, end = (BEGINNING, _END) if of is None else (of.start, of.end)
        chosen = {"start": start, "end": end, "organization": organization}
        with self.pinned.naming_damage(), self.pinned.duckdb() as connection:
            bookings(connection, self.books)
            late = connection.sql(_LATE, params=chosen).to_arrow_table()
            # They are booked at the first instant that was open: the first lines of some month.
            instants = [Interval(at, at + _FIRST_INSTANT, self.books.zone, "") for at in late[0].to_pylist()]
            parts = [_lines(connection, self.books, each, organization) for each in instants]
        found = pl.concat(parts or [_shown([])])
        occurred = pl.col("occurred_at")
        return found.filter(pl.col("category") == "correction", occurred >= start, occurred < end)

    def reconciliation(self, period: str, organization: str | None, revision: int | None) -> pl.DataFrame:
        """See `Lake.reconciliation`."""
        interval = self._interval(period)
        if not interval.is_month:
            raise LakeError(
                f"{period} is no month.", "Reports are of months: reconcile one, such as 2011-11."
            )
        entry = self._entry(interval.label, revision) or self._closed().get(interval.label)
        folder = self.reports / (f"{interval.folder}/{DRAFT}" if entry is None else entry.folder)
        reports = manifests(folder, organization)
        position = max((each.facts["position"] for each in reports.values()), default=0)
        if position > self.pinned.position:
            raise LakeError(
                f"The reports in {folder} are as of position {position:,}, this lake of"
                f" {self.pinned.position:,}.",
                "They were written since: open the lake anew.",
            )
        _, pinned, books = self._asked(period, entry.revision if entry is not None else None)
        pinned = pinned.at(position)
        with pinned.naming_damage(), pinned.duckdb() as connection:
            [table] = summaries(connection, books, [interval], organization)
        return compared(folder, reports, table.to_pylist())

    def _asked(self, period: str, revision: int | None) -> tuple[Interval, PinnedLake, Books]:
        """What is to be shown: of which interval, as of which position, by which books."""
        interval = self._interval(period)
        entry = self._entry(interval.label, revision)
        if entry is None:
            return interval, self.pinned, self.books
        then = Books(self.books.zone, self.books.entries[: entry.number - 1])
        return interval, self.pinned.at(entry.position), then

    def _interval(self, period: str) -> Interval:
        asked = Interval.parse(period, self.books.zone)
        entry = self._closed().get(asked.label)
        # As it was closed, whatever the zone's rules have become since.
        return asked if entry is None else replace(asked, start=entry.start, end=entry.end)

    def _closed(self) -> dict[str, Entry]:
        return {entry.period: entry for entry in self.books.closed()}

    def _entry(self, period: str, revision: int | None) -> Entry | None:
        """The close that made a revision; None where none is asked for."""
        if revision is None:
            return None
        closes = [each for each in self.books.entries if each.action == "close" and each.period == period]
        for entry in closes:
            if entry.revision == revision:
                return entry
        there = f"It has {len(closes)}, numbered from 1." if closes else "It was never closed."
        raise LakeError(f"{period} has no revision {revision!r}.", f"{there} `lake.periods()` tells.")

    def _months(self, first: datetime, last: datetime) -> list[Interval]:
        closed = self._closed()
        month = Interval.month_of(first, self.books.zone)
        months = [month]
        while month.end <= last or any(label > month.label for label in closed):
            month = month.next()
            months.append(month)
        for at, month in enumerate(months):
            if entry := closed.get(month.label):
                months[at] = replace(month, start=entry.start, end=entry.end)
            elif at and months[at - 1].label in closed:
                months[at] = replace(month, start=months[at - 1].end)
        return months

    def _told(self, month: Interval) -> dict[str, Any]:
        """What the list of closes says of a month."""
        entry = self._closed().get(month.label)
        shut = self.books.closed()[-1:]
        revisions = [e for e in self.books.entries if e.action == "close" and e.period == month.label]
        return {
            "period": month.label,
            "state": "closed" if any(month.end <= each.end for each in shut) else "open",
            "revision": None if entry is None else entry.revision,
            "revisions": len(revisions),
            "closed_at": None if entry is None else entry.at,
            "closed_by": None if entry is None else entry.by,
            "position": self.pinned.position if entry is None else entry.position,
        }


_TOLD: Final[dict[str, Any]] = {
    "number": pl.Int32,
    "period": pl.String,
    "state": pl.String,
    "revision": pl.Int64,
    "revisions": pl.Int64,
    "closed_at": pl.Datetime("ms", "UTC"),
    "closed_by": pl.String,
    "position": pl.Int64,
}


def _lines(
    connection: Connection, books: Books, interval: Interval, organization: str | None
) -> pl.DataFrame:
    make = LineMaker(ReportSpec(interval, books=books))
    found = movements(connection, books, interval.start, interval.end, organization)
    return _shown([make.make(part, 0) for part in found])


def _shown(parts: list[pa.Table]) -> pl.DataFrame:
    """Lines of several organizations as they are in their reports, each of which counts from 1."""
    frame = pl.from_arrow(pa.concat_tables([ITEMISED_FILE.empty_table(), *parts]).select(_LINE))
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("organization_id").alias("line")
    )
