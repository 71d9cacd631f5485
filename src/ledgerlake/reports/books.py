"""The books: which months are closed, as of which position, and so when a movement is booked.

A movement is booked when it occurred, or, if its month was closed by then, at the end of the last month
that was. "By then" is a matter of positions alone: a close pins the position P of the log's head, and the
events up to P are in time. So a close changes no line that is there, and no clock has a say in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pyarrow as pa
from bson.int64 import Int64
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ledgerlake.mongo.indexes import PERIODS
from ledgerlake.reports.errors import ReportError

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection

Action: TypeAlias = Literal["close", "reopen"]

# No movement occurred before it: nothing that comes before the first close is late.
BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST_POSITION: Final = 2**63 - 1
FRONTIERS: Final = pa.schema(
    [
        pa.field("after", pa.int64(), nullable=False),
        pa.field("up_to", pa.int64(), nullable=False),
        pa.field("frontier", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)


class PeriodTakenError(ReportError):
    """Somebody else closed or reopened a period at the same time, and was first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list of closes, which only grows.

    `number` counts from 1. `period` ("2011-11") is from `start` to right before `end`, midnight in `zone`.
    `position` is the one that a close pins, or the log's head at a reopening. `revision` (from 1) is that
    of the close or of what is reopened, `supersedes` the folder of the revision that a close replaces.
    `definitions` are the versions of the report's tables, `formats` those of the files, and `digest`
    stands for the rows of all its reports.
    """

    number: int
    action: Action
    period: str
    zone: str
    start: datetime
    end: datetime
    revision: int
    position: int
    at: datetime
    by: str
    reason: str | None = None
    supersedes: str | None = None
    definitions: Mapping[str, int] = field(default_factory=dict, hash=False)
    formats: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def folder(self) -> str:
        """Where the revision's reports lie, in the folder of reports."""
        return f"{self.period}/revision-{self.revision}"


@dataclass(frozen=True, slots=True)
class Books:
    """All entries, in order, and the one time zone whose calendar months the periods are."""

    zone: str
    entries: tuple[Entry, ...] = ()

    def closed(self) -> tuple[Entry, ...]:
        """The closes that hold, in order: a reopening takes the last one back.

        Raises:
            ReportError: an entry is missing, or reopens what is not the last closed period.
        """
        held: list[Entry] = []
        for number, entry in enumerate(self.entries, 1):
            if entry.number != number:
                raise ReportError(
                    f"The list of closed periods lacks entry {number}.", "Restore it from a backup."
                )
            if entry.action == "close":
                held.append(entry)
            elif held and held[-1].period == entry.period:
                held.pop()
            else:
                raise ReportError(
                    f"Entry {number} of the list of closed periods reopens {entry.period}, which was not the"
                    " last closed one.",
                    "Restore the list from a backup.",
                )
        return tuple(held)

    def as_of(self, position: int | None = None, instant: datetime | None = None) -> Books:
        """The books as they were at a position of the log, or at an instant; with both, as of both."""
        kept = []
        for entry in self.entries:
            if (position is not None and entry.position > position) or (
                instant is not None and entry.at > instant
            ):
                break
            kept.append(entry)
        return Books(self.zone, tuple(kept))

    def shut(self, position: int) -> tuple[Entry, ...]:
        """The closes that hold and that an event at `position` comes after."""
        return tuple(entry for entry in self.closed() if entry.position < position)

    def frontier(self, position: int) -> datetime:
        """How far the books were shut when the event at `position` came: BEGINNING if not at all."""
        shut = self.shut(position)
        return shut[-1].end if shut else BEGINNING

    def booked_at(self, occurred_at: datetime, position: int) -> datetime:
        """When a movement is booked: when it occurred, or at the first instant that was open when it came."""
        return max(occurred_at, self.frontier(position))

    def frontiers(self) -> pa.Table:
        """The frontier of every position as FRONTIERS: that of those with after < position <= up_to.

        The rows are in order, disjoint, and cover every position; there is at least one.
        """
        rows = []
        after, frontier = 0, BEGINNING
        for entry in self.closed():
            if entry.position > after:
                rows.append((after, entry.position, frontier))
                after = entry.position
            frontier = entry.end
        rows.append((after, _LAST_POSITION, frontier))
        return pa.table([list(column) for column in zip(*rows, strict=True)], schema=FRONTIERS)


EMPTY_BOOKS: Final = Books("UTC")


