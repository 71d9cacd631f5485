"""Keeping the drafts of the months that are not closed up to date with the lake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ledgerlake.lake.engines import DUCKDB, Connection, Engine
from ledgerlake.lake.files import exclusive, remove_leftovers, write_atomically
from ledgerlake.reports.billing_definition import ITEMISED, SUMMARY, BillingTotals
from ledgerlake.reports.bookings import bookings
from ledgerlake.reports.books import BEGINNING, EMPTY_BOOKS, Books
from ledgerlake.reports.clock import Clock
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import MANIFEST, TABLES
from ledgerlake.reports.revisions import DRAFT, complete_revisions
from ledgerlake.reports.slug import slug
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import LOCK, BillingReport, Gate, OnProgress, Target, write_targets

if TYPE_CHECKING:
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.pinned import PinnedLake

CHECKPOINT: Final = "checkpoint.json"
_DEFINITIONS: Final = f"{ITEMISED.version}.{SUMMARY.version}"

# A day in UTC has a part in at most two months of any zone: those of its first and its last movement.
_BOOKED_AFTER: Final = """
SELECT organization_id, MIN(booked_at) AS first, MAX(booked_at) AS last
FROM bookings
WHERE position > $after
GROUP BY organization_id, DATE_TRUNC('day', booked_at)
"""


@dataclass(frozen=True, slots=True)
class BillingRefresh:
    """What a refresh of the reports did: positions before and after, and the months whose drafts it wrote.

    `lines` and `totals` (sums per currency) are those of the reports written.
    """

    from_position: int
    to_position: int
    months: tuple[str, ...]
    files: tuple[Path, ...]
    lines: int
    totals: tuple[BillingTotals, ...]


@dataclass(frozen=True, slots=True)
class ReportsCheckpoint:
    """What the drafts show: up to which event, by how many entries of the books in which zone, and of whom.

    `months` has the folders of each month's draft. Position 0 says that they are of no use any more.
    """

    position: int = 0
    last_event_id: str = ""
    zone: str = EMPTY_BOOKS.zone
    entries: int = 0
    months: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def refresh_billing(
    lake: EventLake,
    out: Path,
    books: Books | Callable[[], Books] = EMPTY_BOOKS,
    on_progress: OnProgress | None = None,
    engine: Engine = DUCKDB,
    anew: Collection[str] = (),
    gate: Gate | None = None,
) -> BillingRefresh:
    """Write the drafts that events after the folder's checkpoint change: OUT/MONTH/draft/SLUG/.

    Those of the months in which something is booked and of the later ones, whose balances it moves; of the
    organizations concerned, or of everybody in a month that had none. If the books changed, all. Also those
    that were deleted, and revisions of closed months that are missing. The checkpoint, OUT/checkpoint.json,
    is written last: a run that dies is repeated by the next one, with the same bytes. Writes nothing if
    nothing is new. `books` may be a call that reads them, once nobody else writes here. `on_progress(done,
    total)` counts lines. The drafts of the months `anew`, such as "2011-11", are written whatever they are,
    all of each, and pass the gate first, if there is one.

    Raises:
        ReportError: the folder holds reports of another log, or a revision can not be written again.
        PublicationBlocked: the gate does not let a month pass; nothing is written.
        LakeError, CorruptFileError: the lake can not be read.
    """
    with exclusive(out / LOCK):
        position, last = lake.end()
        # Read last: a close before that position must be known, or a line would be in two reports.
        if callable(books):
            books = books()
        complete_revisions(lake, out, books, engine)
        known = usable(read_checkpoint(out), books)
        missing = {month for month, slugs in known.months.items() if not _all_there(out, month, slugs)}
        missing |= known.months.keys() & set(anew)
        if (known.position, known.last_event_id) == (position, last) and not missing:
            return BillingRefresh(position, position, (), (), 0, ())
        pinned = lake.pin(position)
        remove_leftovers(out)
        with pinned.naming_damage(), engine.connect(pinned) as connection:
            _check_same_log(connection, known, pinned, out)
            due = _due(connection, known, books, missing)
            targets = [Target(month, out / month.label / DRAFT, only) for month, only in due.items()]
            spec = ReportSpec(Interval.month(2000, 1, books.zone), books=books)
            reports = write_targets(
                pinned, connection, spec, targets, on_progress=on_progress, gate=_of_months(anew, gate)
            )
        months = _cleared(out, known, due, reports)
        checkpoint = ReportsCheckpoint(
            pinned.position, pinned.last_event_id, books.zone, len(books.entries), months
        )
        _write_checkpoint(out, checkpoint)
        totals: dict[str, BillingTotals] = {}
        for each in (total for report in reports for total in report.totals):
            totals[each.currency] = totals.get(each.currency, BillingTotals(each.currency)) + each
        return BillingRefresh(
            known.position,
            pinned.position,
            tuple(report.interval.label for report in reports),
            tuple(file for report in reports for file in report.files),
            sum(report.lines for report in reports),
            tuple(totals[currency] for currency in sorted(totals)),
        )


def _of_months(anew: Collection[str], gate: Gate | None) -> Gate | None:
    """The gate for these months, which are written whole: of the others it would miss organizations."""
    if gate is None:
        return None
    keep = gate

    def of_months(
        specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        whole = [at for at, spec in enumerate(specs) if spec.interval.label in anew]
        if whole:
            keep([specs[at] for at in whole], position, [rows[at] for at in whole])

    return of_months


def read_checkpoint(out: Path) -> ReportsCheckpoint:
    """The checkpoint of a folder of reports; position 0 if it has none, or one of other definitions.

    Raises:
        ReportError: the file is damaged.
    """
    path = out / CHECKPOINT
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        months = {str(month): tuple(slugs) for month, slugs in found["months"].items()}
        if found["definitions"] != _DEFINITIONS:
            return ReportsCheckpoint(months=months)
        return ReportsCheckpoint(
            int(found["position"]),
            str(found["lastEventId"]),
            str(found["zone"]),
            int(found["entries"]),
            months,
        )
    except FileNotFoundError:
        return ReportsCheckpoint()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f"{path} is damaged ({error!r}).", "Delete it: all drafts are then written again."
        ) from error


def _write_checkpoint(out: Path, checkpoint: ReportsCheckpoint) -> None:
    content = {
        "definitions": _DEFINITIONS,
        "position": checkpoint.position,
        "lastEventId": checkpoint.last_event_id,
        "zone": checkpoint.zone,
        "entries": checkpoint.entries,
        "months": {month: list(slugs) for month, slugs in sorted(checkpoint.months.items())},
    }
    with write_atomically(out / CHECKPOINT) as temp:
        temp.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def usable(known: ReportsCheckpoint, books: Books) -> ReportsCheckpoint:
    """The checkpoint, at position 0 if the books have changed since: all drafts are then to be written."""
    if (known.zone, known.entries) == (books.zone, len(books.entries)):
        return known
    return ReportsCheckpoint(months=known.months)


def _due(
    connection: Connection, known: ReportsCheckpoint, books: Books, missing: Iterable[str]
) -> dict[Interval, frozenset[str] | None]:
    """The open months to write, each with the organizations that it changes for; None for everybody."""
    bookings(connection, books)
    rows = connection.sql(_BOOKED_AFTER, params={"after": known.position}).to_arrow_table()
    clock = Clock(books.zone)
    names = rows["organization_id"].to_pylist()
    booked_in: set[tuple[str, str]] = set()
    for each in ("first", "last"):
        instants = rows[each].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy()
        booked_in.update(zip(names, clock.months(instants).to_pylist(), strict=True))
    labels = {label for _, label in booked_in} | set(known.months if known.position else ())
    months = {label: Interval.parse(label, books.zone) for label in labels}
    first: dict[str, Interval] = {}
    for name, label in booked_in:
        first[name] = min(first.get(name, months[label]), months[label])
    shown = {months[label] for label in known.months} if known.position else set()
    due: dict[Interval, frozenset[str] | None] = {}
    for month in sorted(months.values()):
        if month.end <= _shut(books):
            continue
        if month not in shown or month.label in missing:
            due[month] = None
        elif changed := frozenset(name for name, since in first.items() if since <= month):
            due[month] = changed
    return due


def _shut(books: Books) -> datetime:
    closed = books.closed()
    return closed[-1].end if closed else BEGINNING


def _cleared(
    out: Path,
    known: ReportsCheckpoint,
    due: Mapping[Interval, frozenset[str] | None],
    reports: Iterable[BillingReport],
) -> dict[str, tuple[str, ...]]:
    """The months and folders of the drafts as they are now; those that are no more are removed."""
    now = {label: set(slugs) for label, slugs in known.months.items()} if known.position else {}
    for report in reports:
        only = due[report.interval]
        written = {slug(name) for name in report.organizations}
        kept = now.get(report.interval.label, set()) if only is not None else set()
        now[report.interval.label] = kept - {slug(name) for name in only or ()} | written
    for label, slugs in known.months.items():
        for gone in set(slugs) - now.get(label, set()):
            folder = out / label / DRAFT / gone
            if folder.exists():
                shutil.rmtree(folder)
    return {label: tuple(sorted(slugs)) for label, slugs in now.items() if slugs}


def _all_there(out: Path, month: str, slugs: Iterable[str]) -> bool:
    folder = out / month / DRAFT
    return all((folder / each / name).is_file() for each in slugs for name in (*TABLES, MANIFEST))


def _check_same_log(connection: Connection, known: ReportsCheckpoint, pinned: PinnedLake, out: Path) -> None:
    if known.position == 0:
        return
    query = "SELECT event_id FROM events WHERE position = $position"
    found = connection.sql(query, params={"position": known.position}).to_arrow_table()
    if found["event_id"].to_pylist() != [known.last_event_id]:
        raise ReportError(
            f"The reports in {out} show position {known.position} of another log than the lake {pinned.root},"
            f" which is at {pinned.position}.",
            "Refresh the lake; if it was exchanged, move these reports away.",
        )
