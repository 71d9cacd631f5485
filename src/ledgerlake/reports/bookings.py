"""What the lake says for billing reports: the two queries, and what they are given beside the events.

A movement is booked when it occurred or, if the books were shut beyond that when it came, at the first
instant that was open: `booked_at = max(occurred_at, frontier(position))`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ledgerlake.lake.parquet import ROW_GROUP
from ledgerlake.reports.balances import running
from ledgerlake.reports.billing_definition import ITEMISED, SUMMARY
from ledgerlake.reports.books import BEGINNING, Books
from ledgerlake.reports.interval import Interval

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection

INTERVALS: Final = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("start", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("before", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("wanted", pa.bool_(), nullable=False),
    ]
)

_BOOKINGS: Final = """
CREATE OR REPLACE TEMP VIEW bookings AS
SELECT events.*, frontier, GREATEST(occurred_at, frontier) AS booked_at
FROM events
JOIN frontiers
  ON events.position > frontiers.after
  AND events.position <= frontiers.up_to
"""
_EARLIEST: Final = """
SELECT organization_id, currency, MIN(occurred_at) AS occurred_at, CAST(0 AS BIGINT) AS amount_minor
FROM bookings
WHERE booked_at >= $start
  AND booked_at < $end
  AND occurred_at < $end
  AND ($organization IS NULL OR organization_id = $organization)
GROUP BY organization_id, currency
"""


def booked(connection: Connection, books: Books) -> None:
    """Give a connection that has the view `events` the view `frontiers` of the books."""
    connection.register("frontiers", books.frontiers())


def bookings(connection: Connection, books: Books) -> None:
    """The same, and the view `bookings`: the columns of `events`, frontier, booked_at.

    What is late has frontier > occurred_at.
    """
    booked(connection, books)
    connection.execute(_BOOKINGS)


def movements(
    connection: Connection,
    books: Books,
    start: datetime,
    end: datetime,
    organization: str | None = None,
    rows: int = ROW_GROUP,
) -> Generator[pa.Table, None, None]:
    """All movements booked from `start` to right before `end`, as tables of ITEMISED of up to `rows` rows.

    In the order of organization, booked_at and position, with running balances (`balances.running`), which
    begin with what was booked before `start`.
    """
    booked(connection, books)
    parameters = itemised_parameters(books, start, end, organization)
    return running(ITEMISED.stream(connection, parameters, rows))


def itemised_parameters(
    books: Books, start: datetime, end: datetime, organization: str | None = None
) -> dict[str, Any]:
    """The parameters of ITEMISED for an interval."""
    return {"start": start, "after": _open_until(books, start), **_ending(books, end, organization)}


def earliest(
    connection: Connection, books: Books, interval: Interval, organization: str | None = None
) -> pa.Table:
    """Of what is booked in an interval, when the earliest of each organization and currency occurred.

    Columns: organization_id, currency, occurred_at, and amount_minor, which is 0.
    """
    bookings(connection, books)
    parameters = {"start": interval.start, "end": interval.end, "organization": organization}
    found = connection.sql(_EARLIEST, params=parameters).to_arrow_table()
    at = found.column_names.index("occurred_at")
    return found.set_column(at, "occurred_at", found["occurred_at"].cast(pa.timestamp("ms", tz="UTC")))


def summaries(
    connection: Connection,
    books: Books,
    intervals: Sequence[Interval],
    organization: str | None = None,
) -> list[pa.Table]:
    """The rows of SUMMARY for each interval, with one look at the events. Intervals must not overlap.

    In the order of organization, currency and category; `number` means nothing any more.
    """
    booked(connection, books)
    order = sorted(range(len(intervals)), key=lambda at: intervals[at])
    ordered = [intervals[at] for at in order]
    connection.register("intervals", intervals_table(ordered))
    found = SUMMARY.run(connection, summary_parameters(books, ordered[-1].end, organization))
    numbers = found["number"].to_numpy()
    tables: list[pa.Table] = [found] * len(intervals)
    for place, at in enumerate(order):
        low, high = (numbers.searchsorted(_number(place), side) for side in ("left", "right"))
        tables[at] = found.slice(low, high - low)
    return tables


def summary_parameters(books: Books, end: datetime, organization: str | None = None) -> dict[str, Any]:
    """The parameters of SUMMARY for intervals the last of which ends at `end`."""
    return _ending(books, end, organization)


def intervals_table(ordered: Sequence[Interval]) -> pa.Table:
    """The view `intervals`: these, in order and without overlap, and what lies before and between them."""
    rows: list[tuple[int, datetime, datetime, bool]] = []
    reached = BEGINNING
    for place, each in enumerate(ordered):
        if reached < each.start:
            rows.append((_number(place) - 1, reached, each.start, False))
        rows.append((_number(place), each.start, each.end, True))
        reached = each.end
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=INTERVALS)


def _number(place: int) -> int:
    return 2 * place + 1  # an even one is free for the gap before it


def _ending(books: Books, end: datetime, organization: str | None) -> dict[str, Any]:
    return {"end": end, "until": _open_until(books, end), "organization": organization}


def _open_until(books: Books, instant: datetime) -> int:
    """The last position whose event found the books open at `instant`; 0 if none did."""
    rows = books.frontiers().to_pylist()
    return max((row["up_to"] for row in rows if row["frontier"] < instant), default=0)
