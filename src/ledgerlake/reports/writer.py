"""Billing reports per organization, itemised and summary: from the lake into folders."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ledgerlake.lake.files import publish, remove_leftovers, temporary
from ledgerlake.lake.parquet import ROW_GROUP, DeterministicWriter, WrittenFile, row_groups, write_table
from ledgerlake.reports.billing_definition import (
    ITEMISED,
    ITEMISED_FILE,
    SUMMARY,
    SUMMARY_FILE,
    BillingTotals,
    ConvertedTotals,
    totals_of_summary,
)
from ledgerlake.reports.bookings import earliest, movements, summaries
from ledgerlake.reports.clock import milliseconds
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.formats import FORMATS, OTHERS, export
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.lines import LineMaker, Row, Sums
from ledgerlake.reports.manifest import MANIFEST, TABLES, facts_of, stated, totals_of, write_manifest
from ledgerlake.reports.slug import slug
from ledgerlake.reports.spec import ReportSpec

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection
    from ledgerlake.lake.pinned import PinnedLake

OnProgress: TypeAlias = Callable[[int, int], None]
# Called before anything is written, with the rows of all summaries of each interval; raises to stop it.
Gate: TypeAlias = Callable[[Sequence[ReportSpec], int, Sequence[Sequence[Mapping[str, Any]]]], None]
LOCK: Final = ".reports.lock"
# Of so many lines an engine can sort the longest texts in a few hundred megabytes.
_LINES_AT_ONCE: Final = 2_000_000
_BATCH: Final = 5 * ROW_GROUP
# A report of more lines is written as they come, rather than held.
_STREAMED: Final = 200_000
_WRITERS: Final = 2


@dataclass(frozen=True, slots=True)
class BillingReport:
    """What was written for one interval as of one position of the log.

    `organizations` have a report each, `lines` is the number of itemised lines of all of them, `totals`
    are their sums per currency, and `converted` those in the reporting currency, if one was asked for.
    """

    position: int
    interval: Interval
    organizations: tuple[str, ...]
    lines: int
    files: tuple[Path, ...]
    totals: tuple[BillingTotals, ...]
    converted: ConvertedTotals | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """An interval, and the folder that its reports go to: everybody's, or those of some organizations."""

    interval: Interval
    out: Path
    only: frozenset[str] | None = None


def write_reports(
    pinned: PinnedLake,
    connection: Connection,
    spec: ReportSpec,
    out: Path,
    formats: Sequence[str] = ("parquet",),
    on_progress: OnProgress | None = None,
    state: Mapping[str, Any] | None = None,
    gate: Gate | None = None,
) -> BillingReport:
    """Write OUT/SLUG/{itemised.parquet, summary.parquet, ..., manifest.json} of one interval.

    For the organization of the spec, whatever happened, or for each with a movement or a balance. Every file
    appears whole, the manifest last. The same events, spec and state give the same bytes. `on_progress(done,
    total)` counts lines.

    Raises:
        ReportError: lines that do not add up to their summary, or can not be converted; an unknown format.
        PublicationBlocked: the gate does not let them pass.
    """
    target = Target(spec.interval, out)
    return write_targets(pinned, connection, spec, [target], formats, on_progress, state, gate)[0]


def write_targets(
    pinned: PinnedLake,
    connection: Connection,
    spec: ReportSpec,
    targets: Sequence[Target],
    formats: Sequence[str] = ("parquet",),
    on_progress: OnProgress | None = None,
    state: Mapping[str, Any] | None = None,
    gate: Gate | None = None,
) -> list[BillingReport]:
    """`write_reports` for several intervals, which do not overlap, in as few queries as memory allows."""
    for name in formats:
        if name not in FORMATS:
            raise ReportError(f"{name!r} is no format of a report.", f"Choose from {', '.join(FORMATS)}.")
    if not targets:
        return []
    targets = sorted(targets, key=lambda target: target.interval)
    _check_rates(connection, spec, targets)
    specs = [replace(spec, interval=target.interval) for target in targets]
    tables = summaries(connection, spec.books, [each.interval for each in targets], spec.organization)
    rows = [_wanted(table.to_pylist(), target) for table, target in zip(tables, targets, strict=True)]
    if gate is not None:
        gate(specs, pinned.position, rows)
    reports = [_Reports(pinned, *each, formats, state) for each in zip(targets, specs, rows, strict=True)]
    total, done = sum(each.expected for each in reports), 0
    with _Pool() as pool:
        for group in _together(reports):
            start, end = group[0].spec.interval.start, group[-1].spec.interval.end
            found = movements(connection, spec.books, start, end, _only(group), _BATCH)
            with closing(found):
                for at, organization, parts in _split(found, [each.spec.interval for each in group]):
                    done += pool.write(group[at], organization, parts)
                    if on_progress is not None:
                        on_progress(done, total)
            for each in group:
                for organization in each.due:
                    done += pool.write(each, organization, [])
        done += pool.finish()
        if on_progress is not None:
            on_progress(done, total)
    return [each.result() for each in reports]


