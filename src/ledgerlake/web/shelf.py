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
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

from ledgerlake.errors import LedgerLakeError
from ledgerlake.reports.books import Books, Entry
from ledgerlake.reports.formats import FILES_OF, FORMATS
from ledgerlake.reports.manifest import MANIFEST, TABLES, Manifest, file_facts, read_manifest
from ledgerlake.reports.refresh import read_checkpoint, usable
from ledgerlake.reports.revisions import DRAFT
from ledgerlake.reports.slug import slug
from ledgerlake.web.exports import Exports

if TYPE_CHECKING:
    import polars as pl

    from ledgerlake.application import LedgerLake
    from ledgerlake.reports.formats.totals import CurrencyTotals

State: TypeAlias = Literal["open", "closed", "corrected"]
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
_SUMS: Final = ("count", "gross_minor", "refunds", "refunded_minor", "net_minor", "failures", "failed_minor")
_MOST_REMEMBERED: Final = 4_096


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


@dataclass(frozen=True)
class Report:
    """One organization's report of a month: a draft, or a revision of a closed month."""

    organization: str
    period: str
    edition: str
    folder: Path
    manifest: Manifest

    @cached_property
    def totals(self) -> list[CurrencyTotals]:
        """What it comes to per currency, in the order of the summary."""
        from ledgerlake.reports.formats.totals import CurrencyTotals

        found: dict[str, dict[str, Any]] = {}
        for row in self.manifest.content["totals"]:
            sums = found.setdefault(row["currency"], {**row, **dict.fromkeys(_SUMS, 0)})
            for name in _SUMS:
                sums[name] += row[name]
        return [
            CurrencyTotals(
                currency=currency,
                digits=sums["exponent"],
                opening_minor=sums["opening_minor"],
                closing_minor=sums["closing_minor"],
                **{name: sums[name] for name in _SUMS},
            )
            for currency, sums in found.items()
        ]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The rows of its summary: currency, category, exponent, counts and sums of minor units."""
        rows: list[dict[str, Any]] = self.manifest.content["totals"]
        return rows

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return int(self.manifest.content["tables"][TABLES[0]]["rows"])

    @property
    def position(self) -> int:
        """Up to which event of the log it was made."""
        return int(self.manifest.facts["position"])

    @property
    def zone(self) -> str:
        """The IANA zone whose month it is."""
        return str(self.manifest.facts["interval"]["zone"])

    @property
    def corrections(self) -> int:
        """How many of its lines are movements of months that were closed when they came."""
        return sum(row["count"] for row in self.categories if row["category"] == "correction")


@dataclass(frozen=True, slots=True)
class Late:
    """Movements of a closed month that are booked in a later one: how many, and what they come to."""

    booked_in: str
    currency: str
    exponent: int
    count: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Month:
    """A month of an organization as it stands.

    `closed` is the close that holds, None of an open month; `corrected` is a closed month of which movements
    came `late`. `report` is None where its files are still to be written. `history` are the closes and
    reopenings, in order.
    """

    period: str
    state: State
    closed: Entry | None
    report: Report | None
    late: tuple[Late, ...]
    history: tuple[Entry, ...]

    @property
    def edition(self) -> str:
        """The name of the folder of its present report: draft, or revision-2."""
        return DRAFT if self.closed is None else f"revision-{self.closed.revision}"


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the drafts are: every event up to `position` is in them; `time` is when they got there.

    `position` 0: they are being written anew.
    """

    position: int
    time: datetime | None


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
        try:
            written = (self._out / "checkpoint.json").stat().st_mtime
        except FileNotFoundError:
            return Freshness(0, None)
        return Freshness(usable(known, self._books()).position, datetime.fromtimestamp(written, UTC))

    def months(self, organization: str) -> list[Month]:
        """An organization's months that have a report, or are to have one, the last one first.

        Raises:
            ReportError: a manifest was changed since it was written.
        """
        books = self._books()
        closed = {entry.period: entry for entry in books.closed()}
        folder = slug(organization)
        drafts = {
            period for period, names in read_checkpoint(self._out).months.items() if folder in names
        } - closed.keys()
        reports = {period: self._report(organization, period, DRAFT) for period in drafts}
        missing = set()
        for period, entry in closed.items():
            if (found := self._report(organization, period, f"revision-{entry.revision}")) is not None:
                reports[period] = found
            elif not (self._out / entry.folder).is_dir():
                missing.add(period)
        late = self._late_of(report for report in reports.values() if report is not None)
        return [
            _month(period, closed.get(period), reports.get(period), late.get(period, ()), books)
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
            found = month.report
        elif edition in {f"revision-{entry.revision}" for entry in month.history}:
            found = self._report(organization, period, edition)
        else:
            found = None
        if found is None:
            raise NoReport(
                f"There is no {edition or month.edition} of {period} here.",
                "If it was just closed or reopened, its files are being written: try again in a minute.",
            )
        return found

    def files(self, report: Report) -> list[FileFacts]:
        """The files that may be asked for, format by format, and the manifest."""
        found = []
        for name, kind in FILES.items():
            told = report.manifest.files.get(name)
            listed = told is not None
            if told is None and name == MANIFEST:
                told = file_facts(report.folder / name)
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
            told = file_facts(path)
        return ShelfFile(path, name, MEDIA_TYPES[path.suffix], told["bytes"], told["sha256"])

    def daily(self, report: Report) -> pl.DataFrame:
        """The report's lines as the charts take them: day (in its zone, when booked) by status."""
        import polars as pl

        kind = pl.col("movement")
        failed = kind == "failure"
        return (
            pl.scan_parquet(report.folder / TABLES[0])
            .select(
                pl.col("booked_at").dt.convert_time_zone(report.zone).dt.date().alias("period"),
                "organization_id",
                "currency",
                pl.when(kind == "charge").then(pl.lit("completed"))
                .when(failed).then(pl.lit("failed"))
                .otherwise(pl.lit("refunded")).alias("status"),
                pl.when(failed).then("failed_minor").otherwise(pl.col("amount_minor").abs()).alias("minor"),
            )
            .group_by("period", "organization_id", "currency", "status")
            .agg(
                pl.len().cast(pl.Int64).alias("count"),
                pl.col("minor").cast(pl.Int128).sum().cast(pl.Int64).alias("total_minor"),
            )
            .sort("period", "currency", "status")
            .collect()
        )  # fmt: skip

    def corrections(self, report: Report, most: int) -> list[dict[str, Any]]:
        """The first `most` lines of a report that are corrections, as rows of its itemised table."""
        import polars as pl

        if not report.corrections:
            return []
        lines = pl.scan_parquet(report.folder / TABLES[0]).filter(pl.col("category") == "correction")
        return lines.head(most).collect().to_dicts()

    def _report(self, organization: str, period: str, edition: str) -> Report | None:
        folder = self._out / period / edition / slug(organization)
        try:
            manifest = self._manifests.of(folder / MANIFEST, lambda: read_manifest(folder))
        except FileNotFoundError:
            return None
        if manifest.facts["organization"] != organization:
            return None
        return Report(organization, period, edition, folder, manifest)

    def _late_of(self, reports: Iterable[Report]) -> dict[str, tuple[Late, ...]]:
        found: dict[str, list[Late]] = {}
        for report in sorted(reports, key=lambda each: each.period):
            if report.corrections:
                # By the manifest: it is replaced after the lines that it tells of.
                for period, late in self._late.of(report.folder / MANIFEST, partial(_late, report)):
                    found.setdefault(period, []).append(late)
        return {period: tuple(late) for period, late in found.items()}


def _month(
    period: str, closed: Entry | None, report: Report | None, late: tuple[Late, ...], books: Books
) -> Month:
    state: State = "open" if closed is None else "corrected" if late else "closed"
    history = tuple(entry for entry in books.entries if entry.period == period)
    return Month(period, state, closed, report, late, history)


def _late(report: Report) -> tuple[tuple[str, Late], ...]:
    """Of which months a report has corrections, month by month."""
    import polars as pl

    found = (
        pl.scan_parquet(report.folder / TABLES[0])
        .filter(pl.col("category") == "correction")
        .group_by("occurred_period", "currency", "exponent")
        .agg(pl.len().alias("count"), pl.col("amount_minor").cast(pl.Int128).sum())
        .sort("occurred_period", "currency")
        .collect()
    )
    return tuple(
        (period, Late(report.period, currency, exponent, count, int(amount)))
        for period, currency, exponent, count, amount in found.iter_rows()
    )


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
