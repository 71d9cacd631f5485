"""Billing reports against the lake: the drafts of open months, and every revision of closed ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import pyarrow.parquet as pq

from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.files import exclusive
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check
from ledgerlake.reconciliation.read_side import as_of, of_part
from ledgerlake.reports.billing_definition import SUMMARY_FILE, SUMMARY_FX
from ledgerlake.reports.bookings import summaries
from ledgerlake.reports.books import Books, read_books
from ledgerlake.reports.checking import check_report, check_revision
from ledgerlake.reports.manifest import DEFINITIONS, TABLES, Manifest, books_of, interval_of
from ledgerlake.reports.refresh import read_checkpoint
from ledgerlake.reports.revisions import DRAFT
from ledgerlake.reports.slug import slug
from ledgerlake.reports.writer import LOCK

# Organization, currency, category.
_Key: TypeAlias = tuple[str, str, str]

_PART: Final = "billing reports"
_COMPARED: Final = [
    each.name for each in SUMMARY_FILE if each.name not in {other.name for other in SUMMARY_FX}
]


def check_reports(log: Log, views: LakeViews, reports: Path) -> Check:
    """Every draft that the folder's checkpoint names, and every revision: undamaged, and what the lake says.

    A draft whose month had no event since it was written must equal the lake as of the checkpoint, too. A
    revision must be the one that was closed.
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
    known = read_checkpoint(reports)
    books = read_books(log.db)
    if known.position == 0 and not books.entries:
        return of_part(log, _PART, _PART, 0, [], detail="not built yet")
    differences: list[str] = []
    # A draft goes when its month is closed, and comes with the first refresh after it is reopened.
    since = {entry.period for entry in books.entries[known.entries :]}
    folders = {
        reports / month / DRAFT / each: True
        for month, slugs in known.months.items()
        for each in slugs
        if month not in since
    }
    for entry in books.entries:
        revision = reports / entry.folder
        if entry.action == "close" and not revision.is_dir():
            differences.append(f"{revision} is missing: `ledgerlake refresh` writes it")
        elif entry.action == "close":
            differences += check_revision(revision, books)
            folders |= {each: False for each in revision.iterdir() if each.is_dir()}
    then = Books(books.zone, books.entries[: known.entries])
    usable: dict[Path, tuple[Manifest, int, Books]] = {}
    for folder, draft in folders.items():
        manifest, wrong = check_report(folder)
        differences += [f"{folder}: {each}" for each in wrong]
        if manifest is None or wrong or manifest.facts["definitions"] != DEFINITIONS:
            continue
        position = int(manifest.facts["position"])
        if draft and position <= known.position:
            usable[folder] = (manifest, known.position, then)
        else:
            usable[folder] = (manifest, position, books_of(manifest.facts))
    differences += _differences(views, usable, (known.position, then), known.months)
    detail = f"{len(folders):,} reports, {as_of(log, known.position)}"
    return of_part(log, _PART, _PART, known.position, differences, detail=detail)


def _differences(
    views: LakeViews,
    reports: Mapping[Path, tuple[Manifest, int, Books]],
    as_known: tuple[int, Books],
    months: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """Summaries against the lake, each as of the position and by the books that are given with it.

    As of the position and books `as_known`, everybody has a report in `months` whom the lake has one for. A
    month that is not among them has no drafts, and whom its revision is of was compared with the close.
    """
    groups: dict[tuple[int, Books], list[Path]] = {}
    for folder, (_, position, books) in reports.items():
        groups.setdefault((position, books), []).append(folder)
    differences = []
    for (position, books), folders in groups.items():
        intervals = {
            interval.label: interval for interval in (interval_of(reports[each][0].facts) for each in folders)
        }
        try:
            with views.at(position) as connection:
                tables = summaries(connection, books, list(intervals.values()))
        except LakeError as error:
            differences.append(str(error))
            continue
        expected = {label: _keyed(table.to_pylist()) for label, table in zip(intervals, tables, strict=True)}
        if (position, books) == as_known:
            differences += [
                f"{label}, organization {organization!r}: the lake has a report, here is none"
                for label in intervals
                if label in months
                for organization in sorted({key[0] for key in expected[label]})
                if slug(organization) not in months[label]
            ]
        for folder in folders:
            facts = reports[folder][0].facts
            label, organization = facts["interval"]["label"], facts["organization"]
            found = _keyed(pq.ParquetFile(folder / TABLES[1]).read().to_pylist())
            rows = {key: row for key, row in expected[label].items() if key[0] == organization}
            wrong = [key for key in sorted({*rows, *found}) if rows.get(key) != found.get(key)]
            if wrong:
                key, more = wrong[0], f"; and {len(wrong) - 1} more rows" if len(wrong) > 1 else ""
                differences.append(
                    f"{folder}, organization {organization!r}, {' '.join(key[1:])}:"
                    f" lake {_text(rows.get(key))}, report {_text(found.get(key))}{more}"
                )
    return differences


def _keyed(rows: Iterable[dict[str, Any]]) -> dict[_Key, dict[str, Any]]:
    return {
        (row["organization_id"], row["currency"], row["category"]): {name: row[name] for name in _COMPARED}
        for row in rows
    }


def _text(row: dict[str, Any] | None) -> str:
    if row is None:
        return "nothing"
    return (
        f"count {row['count']} gross {row['gross']} refunded {row['refunded']} net {row['net']}"
        f" failed {row['failed']} opening {row['opening']} closing {row['closing']}"
    )