def _check_rates(connection: Connection, spec: ReportSpec, targets: Iterable[Target]) -> None:
    """See that every line has a rate, before any report is written: if one has none, the earliest has none.

    Raises:
        ReportError: a line has none; names its day.
    """
    if spec.currency is None or spec.rates is None or spec.unconverted:
        return
    for target in targets:
        first = earliest(connection, spec.books, target.interval, spec.organization)
        if target.only is not None:
            first = first.filter(
                pc.is_in(first["organization_id"], pa.array(sorted(target.only), pa.string()))
            )
        spec.rates.convert(first, spec.currency, zone=spec.books.zone)


class _Pool:
    """Writes reports side by side while the engine goes on: many small files, each flushed to the disk."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_WRITERS)
        self._pending: deque[Future[int]] = deque()

    def write(self, report: _Reports, organization: str, parts: Iterable[pa.Table]) -> int:
        """Write a report, now or soon; returns how many lines were written meanwhile.

        Raises what writing any of them raised.
        """
        due = report.take(organization)
        if due is None:
            return 0
        if due.lines > _STREAMED:  # too many to hold
            return report.write(due, parts)
        self._pending.append(self._threads.submit(report.write, due, list(parts)))
        return self.finish(2 * _WRITERS)

    def finish(self, left: int = 0) -> int:
        """Wait until at most `left` reports are still to be written; how many lines were meanwhile."""
        done = 0
        while len(self._pending) > left:
            done += self._pending.popleft().result()
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Due:
    """One organization's report that is to be written: its summary, and how many lines that has."""

    organization: str
    summary: list[Row]
    lines: int


