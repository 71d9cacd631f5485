"""Monthly billing reports per organization, itemised and summary, as Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ledgerlake.lake.files import exclusive, publish, remove_leftovers, temporary
from ledgerlake.lake.parquet import ROW_GROUP, DeterministicWriter, row_groups, write_table
from ledgerlake.reports.billing_definition import (
    ITEMISED,
    ITEMISED_FILE,
    SUMMARY,
    BillingTotals,
    totals_of_lines,
    totals_of_summary,
)
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.month import Month
from ledgerlake.reports.slug import slug

if TYPE_CHECKING:
    import duckdb

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.pinned import PinnedLake

OnProgress: TypeAlias = Callable[[int, int], None]
LOCK = ".reports.lock"


@dataclass(frozen=True, slots=True)
class BillingReport:
    """What was written for one month as of one position of the log.

    `organizations` have a report each, `lines` is the number of itemised lines of all of them, and
    `totals` are their sums per currency.
    """

    position: int
    month: str
    organizations: tuple[str, ...]
    lines: int
    files: tuple[Path, ...]
    totals: tuple[BillingTotals, ...]


def billing(
    lake: EventLake,
    month: str,
    organization: str | None,
    out: Path,
    on_progress: OnProgress | None = None,
) -> BillingReport:
    """Write OUT/MONTH/SLUG/itemised.parquet and summary.parquet, as of the lake's position.

    For one organization (also if nothing happened in the month), or for each that had a movement. The
    month is in UTC, from its first instant to right before the next month's. The same events give the
    same bytes. `on_progress(done, total)` counts lines.

    Raises:
        ReportError: no month, or an organization that never occurs in the log.
        LakeError, CorruptFileError: the lake can not be read.
    """
    period = Month.parse(month)
    with exclusive(out / LOCK):
        pinned = lake.pin()
        with pinned.naming_damage(), pinned.duckdb() as connection:
            if organization is not None:
                _check_known(connection, organization, pinned.position)
            return write_month(pinned, connection, period, organization, out, on_progress)


def write_month(
    pinned: PinnedLake,
    connection: duckdb.DuckDBPyConnection,
    month: Month,
    organization: str | None,
    out: Path,
    on_progress: OnProgress | None = None,
) -> BillingReport:
    """`billing` on an open connection, with the lock of `out` held."""
    parameters = {"start": month.start, "end": month.end, "organization": organization}
    summaries: dict[str, list[dict[str, Any]]] = {} if organization is None else {organization: []}
    for row in SUMMARY.run(connection, parameters).to_pylist():
        summaries.setdefault(row["organization_id"], []).append(row)
    rows = [row for each in summaries.values() for row in each]
    total = sum(row["charges"] + row["refunds"] + row["failures"] for row in rows)

    report = _ReportWriter(pinned, month, out)
    with closing(ITEMISED.stream(connection, parameters, ROW_GROUP)) as lines:
        for name, tables in _by_organization(lines):
            report.write(name, summaries.pop(name, []), tables)
            if on_progress is not None:
                on_progress(report.lines, total)
    for name, summary in summaries.items():
        report.write(name, summary, [])
    return BillingReport(
        pinned.position,
        str(month),
        tuple(report.organizations),
        report.lines,
        tuple(report.files),
        totals_of_summary(rows),
    )


class _ReportWriter:
    def __init__(self, pinned: PinnedLake, month: Month, out: Path) -> None:
        self._stated = {
            "position": str(pinned.position),
            "last_event_id": pinned.last_event_id,
            "month": str(month),
            "from": month.start.isoformat(),
            "before": month.end.isoformat(),
            "time_zone": "UTC",
        }
        self._folder = out / str(month)
        self.organizations: list[str] = []
        self.files: list[Path] = []
        self.lines = 0

    def write(self, organization: str, summary: list[dict[str, Any]], tables: Iterable[pa.Table]) -> None:
        folder = self._folder / slug(organization)
        remove_leftovers(folder)
        itemised, summed = folder / "itemised.parquet", folder / "summary.parquet"
        totals = totals_of_summary(summary)
        with temporary(itemised) as lines_file, temporary(summed) as summary_file:
            stated = {
                **self._stated,
                "organization": organization,
                "totals": json.dumps([asdict(each) for each in totals], separators=(",", ":")),
            }
            found, count = _write_lines(
                lines_file,
                tables,
                {**stated, "kind": ITEMISED.name, "definition_version": str(ITEMISED.version)},
            )
            if {each.currency: each for each in totals} != found:
                raise ReportError(
                    f"The lines of {organization!r} in {self._folder.name} do not add up to their summary.",
                    "Run ledgerlake verify: a part of the lake is damaged.",
                )
            write_table(
                summary_file,
                pa.Table.from_pylist(summary, SUMMARY.schema),
                {
                    **stated,
                    "kind": SUMMARY.name,
                    "definition_version": str(SUMMARY.version),
                    "lines": str(count),
                },
            )
            publish(lines_file, itemised)
            publish(summary_file, summed)
        self.organizations.append(organization)
        self.files += [itemised, summed]
        self.lines += count


def _write_lines(
    target: Path, tables: Iterable[pa.Table], stated: dict[str, str]
) -> tuple[dict[str, BillingTotals], int]:
    """Write numbered lines; returns their totals per currency, and how many there are."""
    writer = DeterministicWriter(target, ITEMISED_FILE)
    totals: dict[str, BillingTotals] = {}
    try:
        for group in row_groups(tables):
            for currency, found in totals_of_lines(group).items():
                totals[currency] = totals.get(currency, BillingTotals(currency)) + found
            numbers = pa.array(np.arange(writer.rows + 1, writer.rows + group.num_rows + 1))
            writer.write(pa.Table.from_arrays([numbers, *group.columns], schema=ITEMISED_FILE))
        writer.close({**stated, "lines": str(writer.rows)})
    finally:
        writer.abandon()
    return totals, writer.rows


def _by_organization(tables: Iterable[pa.Table]) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    """Rows sorted by organization, as one stream of tables per organization; take them in order."""
    for name, parts in groupby(_runs(tables), key=lambda run: run[0]):
        yield name, (table for _, table in parts)


def _runs(tables: Iterable[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    for table in tables:
        runs = pc.run_end_encode(table["organization_id"]).combine_chunks()
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            yield name, table.slice(start, end - start)
            start = end


def _check_known(connection: duckdb.DuckDBPyConnection, organization: str, position: int) -> None:
    query = "SELECT 1 FROM events WHERE organization_id = $organization LIMIT 1"
    if not connection.execute(query, {"organization": organization}).fetchall():
        raise ReportError(
            f"No event up to position {position} is of an organization {organization!r}.",
            "Check the spelling, capitals included; or refresh the lake first, if it is new.",
        )
