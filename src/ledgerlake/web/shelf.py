"""The billing reports that there are, an organization's at a time: months, their state, and their files.

What it says is what the manifests say. A format that a report lacks is made of the report's Parquet files
when it is first asked for, and kept outside the report's folder, which stays as it was closed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ledgerlake.errors import LedgerLakeError
from ledgerlake.reports.books import Books, Entry
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.formats import FILES_OF, FORMATS
from ledgerlake.reports.manifest import MANIFEST, Json, Manifest, file_facts, read_manifest
from ledgerlake.reports.refresh import CHECKPOINT, read_checkpoint, usable
from ledgerlake.reports.revisions import DRAFT
from ledgerlake.reports.slug import slug
from ledgerlake.web.exports import Exports, ReportReplaced
from ledgerlake.web.report import Late, Month, Report, State

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake

__all__ = [
    "FILES",
    "MEDIA_TYPES",
    "FileFacts",
    "Freshness",
    "Month",
    "NoReport",
    "Report",
    "Shelf",
    "ShelfFile",
]

T = TypeVar("T")

MEDIA_TYPES: Final = {
    ".parquet": "application/vnd.apache.parquet",
    ".csv": "text/csv; charset=utf-8",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
}
FILES: Final = {
    **{name: kind for kind in FORMATS for name in FILES_OF[kind]},
    MANIFEST: "json",
}
"""Every file that a report can be asked for, with its format."""
_MOST_REMEMBERED: Final = 4_096
TRIES: Final = 5
"""How often a report is looked at that is written anew meanwhile."""


class NoReport(LedgerLakeError):
    """There is no such report, or no such file of it."""


@dataclass(frozen=True, slots=True)
class ShelfFile:
    """A file as it is to be handed out: `sha256` and `size` (bytes) are what it has to have."""

    path: Path
    name: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of a report that may be asked for; size and SHA-256 None: it is made when it is.

    `listed`: it is one of those that the report's manifest vouches for.
    """

    name: str
    format: str
    size: int | None
    sha256: str | None
    listed: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the drafts are: every event up to `position` is in them; `time` is when they got there.

    `position` None: there are none, or they are another version's. `due`: the next refresh writes them anew,
    since a month was closed or reopened after that position, or they are another version's.
    """

    position: int | None
    time: datetime | None
    due: bool


class Shelf:
    """The reports in a ledger's folder, by the ledger's list of closes."""

    def __init__(self, ledger: LedgerLake) -> None:
        self._out = ledger.settings.reports_dir
        self._books: Callable[[], Books] = ledger.periods.books
        self._exports = Exports(ledger.settings.home / "web" / "exports")
        self._manifests: _Remembered[Manifest] = _Remembered()
        self._late: _Remembered[tuple[tuple[str, Late], ...]] = _Remembered()

    def freshness(self) -> Freshness:
        """How far the drafts of the open months are."""
        known = read_checkpoint(self._out)
        if not known.position:
            return Freshness(None, None, due=bool(known.months))
        try:
            written = (self._out / CHECKPOINT).stat().st_mtime
        except FileNotFoundError:
            return Freshness(None, None, due=True)
        due = usable(known, self._books()).position != known.position
        return Freshness(known.position, datetime.fromtimestamp(written, UTC), due)

    def months(self, organization: str) -> list[Month]:
        """An organization's months that have a report, or are to have one, the last one first.

        One whose report is damaged is there without it, and what it would tell of others is not known.
        """
        for left in reversed(range(TRIES)):
            try:
                return self._months(organization, last_try=not left)
            except ReportReplaced:
                pass  # a draft, between its manifest and its lines
        raise AssertionError("unreachable")

    def _months(self, organization: str, last_try: bool) -> list[Month]:
        damaged: set[str] = set()

        def look(period: str, edition: str) -> Report | None:
            try:
                return self._report(organization, period, edition)
            except ReportError:
                damaged.add(period)
                return None

        books = self._books()
        closed = {entry.period: entry for entry in books.closed()}
        folder = slug(organization)
        drafts = {
            period for period, names in read_checkpoint(self._out).months.items() if folder in names
        } - closed.keys()
        reports = {period: look(period, DRAFT) for period in drafts}
        missing = set()
        for period, entry in closed.items():
            found = look(period, f"revision-{entry.revision}")
            if found is not None or period in damaged:
                reports[period] = found
            elif not (self._out / entry.folder).is_dir():
                missing.add(period)
        # One that was reopened has no draft before the next refresh.
        reopened = {e for e in books.entries if e.period not in closed and e.period not in reports}
        missing |= {e.period for e in reopened if (self._out / e.folder / folder).is_dir()}
        present = [report for report in reports.values() if report is not None]
        late = self._late_of(present, None if not last_try else damaged)
        return [
            _month(
                period,
                closed.get(period),
                reports.get(period),
                late.get(period, ()),
                books,
                period in damaged,
            )
            for period in sorted({*reports, *missing}, reverse=True)
        ]

    def month(self, organization: str, period: str) -> Month:
        """One of `months`.

        Raises:
            NoReport: the organization has no report of that month.
        """
        for found in self.months(organization):
            if found.period == period:
                return found
        raise NoReport(
            f"There is no report of {period!r}.", "Choose one of the organization's months, such as 2011-11."
        )

    def report(self, organization: str, period: str, edition: str | None = None) -> Report:
        """A report: an edition (draft, revision-1), by default the present one, of an organization's month.

        Raises:
            NoReport: there is none, or its files are still to be written.
            ReportError: its manifest was changed since it was written.
        """
        month = self.month(organization, period)
        if edition is None or edition == month.edition:
            damaged = month.state == "damaged"
            found = self._report(organization, period, month.edition) if damaged else month.report
        elif edition in {f"revision-{entry.revision}" for entry in month.history}:
            found = self._report(organization, period, edition)
        else:
            found = None
        if found is None:
            raise NoReport(
                f"There is no {edition or month.edition} of {period} here.",
                "If it was just closed or reopened, the next refresh writes its files.",
            )
        return found

    def files(self, report: Report) -> list[FileFacts]:
        """The files that may be asked for, format by format, and the manifest."""
        found = []
        for name, kind in FILES.items():
            told = report.manifest.files.get(name)
            listed = told is not None
            if told is None and name == MANIFEST:
                told = _facts(report.folder / name)
            if told is None:
                told = self._exports.facts(report.manifest, name)
            size, sha256 = (None, None) if told is None else (told["bytes"], told["sha256"])
            found.append(FileFacts(name, kind, size, sha256, listed))
        return found

    def file(self, report: Report, name: str) -> ShelfFile:
        """A file of a report, made first if its report came without it.

        Raises:
            NoReport: it has no such file.
            ReportReplaced: the report was written anew meanwhile: ask for it again.
            ExportsBusy: others are making files, and have been for long.
            ReportError, CorruptFileError: the report's Parquet files are damaged.
        """
        if name not in FILES:
            raise NoReport(f"A report has no file {name!r}.", f"Its files are {', '.join(FILES)}.")
        told = report.manifest.files.get(name)
        path = report.folder / name
        if told is None and name != MANIFEST:
            path, told = self._exports.get(report.folder, report.manifest, name)
        if told is None:
            told = _facts(path)
        return ShelfFile(path, name, MEDIA_TYPES[path.suffix], told["bytes"], told["sha256"])

    def _report(self, organization: str, period: str, edition: str) -> Report | None:
        folder = self._out / period / edition / slug(organization)
        try:
            manifest = self._manifests.of(folder / MANIFEST, lambda: read_manifest(folder))
        except FileNotFoundError:
            return None
        if manifest.facts["organization"] != organization:
            return None
        return Report(organization, period, edition, folder, manifest)

    def _late_of(self, reports: Iterable[Report], damaged: set[str] | None) -> dict[str, tuple[Late, ...]]:
        """What came late of each month. Lines that are not their manifest's are `damaged`; None: replaced."""
        found: dict[str, list[Late]] = {}
        for report in sorted(reports, key=lambda each: each.period):
            if report.corrections:
                # By the manifest: it is replaced after the lines that it tells of.
                try:
                    told = self._late.of(report.folder / MANIFEST, report.late)
                except ReportReplaced:
                    if damaged is None:
                        raise
                    damaged.add(report.period)
                    continue
                for period, late in told:
                    found.setdefault(period, []).append(late)
        return {period: tuple(late) for period, late in found.items()}


def _facts(path: Path) -> Json:
    try:
        return file_facts(path)
    except FileNotFoundError:
        raise ReportReplaced(f"{path} is gone.", "Ask again.") from None


def _month(
    period: str,
    closed: Entry | None,
    report: Report | None,
    late: tuple[Late, ...],
    books: Books,
    damaged: bool,
) -> Month:
    state: State = "open" if closed is None else "corrected" if late else "closed"
    if damaged:
        state = "damaged"
    history = tuple(entry for entry in books.entries if entry.period == period)
    return Month(period, state, closed, report, late, history)


class _Remembered(Generic[T]):
    """What was read of files, for as long as these stay as they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, int, int, int], T] = OrderedDict()

    def of(self, path: Path, read: Callable[[], T]) -> T:
        """What `read` gives of the file. Raises FileNotFoundError, and what `read` raises."""
        is_at = path.stat()
        key = (str(path), is_at.st_ino, is_at.st_mtime_ns, is_at.st_size)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        found = read()
        with self._lock:
            self._found[key] = found
            while len(self._found) > _MOST_REMEMBERED:
                self._found.popitem(last=False)
        return found
