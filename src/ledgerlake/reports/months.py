"""What the reports of a month say in sum, and what came too late for a month that was closed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from ledgerlake.reports.billing_definition import BillingTotals, totals_of_summary
from ledgerlake.reports.bookings import bookings
from ledgerlake.reports.books import Books
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import MANIFEST, read_manifest
from ledgerlake.reports.revisions import DRAFT

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection
    from ledgerlake.lake.event_lake import EventLake

_MONTHS: Final = pa.schema(
    [
        pa.field("period", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("before", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)
_FIRST_LATE: Final = """
SELECT MIN(occurred_at) AS first, MAX(occurred_at) AS last
FROM bookings
WHERE position > $after AND occurred_at < frontier
"""
_LATE: Final = """
SELECT months.period, frontier, currency, event_type, COUNT(*) AS movements, SUM(amount_minor) AS minor
FROM bookings
JOIN months
  ON occurred_at >= months.start
  AND occurred_at < months.before
WHERE position > $after AND occurred_at < frontier
GROUP BY months.period, frontier, currency, event_type
"""


@dataclass(frozen=True, slots=True)
class MonthReports:
    """The reports of a month as they lie in a folder, in sum: the draft of an open one, or a revision.

    `position` is the last one that any of them is as of: a draft that no later event has changed keeps its
    own. `revision` is None of a draft. `lines` and `bytes` are of all `organizations`, `totals` their sums
    per currency; `corrections` are those of the movements among them that happened in earlier months.
    """

    period: str
    state: Literal["open", "closed"]
    folder: Path
    revision: int | None
    position: int
    organizations: int
    lines: int
    bytes: int
    totals: tuple[BillingTotals, ...]
    corrections: tuple[BillingTotals, ...]


@dataclass(frozen=True, slots=True)
class LateMovements:
    """Movements of a closed month that came when it was closed: where they are booked, and their sums."""

    period: str
    booked_in: tuple[str, ...]
    totals: tuple[BillingTotals, ...]

    @property
    def movements(self) -> int:
        """How many they are."""
        return _movements(self.totals)


def month_reports(out: Path, period: str, books: Books) -> MonthReports:
    """The reports of a month in a folder of reports: the revision that counts, else the draft.

    By their manifests; no other file is looked at. A month that has none of either has 0 organizations.

    Raises:
        ReportError: a manifest was changed.
    """
    closed = next((entry for entry in books.closed() if entry.period == period), None)
    folder = out / period / DRAFT if closed is None else out / closed.folder
    found = [read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    rows: list[dict[str, Any]] = [row for each in found for row in each.content["totals"]]
    return MonthReports(
        period=period,
        state="open" if closed is None else "closed",
        folder=folder,
        revision=None if closed is None else closed.revision,
        position=max((each.facts["position"] for each in found), default=0),
        organizations=len(found),
        lines=sum(row["count"] for row in rows),
        bytes=sum(file["bytes"] for each in found for file in each.files.values()),
        totals=totals_of_summary(rows),
        corrections=tuple(
            each
            for each in totals_of_summary(row for row in rows if row["category"] == "correction")
            if _movements([each])
        ),
    )


def late_movements(lake: EventLake, books: Books, after: int, up_to: int) -> list[LateMovements]:
    """The events with after < position <= up_to whose month was closed when they came, by that month.

    Raises:
        LakeError, CorruptFileError: the lake can not be read, or has not come to `up_to`.
    """
    if up_to <= after or not any(entry.position < up_to for entry in books.closed()):
        return []
    pinned = lake.pin(up_to)
    with pinned.naming_damage(), pinned.duckdb() as connection:
        rows = _late(connection, books, after)
    sums: dict[str, dict[str, BillingTotals]] = defaultdict(dict)
    booked_in: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        period, currency = row["period"], row["currency"]
        before = sums[period].get(currency, BillingTotals(currency))
        sums[period][currency] = before + _totals(row)
        booked_in[period].add(Interval.month_of(row["frontier"], books.zone).label)
    return [
        LateMovements(
            period,
            tuple(sorted(booked_in[period])),
            tuple(sums[period][currency] for currency in sorted(sums[period])),
        )
        for period in sorted(sums)
    ]


def _late(connection: Connection, books: Books, after: int) -> list[dict[str, Any]]:
    bookings(connection, books)
    [ends] = connection.sql(_FIRST_LATE, params={"after": after}).to_arrow_table().to_pylist()
    if ends["first"] is None:
        return []
    connection.register("months", _months(ends["first"], ends["last"], books))
    found: list[dict[str, Any]] = connection.sql(_LATE, params={"after": after}).to_arrow_table().to_pylist()
    return found


def _months(first: datetime, last: datetime, books: Books) -> pa.Table:
    """The months of the books from one instant to another: those closed as their closes wrote them down."""
    closed = {entry.period: (entry.start, entry.end) for entry in books.closed()}
    month = Interval.month_of(first, books.zone)
    rows: list[tuple[str, datetime, datetime]] = []
    while month.start <= last:
        rows.append((month.label, *closed.get(month.label, (month.start, month.end))))
        month = month.next()
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=_MONTHS)


def _totals(row: dict[str, Any]) -> BillingTotals:
    count, minor = row["movements"], int(row["minor"])
    if row["event_type"] == "PaymentProcessed":
        return BillingTotals(row["currency"], charges=count, gross_minor=minor)
    if row["event_type"] == "PaymentRefunded":
        return BillingTotals(row["currency"], refunds=count, refunded_minor=minor)
    return BillingTotals(row["currency"], failures=count, failed_minor=minor)


def _movements(totals: Iterable[BillingTotals]) -> int:
    return sum(each.charges + each.refunds + each.failures for each in totals)
