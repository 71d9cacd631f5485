"""Billing reports against the lake."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.lake.files import exclusive
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check
from ledgerlake.reconciliation.read_side import as_of, of_part
from ledgerlake.reports.billing_definition import ITEMISED_FILE, SUMMARY, totals_of_lines, totals_of_summary
from ledgerlake.reports.month import Month
from ledgerlake.reports.monthly import LOCK
from ledgerlake.reports.refresh import read_checkpoint
from ledgerlake.reports.slug import slug


def check_reports(log: Log, views: LakeViews, reports: Path) -> Check:
    """Every report that the folder's checkpoint names: undamaged, lines = summary, and summary = lake.

    A report whose month had no event since it was written must equal the lake as of the checkpoint, too.
    """
    found = _check(log, views, reports)
    if found.ok or not reports.is_dir():
        return found
    # A refresh that is writing can look like a difference: what differs must still do so while nobody writes.
    try:
        with exclusive(reports / LOCK):
            return _check(log, views, reports)
    except OSError:  # a folder that may only be read: nobody can wait for its writer
        return found


def _check(log: Log, views: LakeViews, reports: Path) -> Check:
    name = part = "billing reports"
    known = read_checkpoint(reports)
    if known.position == 0:
        return of_part(log, name, part, 0, [], detail="not built yet")
    expected = _Expected(views)
    rows_of = expected.at(known.position, known.months)
    differences: list[str] = []
    count = 0
    for month, slugs in sorted(known.months.items()):
        rows: list[dict[str, Any]] = []
        unusable: set[str] = set()
        for each in slugs:
            folder = reports / month / each
            count += 1
            try:
                rows += _read(folder, expected, known.position, month)
            except (CorruptFileError, OSError) as error:
                unusable.add(each)
                differences.append(str(error))
            except (LakeError, _Unequal) as error:
                unusable.add(each)
                differences.append(f"{folder}: {error}")
        # What can not be used is told already, and says nothing about the month's other reports.
        usable = [row for row in rows_of[month] if slug(row["organization_id"]) not in unusable]
        differences += _summary_differences(month, usable, rows)
    detail = f"{count:,} reports, {as_of(log, known.position)}"
    return of_part(log, name, part, known.position, differences, detail=detail)


class _Expected:
    """Summaries as the lake has them, computed once per position and month."""

    def __init__(self, views: LakeViews) -> None:
        self._views = views
        self._known: dict[tuple[int, str], list[dict[str, Any]]] = {}

    def at(self, position: int, months: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The rows of each month as of a position."""
        wanted = list(months)
        missing = [month for month in wanted if (position, month) not in self._known]
        if missing:
            with self._views.at(position) as connection:
                for text in missing:
                    month = Month.parse(text)
                    parameters = {"start": month.start, "end": month.end, "organization": None}
                    self._known[position, text] = SUMMARY.run(connection, parameters).to_pylist()
        return {month: self._known[position, month] for month in wanted}


class _Unequal(Exception):
    """A finding about one report."""


def _read(folder: Path, expected: _Expected, position: int, month: str) -> list[dict[str, Any]]:
    """The report's summary rows as of `position`, or what the lake says if the report is newer and agrees."""
    itemised, summary = folder / "itemised.parquet", folder / "summary.parquet"
    stated = [read_footer(path).stated for path in (itemised, summary)]
    try:
        written = {int(each["position"]) for each in stated}
        organization = stated[0]["organization"]
    except (KeyError, ValueError):
        raise _Unequal("the files do not say whose they are, or as of which position") from None
    if len(written) > 1:
        raise _Unequal(f"lines and summary are as of different positions {sorted(written)}")
    rows: list[dict[str, Any]] = read_verified(summary, SUMMARY.schema).to_pylist()
    lines = read_verified(itemised, ITEMISED_FILE)
    if {each.currency: each for each in totals_of_summary(rows)} != totals_of_lines(lines):
        raise _Unequal("the lines do not add up to the summary")
    newer = max(written)
    if newer <= position:
        return rows
    if rows != [r for r in expected.at(newer, [month])[month] if r["organization_id"] == organization]:
        raise _Unequal(f"the summary is not what the lake says as of position {newer}")
    return [r for r in expected.at(position, [month])[month] if r["organization_id"] == organization]


def _summary_differences(
    month: str, expected: list[dict[str, Any]], found: list[dict[str, Any]]
) -> list[str]:
    def keyed(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["organization_id"], row["currency"]): row for row in rows}

    one, other = keyed(expected), keyed(found)
    return [
        f"{month}, organization {key[0]!r}, {key[1]}:"
        f" lake {_text(one.get(key))}, report {_text(other.get(key))}"
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]


def _text(row: dict[str, Any] | None) -> str:
    if row is None:
        return "nothing"
    return f"gross {row['gross']} refunded {row['refunded']} net {row['net']} failed {row['failed']}"
