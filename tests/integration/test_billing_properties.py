"""Random histories, late events, closes, reopens and zones: reports add up to the ledger, always."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from bson import encode
from bson.raw_bson import RawBSONDocument
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerlake.eventstore.columnar import columns_of_documents
from ledgerlake.lake.engines import Connection
from ledgerlake.lake.pinned import PinnedLake
from ledgerlake.reports.bookings import movements, summaries
from ledgerlake.reports.books import BEGINNING, EMPTY_BOOKS, Books, Entry, as_it_was
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.lines import LineMaker, Sums
from ledgerlake.reports.spec import ReportSpec
from tests.builders import payment_history

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # on 2009-11-01, midnight came twice
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Pacific/Kiritimati",
)
FIRST = datetime(2009, 9, 1, tzinfo=UTC)
DAYS = 130
EVENTS = 160
FAR = datetime(9999, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


@dataclass
class Reported:
    """A report as it was made at some moment."""

    interval: Interval
    instant: datetime
    lines: list[Row]
    summary: list[Row]


@dataclass
class History:
    """A log that grows while months are closed and reopened, and what was reported meanwhile."""

    events: pa.Table
    documents: list[Row]
    books: Books
    reported: list[Reported] = field(default_factory=list)
    # Of each month that is closed: what was reported when it was.
    closed: dict[str, Reported] = field(default_factory=dict)

    @cached_property
    def connection(self) -> Connection:
        """Knows all events."""
        found: Connection = PinnedLake(Path(), EVENTS, (), self.events).duckdb()
        found.execute("CREATE TABLE everything AS SELECT * FROM events")
        return found

    def at(self, position: int) -> Connection:
        """Knows the events up to a position."""
        self.connection.execute(
            f"CREATE OR REPLACE VIEW events AS SELECT * FROM everything WHERE position <= {position}"
        )
        return self.connection


def lines_of(connection: Connection, books: Books, start: datetime, end: datetime) -> list[Row]:
    return [row for part in movements(connection, books, start, end) for row in part.to_pylist()]


def report(history: History, position: int, books: Books, interval: Interval, at: datetime) -> Reported:
    connection = history.at(position)
    [summary] = summaries(connection, books, [interval])
    lines = lines_of(connection, books, interval.start, interval.end)
    return Reported(interval, at, lines, without_number(summary))


def without_number(summary: pa.Table) -> list[Row]:
    rows: list[Row] = summary.drop_columns(["number"]).to_pylist()
    return rows


def history_of(chance: random.Random, reopens: bool = True) -> History:
    """Events whose times wander on with some that come late; each second is a moment of recording."""
    documents = payment_history(chance.randrange(2**30), EVENTS, payments=30)
    zone = chance.choice(ZONES)
    for place, each in enumerate(documents):
        late = chance.choice((0.0, 0.0, 0.1, 1.0, 40.0)) * chance.random()
        at = FIRST + timedelta(days=DAYS * place / EVENTS - late, milliseconds=chance.randrange(1_000))
        if chance.random() < 0.15:  # on a boundary, or right before
            month = Interval.month_of(at, zone)
            at = month.start - timedelta(milliseconds=chance.randrange(2))
        each["timestamp"] = at.replace(microsecond=at.microsecond // 1_000 * 1_000)
        each["recordedAt"] = FIRST + timedelta(days=400, seconds=10 * place)
    events = columns_of_documents([RawBSONDocument(encode(each)) for each in documents], 0)
    history = History(events, documents, Books(zone))
    following = Interval.month_of(min(each["timestamp"] for each in documents), zone)
    for position in sorted(chance.sample(range(1, EVENTS + 1), 6)):
        at = documents[position - 1]["recordedAt"] + timedelta(seconds=1)
        interval = random_interval(chance, zone)
        history.reported.append(report(history, position, history.books, interval, at))
        at += timedelta(seconds=1)
        if reopens and history.closed and chance.random() < 0.3:
            following = following.previous()
            history.books = entered(history.books, "reopen", following, position, at)
            del history.closed[following.label]
        else:
            history.closed[following.label] = report(history, position, history.books, following, at)
            history.books = entered(history.books, "close", following, position, at)
            following = following.next()
    return history


def entered(books: Books, action: Any, month: Interval, position: int, at: datetime) -> Books:
    entry = Entry(
        len(books.entries) + 1, action, month.label, books.zone, month.start, month.end, 1, position, at, "me"
    )
    return Books(books.zone, (*books.entries, entry))


def random_interval(chance: random.Random, zone: str) -> Interval:
    at = FIRST + timedelta(days=chance.uniform(-20, DAYS))
    if chance.random() < 0.5:
        return Interval.month_of(at, chance.choice((zone, *ZONES)))
    end = at + timedelta(days=chance.uniform(0.01, 60))
    return Interval.parse(f"{at:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}", zone)


def partition(chance: random.Random, history: History) -> list[Interval]:
    """Intervals that cover all time without an overlap: months of a zone, or cut right at some movements."""
    zone = chance.choice((history.books.zone, *ZONES))
    if chance.random() < 0.5:
        month = Interval.month_of(FIRST - timedelta(days=45), zone)
        inner = [month]
        while inner[-1].end < FIRST + timedelta(days=DAYS + 60):
            inner.append(inner[-1].next())
        cuts = [BEGINNING, *(each.start for each in inner), FAR]
    else:
        cuts = sorted({each["timestamp"] for each in chance.sample(history.documents, 5)})
        cuts = [BEGINNING, *cuts, FAR]
    return [Interval(start, end, zone, f"{start}/{end}") for start, end in pairwise(cuts)]


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32))
def test_reports_add_up_to_the_ledger_and_what_was_reported_stays(seed: int) -> None:
    chance = random.Random(seed)
    history = history_of(chance)
    check_partition(history, partition(chance, history))
    connection = history.at(EVENTS)
    for then in history.closed.values():
        month = then.interval
        assert lines_of(connection, history.books, month.start, month.end) == then.lines
        [summary] = summaries(connection, history.books, [month])
        assert without_number(summary) == then.summary
    for then in history.reported:
        position, books = as_it_was(then.instant.isoformat(), history.at(EVENTS), history.books)
        again = report(history, position, books, then.interval, then.instant)
        assert (again.lines, again.summary) == (then.lines, then.summary)


def check_partition(history: History, intervals: list[Interval]) -> None:
    """The reports of intervals that cover all time hold each movement once, and are the ledger in sum."""
    books, connection = history.books, history.at(EVENTS)
    tables = summaries(connection, books, intervals)
    positions: list[int] = []
    balances: Counter[tuple[str, str]] = Counter()
    for interval, summary in zip(intervals, tables, strict=True):
        rows = summary.to_pylist()
        make = LineMaker(ReportSpec(interval, books=books))
        sums: dict[str, Sums] = {}
        for part in movements(connection, books, interval.start, interval.end):
            for line in make.make(part, 0).to_pylist():
                positions.append(line["position"])
                booked = books.booked_at(line["occurred_at"], line["position"])
                assert line["booked_at"] == booked
                assert interval.start <= booked < interval.end
                late = booked > line["occurred_at"]
                assert line["category"] == ("correction" if late else line["movement"])
                period = Interval.parse(line["period"], books.zone)
                assert period.start <= booked < period.end
            for name in part["organization_id"].unique().to_pylist():
                mine = part.filter(pa.compute.equal(part["organization_id"], name))
                sums.setdefault(name, Sums()).add(make.make(mine, 0))
        for name in {row["organization_id"] for row in rows} | sums.keys():
            its = [row for row in rows if row["organization_id"] == name]
            assert sums.get(name, Sums()).differences(its) == []
        for row in rows:
            key = (row["organization_id"], row["currency"])
            if row["category"] == "charge":
                assert row["opening_minor"] == balances[key]
        for row in rows:
            balances[row["organization_id"], row["currency"]] += row["net_minor"]
    assert sorted(positions) == list(range(1, EVENTS + 1))
    ledger: Counter[tuple[str, str]] = Counter()
    for each in history.documents:
        sign = {"PaymentProcessed": 1, "PaymentFailed": 0, "PaymentRefunded": -1}[each["eventType"]]
        key = (each["metadata"]["organizationId"], each["eventData"]["currency"])
        ledger[key] += sign * int(each["eventData"]["amountMinor"])
    assert {key: minor for key, minor in balances.items() if minor} == {
        key: minor for key, minor in ledger.items() if minor
    }


def test_negative_control_without_the_books_closed_months_change() -> None:
    history = history_of(random.Random(7), reopens=False)
    connection = history.at(EVENTS)
    assert any(
        lines_of(connection, EMPTY_BOOKS, then.interval.start, then.interval.end) != then.lines
        for then in history.closed.values()
    )
