"""Closing months for good, and reopening them: which revision of which month lies where, and why.

A close writes the reports into a hidden folder, then its line into the list of closes, and from that moment
the month is closed; then the folder gets its name. Whoever is killed in between leaves a line without a
folder: everybody who comes next writes that folder, with the same rows, from what the line pins.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo.database import Database

from ledgerlake.eventstore.columnar import head
from ledgerlake.lake.engines import DUCKDB, Engine
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.files import exclusive
from ledgerlake.reports.books import Books, Entry, append_entry, read_books
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import DEFINITIONS
from ledgerlake.reports.noted import note_books
from ledgerlake.reports.revisions import (
    Gatekeeper,
    complete_revisions,
    missing,
    publish,
    remove_draft,
    write,
)
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import LOCK, OnProgress

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection
    from ledgerlake.lake.pinned import PinnedLake


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of a closed month: its line in the list, its folder, and whether this run wrote the line."""

    entry: Entry
    folder: Path
    new: bool


class Periods:
    """The months of a ledger whose books are kept in `zone`, with their reports in the folder `out`."""

    def __init__(
        self,
        db: Database[dict[str, Any]],
        lake: EventLake,
        out: Path,
        zone: str,
        gate: Gatekeeper,
        engine: Engine = DUCKDB,
    ) -> None:
        self._db = db
        self._lake = lake
        self._out = out
        self._zone = zone
        self._gate = gate
        self._engine = engine

    def books(self) -> Books:
        """The books as they are now.

        Raises:
            ReportError: they are kept in another zone.
        """
        return read_books(self._db, self._zone)

    def close(
        self,
        period: str,
        position: int,
        *,
        by: str,
        through: bool = False,
        formats: Sequence[str] = ("parquet",),
        on_progress: OnProgress | None = None,
    ) -> list[Revision]:
        """Close a month as of a position that the lake has reached; with `through`, all before it too.

        One that is closed is left as it is, and its folder is written if it is missing. `on_progress(done,
        total)` counts months.

        Raises:
            ReportError: the month has not ended, an earlier one is open, or nothing happened up to it.
            PeriodTakenError: somebody else closed or reopened a month at the same time, and was first.
            PublicationBlocked: the reports are not what the log says.
        """
        month = self._month(period)
        self._look_first(month, position, through)
        with self._locked():
            books = self.books()
            complete_revisions(self._lake, self._out, books, self._engine)
            for entry in books.closed():
                if entry.period == month.label:
                    return [Revision(entry, self._out / entry.folder, False)]
            if books.entries and position < books.entries[-1].position:
                raise ReportError(
                    f"{books.entries[-1].period} was closed as of position {books.entries[-1].position:,};"
                    f" no month can be closed as of the earlier {position:,}.",
                    "Refresh the lake first: ledgerlake refresh.",
                )
            pinned = self._lake.pin(position)
            done: list[Revision] = []
            with pinned.naming_damage(), self._engine.connect(pinned) as connection:
                due = self._due(books, month, through, connection)
                for each in due:
                    entry = self._closed(books, each, pinned, connection, by, formats)
                    done.append(Revision(entry, self._out / entry.folder, True))
                    books = Books(books.zone, (*books.entries, entry))
                    note_books(self._out, books)
                    if on_progress is not None:
                        on_progress(len(done), len(due))
            return done

    def _look_first(self, month: Interval, position: int, through: bool) -> None:
        """What can be found out, and takes long, before others are kept from writing reports."""
        books = self.books()
        if month.label in (entry.period for entry in books.closed()):
            return
        pinned = self._lake.pin(position)
        with pinned.naming_damage(), self._engine.connect(pinned) as connection:
            due = self._due(books, month, through, connection)
        self._gate.everything(position, [ReportSpec(each, books=books) for each in due])

    def reopen(self, period: str, *, reason: str, by: str, through: bool = False) -> list[Entry]:
        """Reopen the last closed month; with `through`, from the last one backwards to this one.

        The reports that were closed stay as they are.

        Raises:
            ReportError: no reason is given, the month is not closed, or a later one is.
            PeriodTakenError: somebody else closed or reopened a month at the same time, and was first.
        """
        month = self._month(period)
        if not reason.strip():
            raise ReportError(f"{period} is not reopened without a reason.", 'Say why: --reason "...".')
        with self._locked():
            books = self.books()
            closed = books.closed()
            labels = [entry.period for entry in closed]
            if month.label not in labels:
                raise ReportError(f"{period} is not closed.", "Look at `ledgerlake period list`.")
            after = labels[labels.index(month.label) + 1 :]
            if after and not through:
                raise ReportError(
                    f"{', '.join(after)} {'is' if len(after) == 1 else 'are'} closed after {period}.",
                    "Months are reopened from the last one backwards: add --through to reopen these, too.",
                )
            done = []
            for last in reversed(closed[labels.index(month.label) :]):
                entry = replace(
                    last,
                    number=len(books.entries) + 1,
                    action="reopen",
                    position=head(self._db),
                    at=_now(books),
                    by=by,
                    reason=reason.strip(),
                    supersedes=None,
                    digest=None,
                )
                append_entry(self._db, entry)
                books = Books(books.zone, (*books.entries, entry))
                note_books(self._out, books)
                done.append(entry)
            return done

    def complete(self) -> list[Path]:
        """Write the folders of closed revisions that are missing here; which these were."""
        with self._locked():
            return complete_revisions(self._lake, self._out, self.books(), self._engine)

    def missing(self, books: Books) -> list[Entry]:
        """The revisions whose folder is missing here."""
        return missing(self._out, books)

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self._out / LOCK)

    def _month(self, period: str) -> Interval:
        month = Interval.parse(period, self._zone)
        if not month.is_month:
            raise ReportError(f"{period} is no month.", "Periods are calendar months, such as 2011-11.")
        return month

    def _due(self, books: Books, month: Interval, through: bool, connection: Connection) -> list[Interval]:
        """The months to close, in order: the next one of the books, up to this one."""
        now = datetime.now(UTC)
        if month.end > now:
            raise ReportError(
                f"{month.label} has not ended: it does on {month.end:%Y-%m-%d at %H:%M} UTC.",
                "Close it then. Its figures so far are in its draft, and in `ledgerlake report billing`.",
            )
        closed = books.closed()
        if closed:
            # Where the last one ended, whatever the zone's rules have become since.
            following = replace(Interval.parse(closed[-1].period, books.zone).next(), start=closed[-1].end)
        else:
            found = connection.sql("SELECT MIN(occurred_at) AS first FROM events").to_arrow_table()
            first = found["first"][0].as_py()
            if first is None or first >= month.end:
                raise ReportError(
                    f"Nothing happened up to the end of {month.label}.",
                    "The first month to close is the first one with a movement.",
                )
            following = Interval.month_of(first, books.zone)
        if month < following:
            first_month = closed[0].period if closed else following.label
            raise ReportError(
                f"{month.label} comes before {first_month}, with which the books begin.",
                "What happened before it and was not known when it was closed is a correction.",
            )
        due = [following]
        while due[-1] < month:
            due.append(due[-1].next())
        if len(due) > 1 and not through:
            raise ReportError(
                f"{following.label} is the next month to close, and {month.label} comes later.",
                f"Close {following.label} first, or add --through to close all {len(due)} in order.",
            )
        return due

    def _closed(
        self,
        books: Books,
        month: Interval,
        pinned: PinnedLake,
        connection: Connection,
        by: str,
        formats: Sequence[str],
    ) -> Entry:
        """Close one month: its line, once it is written, is what makes it closed."""
        before = [each for each in books.entries if each.action == "close" and each.period == month.label]
        entry = Entry(
            number=len(books.entries) + 1,
            action="close",
            period=month.label,
            zone=books.zone,
            start=month.start,
            end=month.end,
            revision=len(before) + 1,
            position=pinned.position,
            at=_now(books),
            by=by,
            supersedes=before[-1].folder if before else None,
            definitions=DEFINITIONS,
            formats=tuple(formats),
        )
        if (self._out / entry.folder).exists():
            raise ReportError(
                f"{self._out / entry.folder} is there, but {month.label} was never closed as that revision.",
                "It belongs to another ledger, or to this one before it was restored: move it away.",
            )
        hidden, digest = write(self._out, entry, books, pinned, connection, self._gate)
        entry = replace(entry, digest=digest, at=_now(books))
        try:
            append_entry(self._db, entry)
        except ReportError:
            shutil.rmtree(hidden)
            raise
        publish(self._out, entry, hidden)
        remove_draft(self._out, entry.period)
        return entry


def _now(books: Books) -> datetime:
    """Now, to the millisecond, and never before what the books have already: a clock may be set back."""
    now = datetime.now(UTC)
    now -= timedelta(microseconds=now.microsecond % 1_000)
    return max([now, *(entry.at for entry in books.entries[-1:])])