class _Reports:
    """The reports of one interval."""

    def __init__(
        self,
        pinned: PinnedLake,
        target: Target,
        spec: ReportSpec,
        rows: list[Row],
        formats: Sequence[str],
        state: Mapping[str, Any] | None,
    ) -> None:
        self.spec = spec
        self._pinned = pinned
        self._target = target
        self._rows = rows
        self._formats = formats
        self._state = state
        self._make = LineMaker(spec)
        self._due: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            self._due[row["organization_id"]].append(row)
        if spec.organization is not None:
            self._due.setdefault(spec.organization, [])
        self.organizations = frozenset(self._due)
        self.expected = sum(row["count"] for row in rows)
        # Of each report that is written: its lines, its files, and its summary's rows.
        self._written: dict[str, tuple[int, list[Path], list[Row]]] = {}

    @property
    def due(self) -> list[str]:
        """The organizations whose reports nobody has taken yet."""
        return sorted(self._due)

    def take(self, organization: str) -> _Due | None:
        """Take a report to write it; None if it is not asked for."""
        if organization not in self._due:
            if self._target.only is None:
                said = f"{organization!r} has lines in {self.spec.interval}, but no summary."
                raise ReportError(said, _DAMAGED)
            return None
        summary = self._due.pop(organization)
        return _Due(organization, summary, sum(row["count"] for row in summary))

    def write(self, due: _Due, movements: Iterable[pa.Table]) -> int:
        """Write a report with these movements; how many there were. Several threads may."""
        organization, summary = due.organization, due.summary
        folder = self._target.out / slug(organization)
        remove_leftovers(folder)
        facts = facts_of(self.spec, organization, self._pinned.position, self._pinned.last_event_id)
        itemised_file, summary_file = (folder / name for name in TABLES)
        with temporary(itemised_file) as lines_temp, temporary(summary_file) as summary_temp:
            writer = DeterministicWriter(lines_temp, ITEMISED_FILE)
            try:
                sums = self._write_lines(writer, movements)
                differences = sums.differences(summary)
                if differences:
                    said = f"The lines of {organization!r} in {self.spec.interval} are not their summary's"
                    raise ReportError(f"{said}: {'; '.join(differences[:5])}.", _DAMAGED)
                converted = sums.converted(summary, self.spec.currency)
                table = pa.Table.from_pylist(converted, SUMMARY_FILE)
                totals = totals_of(table)
                says = {**stated(facts, self._state, totals), "lines": str(writer.rows)}
                lines_made = writer.close(
                    {**says, "kind": ITEMISED.name, "definition_version": str(ITEMISED.version)}
                )
                summary_made = write_table(
                    summary_temp,
                    table,
                    {**says, "kind": SUMMARY.name, "definition_version": str(SUMMARY.version)},
                )
            finally:
                writer.abandon()
            # The manifest is the last file, and its writing flushes the folder.
            publish(lines_temp, itemised_file, last=False)
            publish(summary_temp, summary_file, last=False)
        made = dict(zip(TABLES, (lines_made, summary_made), strict=True))
        files = self._finish(folder, facts, (made, totals))
        self._written[organization] = (writer.rows, files, converted)
        return writer.rows

    def result(self) -> BillingReport:
        """What was written."""
        written = [self._written[name] for name in sorted(self._written)]
        rows = [row for *_, its in written for row in its]
        currency = self.spec.currency
        return BillingReport(
            self._pinned.position,
            self.spec.interval,
            tuple(sorted(self._written)),
            sum(lines for lines, *_ in written),
            tuple(file for _, files, _ in written for file in files),
            totals_of_summary(rows),
            None if currency is None else ConvertedTotals(currency).with_rows(rows),
        )

    def _write_lines(self, writer: DeterministicWriter, movements: Iterable[pa.Table]) -> Sums:
        sums = Sums()
        for group in row_groups(movements):
            lines = self._make.make(group, writer.rows)
            sums.add(lines)
            writer.write(lines)
        return sums

    def _finish(
        self, folder: Path, facts: Mapping[str, Any], written: tuple[dict[str, WrittenFile], list[Row]]
    ) -> list[Path]:
        """The other formats, then the manifest of all files; which these are."""
        files = [folder / name for name in TABLES]
        others = [name for name in self._formats if name != "parquet"]
        if others:
            files += export(folder, others)
        # What an earlier report left in other formats says something else by now.
        for name in OTHERS - {path.name for path in files}:
            (folder / name).unlink(missing_ok=True)
        write_manifest(folder, facts, [path.name for path in files], self._state, written)
        return [*files, folder / MANIFEST]


_DAMAGED: Final = "Run ledgerlake verify: a part of the lake is damaged."


def _wanted(rows: list[Row], target: Target) -> list[Row]:
    return rows if target.only is None else [row for row in rows if row["organization_id"] in target.only]


def _together(reports: Sequence[_Reports]) -> Iterator[list[_Reports]]:
    """Neighbours in time that are asked for in one query: while they touch and are not too many lines."""
    group: list[_Reports] = []
    lines = 0
    for each in reports:
        touches = not group or group[-1].spec.interval.end == each.spec.interval.start
        if group and (not touches or lines + each.expected > _LINES_AT_ONCE):
            yield group
            group, lines = [], 0
        group.append(each)
        lines += each.expected
    yield group


def _only(group: Sequence[_Reports]) -> str | None:
    """The one organization that is asked for, if it is one."""
    names = frozenset().union(*(each.organizations for each in group))
    return next(iter(names)) if len(names) == 1 else None


def _split(
    found: Iterable[pa.Table], intervals: Sequence[Interval]
) -> Iterator[tuple[int, str, Iterator[pa.Table]]]:
    """Movements, sorted by organization and time, as one stream of tables per report; take them in order."""
    for (organization, at), parts in groupby(_runs(found, intervals), key=lambda run: run[:2]):
        yield at, organization, (part for *_, part in parts)


def _runs(found: Iterable[pa.Table], intervals: Sequence[Interval]) -> Iterator[tuple[str, int, pa.Table]]:
    ends = np.array([milliseconds(each.end) for each in intervals], np.int64)
    for table in found:
        runs = pc.run_end_encode(table["organization_id"]).combine_chunks()
        booked = table["booked_at"].combine_chunks().cast(pa.int64()).to_numpy()
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            at = int(ends.searchsorted(booked[start], "right"))
            while start < end:
                stop = start + int(booked[start:end].searchsorted(ends[at], "left"))
                if stop > start:
                    yield name, at, table.slice(start, stop - start)
                start, at = stop, at + 1
