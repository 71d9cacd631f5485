"""Billing reports against the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, checked
from ledgerlake.reconciliation.read_side import as_of
from ledgerlake.reports.billing_definition import ITEMISED_FILE, SUMMARY, totals_of_lines, totals_of_summary
from ledgerlake.reports.month import Month
from ledgerlake.reports.refresh import read_checkpoint


def check_reports(log: Log, views: LakeViews, reports: Path) -> Check:
    """Every report that the folder's checkpoint names: undamaged, lines = summary, and summary = lake.

    A report whose month had no event since it was written must equal the lake as of the checkpoint, too.
    """
    name = "billing reports"
    known = read_checkpoint(reports)
    if known.position == 0:
        return checked(name, "not built yet", [])
    expected = _expected(views, known.position, sorted(known.months))
    differences: list[str] = []
    count = 0
    for month, slugs in sorted(known.months.items()):
        rows: list[dict[str, Any]] = []
        for slug in slugs:
            folder = reports / month / slug
            count += 1
            try:
                rows += _read(folder, views, known.position, month)
            except (CorruptFileError, FileNotFoundError) as error:
                differences.append(str(error))
            except _Unequal as error:
                differences.append(f"{folder}: {error}")
        if not differences and rows != expected[month]:
            differences += _summary_differences(month, expected[month], rows)
    return checked(name, f"{count:,} reports, {as_of(log, known.position)}", differences)


class _Unequal(Exception):
    """A finding about one report."""


def _read(folder: Path, views: LakeViews, position: int, month: str) -> list[dict[str, Any]]:
    """The report's summary rows as of `position`, or what the lake says if the report is newer and agrees."""
    itemised, summary = folder / "itemised.parquet", folder / "summary.parquet"
    stated = [read_footer(path).stated for path in (itemised, summary)]
    written = {int(each["position"]) for each in stated}
    if len(written) > 1:
        raise _Unequal(f"lines and summary are as of different positions {sorted(written)}")
    rows: list[dict[str, Any]] = read_verified(summary, SUMMARY.schema).to_pylist()
    lines = read_verified(itemised, ITEMISED_FILE)
    if {each.currency: each for each in totals_of_summary(rows)} != totals_of_lines(lines):
        raise _Unequal("the lines do not add up to the summary")
    newer = max(written)
    if newer <= position:
        return rows
    organization = stated[0]["organization"]
    if rows != [r for r in _expected(views, newer, [month])[month] if r["organization_id"] == organization]:
        raise _Unequal(f"the summary is not what the lake says as of position {newer}")
    return [r for r in _expected(views, position, [month])[month] if r["organization_id"] == organization]


def _expected(views: LakeViews, position: int, months: list[str]) -> dict[str, list[dict[str, Any]]]:
    with views.at(position) as connection:
        tables: dict[str, pa.Table] = {}
        for text in months:
            month = Month.parse(text)
            parameters = {"start": month.start, "end": month.end, "organization": None}
            tables[text] = SUMMARY.run(connection, parameters)
    return {month: table.to_pylist() for month, table in tables.items()}


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