def as_it_was(text: str, connection: Connection, books: Books) -> tuple[int, Books]:
    """The position and the books as of a position ("1200", "1,200") or an instant ("2011-12-01T09:30+01:00").

    As of an instant is as of the last position that was recorded by then; one without an offset is in UTC.
    `connection` has the view `events`, up to the head.

    Raises:
        ReportError: the text is neither or may be both, or the position is not there yet.
    """
    found = connection.sql("SELECT COALESCE(MAX(position), 0) AS position FROM events").to_arrow_table()
    last = int(found["position"][0].as_py())
    number = text.replace(",", "")
    if number.isdecimal():
        position = int(number)
        _check_no_day(text, position)
        if position > last:
            raise ReportError(
                f"The lake ends at position {last:,}: nothing can be reported as of {position:,} yet.",
                "Refresh it first: ledgerlake refresh.",
            )
        return position, books.as_of(position=position)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ReportError(
            f"{text!r} is no position and no instant.",
            "Give a number such as 1200, or an instant such as 2011-12-01T09:30Z.",
        ) from None
    instant = (instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)).astimezone(UTC)
    if instant > datetime.now(UTC):
        raise ReportError(f"{text} has not come yet.", "Name an instant that is past, or leave --as-of out.")
    found = connection.sql(
        "SELECT COALESCE(MAX(position), 0) AS position FROM events WHERE recorded_at <= $instant",
        params={"instant": instant},
    ).to_arrow_table()
    return int(found["position"][0].as_py()), books.as_of(instant=instant)


def _check_no_day(text: str, position: int) -> None:
    """Refuse a number that may as well be a day: 20111205. With commas it is a position."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return
    raise ReportError(
        f"{text} is a position of the log, or the day {day}.",
        f"Write {position:,} for the position, or {day} for the day's first instant.",
    )


def read_books(db: Database[dict[str, Any]], zone: str | None = None) -> Books:
    """The books of a ledger that is set to keep them in `zone`; None: wherever it does.

    Raises:
        ReportError: a period was closed while the ledger kept its books in another zone.
    """
    entries = tuple(entry_of(document) for document in db[PERIODS].find({}, sort=[("_id", 1)]))
    if zone is None:
        zone = entries[0].zone if entries else EMPTY_BOOKS.zone
    if entries and entries[0].zone != zone:
        raise ReportError(
            f"The books of this ledger are kept in {entries[0].zone}, as the first close of a period wrote"
            f" down, not in {zone}.",
            f"Set LEDGERLAKE_BOOKS_ZONE={entries[0].zone}.",
        )
    return Books(zone, entries)


def append_entry(db: Database[dict[str, Any]], entry: Entry) -> None:
    """Write an entry down, once and for all.

    Raises:
        PeriodTakenError: there is an entry of this number already.
    """
    document = document_of(entry)
    try:
        db[PERIODS].insert_one(document)
    except DuplicateKeyError as taken:
        first = entry_of(db[PERIODS].find_one({"_id": entry.number}) or document)
        done = "closed" if first.action == "close" else "reopened"
        raise PeriodTakenError(
            f"{first.by} was first and {done} {first.period} at {first.at:%Y-%m-%d %H:%M:%S} UTC.",
            "Look at `ledgerlake period list`, then decide again.",
        ) from taken


def document_of(entry: Entry) -> dict[str, Any]:
    """An entry as the list has it."""
    return {
        "_id": Int64(entry.number),
        "action": entry.action,
        "period": entry.period,
        "zone": entry.zone,
        "start": entry.start,
        "end": entry.end,
        "revision": entry.revision,
        "position": Int64(entry.position),
        "at": entry.at,
        "by": entry.by,
        "reason": entry.reason,
        "supersedes": entry.supersedes,
        "definitions": dict(entry.definitions),
        "formats": list(entry.formats),
        "digest": entry.digest,
    }


def entry_of(document: Mapping[str, Any]) -> Entry:
    """What `document_of` made a document of."""
    return Entry(
        number=int(document["_id"]),
        action=document["action"],
        period=document["period"],
        zone=document["zone"],
        start=document["start"],
        end=document["end"],
        revision=int(document["revision"]),
        position=int(document["position"]),
        at=document["at"],
        by=document["by"],
        reason=document["reason"],
        supersedes=document["supersedes"],
        definitions=document["definitions"],
        formats=tuple(document["formats"]),
        digest=document["digest"],
    )
