"""Keeping a folder of monthly billing reports up to date with the lake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledgerlake.lake.files import exclusive, remove_leftovers, write_atomically
from ledgerlake.reports.billing_definition import ITEMISED, SUMMARY, BillingTotals
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.month import Month
from ledgerlake.reports.monthly import LOCK, OnProgress, write_month
from ledgerlake.reports.slug import slug

if TYPE_CHECKING:
    import duckdb

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.pinned import PinnedLake

CHECKPOINT: Final = "checkpoint.json"
_DEFINITIONS: Final = f"{ITEMISED.version}.{SUMMARY.version}"


@dataclass(frozen=True, slots=True)
class BillingRefresh:
    """What a refresh of the reports did: positions before and after, and the months written.

    `lines` and `totals` (sums per currency) are those of the months written.
    """

    from_position: int
    to_position: int
    months: tuple[str, ...]
    files: tuple[Path, ...]
    lines: int
    totals: tuple[BillingTotals, ...]


@dataclass(frozen=True, slots=True)
class ReportsCheckpoint:
    """What a folder of reports shows: up to which event, and which month has reports of whom."""

    position: int = 0
    last_event_id: str = ""
    months: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def refresh_billing(lake: EventLake, out: Path, on_progress: OnProgress | None = None) -> BillingRefresh:
    """Write the reports of every month that has events after the folder's checkpoint, for everyone.

    The checkpoint, OUT/checkpoint.json, is written last: a run that dies is repeated by the next one,
    with the same bytes. Reports that were deleted are written again. Writes nothing if nothing is new.
    `on_progress(done, total)` counts months.

    Raises:
        ReportError: the folder holds reports of another log.
        LakeError, CorruptFileError: the lake can not be read.
    """
    with exclusive(out / LOCK):
        pinned = lake.pin()
        known = read_checkpoint(out)
        missing = {month for month, slugs in known.months.items() if not _all_there(out / month, slugs)}
        if known.position == pinned.position and known.last_event_id == pinned.last_event_id and not missing:
            return BillingRefresh(known.position, known.position, (), (), 0, ())
        remove_leftovers(out)
        with pinned.naming_damage(), pinned.duckdb() as connection:
            _check_same_log(connection, known, pinned, out)
            months = sorted({Month.parse(month) for month in missing} | _touched(connection, known.position))
            files: list[Path] = []
            totals: dict[str, BillingTotals] = {}
            reported = dict(known.months)
            lines = 0
            for number, month in enumerate(months, 1):
                report = write_month(pinned, connection, month, None, out)
                files += report.files
                lines += report.lines
                for each in report.totals:
                    totals[each.currency] = totals.get(each.currency, BillingTotals(each.currency)) + each
                reported[str(month)] = tuple(sorted(slug(name) for name in report.organizations))
                if on_progress is not None:
                    on_progress(number, len(months))
        _write_checkpoint(out, ReportsCheckpoint(pinned.position, pinned.last_event_id, reported))
        return BillingRefresh(
            known.position,
            pinned.position,
            tuple(str(month) for month in months),
            tuple(files),
            lines,
            tuple(totals[currency] for currency in sorted(totals)),
        )


def read_checkpoint(out: Path) -> ReportsCheckpoint:
    """The checkpoint of a folder of reports; position 0 if it has none, or one of older definitions.

    Raises:
        ReportError: the file is damaged.
    """
    path = out / CHECKPOINT
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["definitions"] != _DEFINITIONS:
            return ReportsCheckpoint()
        months = {str(month): tuple(slugs) for month, slugs in found["months"].items()}
        return ReportsCheckpoint(int(found["position"]), str(found["lastEventId"]), months)
    except FileNotFoundError:
        return ReportsCheckpoint()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f"{path} is damaged ({error!r}).", "Delete it: all reports are then written again."
        ) from error


def _write_checkpoint(out: Path, checkpoint: ReportsCheckpoint) -> None:
    content = {
        "definitions": _DEFINITIONS,
        "position": checkpoint.position,
        "lastEventId": checkpoint.last_event_id,
        "months": {month: list(slugs) for month, slugs in sorted(checkpoint.months.items())},
    }
    with write_atomically(out / CHECKPOINT) as temp:
        temp.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _all_there(folder: Path, slugs: tuple[str, ...]) -> bool:
    return all(
        (folder / each / name).is_file() for each in slugs for name in ("itemised.parquet", "summary.parquet")
    )


def _touched(connection: duckdb.DuckDBPyConnection, position: int) -> set[Month]:
    found = connection.execute(
        "SELECT DISTINCT CAST(DATE_TRUNC('month', occurred_at) AS DATE) FROM events WHERE position > $after",
        {"after": position},
    )
    return {Month.of(first) for (first,) in found.fetchall()}


def _check_same_log(
    connection: duckdb.DuckDBPyConnection, known: ReportsCheckpoint, pinned: PinnedLake, out: Path
) -> None:
    if known.position == 0:
        return
    found = connection.execute(
        "SELECT event_id FROM events WHERE position = $position", {"position": known.position}
    ).fetchall()
    if found != [(known.last_event_id,)]:
        raise ReportError(
            f"The reports in {out} show position {known.position} of another log than the lake {pinned.root},"
            f" which is at {pinned.position}.",
            "Refresh the lake; if it was exchanged, move these reports away.",
        )
