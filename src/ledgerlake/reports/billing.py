"""Billing reports on request: of any interval, as of any position, into a folder of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ledgerlake.lake.engines import DUCKDB, Connection, Engine
from ledgerlake.lake.files import exclusive
from ledgerlake.reports.books import as_it_was
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import LOCK, BillingReport, Gate, OnProgress, write_reports

if TYPE_CHECKING:
    from ledgerlake.lake.event_lake import EventLake


def billing(
    lake: EventLake,
    spec: ReportSpec,
    out: Path,
    *,
    as_of: str | None = None,
    formats: Sequence[str] = ("parquet",),
    on_progress: OnProgress | None = None,
    gate: Gate | None = None,
    engine: Engine = DUCKDB,
) -> BillingReport:
    """Write OUT/LABEL/SLUG/ for what the spec asks, with the books as they are now in it.

    As of the lake's position, or of a position or an instant, and then by the books of that time: what was
    reported then. See `write_reports`.

    Raises:
        ReportError: an organization that never occurs in the log, or no position or instant; and what
            `write_reports` raises.
        LakeError, CorruptFileError: the lake can not be read.
    """
    with exclusive(out / LOCK):
        pinned = lake.pin()
        if as_of is not None:
            with pinned.naming_damage(), engine.connect(pinned) as connection:
                position, books = as_it_was(as_of, connection, spec.books)
            pinned, spec = lake.pin(position), replace(spec, books=books)
        with pinned.naming_damage(), engine.connect(pinned) as connection:
            if spec.organization is not None:
                _check_known(connection, spec.organization, pinned.position)
            folder = out / spec.interval.folder
            return write_reports(
                pinned, connection, spec, folder, formats, on_progress, {"state": "on request"}, gate
            )


def _check_known(connection: Connection, organization: str, position: int) -> None:
    query = "SELECT 1 AS one FROM events WHERE organization_id = $organization LIMIT 1"
    if not connection.sql(query, params={"organization": organization}).to_arrow_table().num_rows:
        raise ReportError(
            f"No event up to position {position} is of an organization {organization!r}.",
            "Check the spelling, capitals included; or refresh the lake first, if it is new.",
        )
