"""Billing reports on request: of any interval, as of any position, into a folder of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledgerlake.lake.engines import DUCKDB, Connection, Engine
from ledgerlake.lake.files import exclusive
from ledgerlake.reports.books import Books, as_it_was
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.formats import OTHERS
from ledgerlake.reports.manifest import MANIFEST, TABLES, Manifest, facts_of, read_manifest
from ledgerlake.reports.slug import slug
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import LOCK, BillingReport, Gate, OnProgress, write_reports

if TYPE_CHECKING:
    from ledgerlake.lake.event_lake import EventLake

ON_REQUEST: Final = {"state": "on request"}


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
    books: Callable[[], Books] | None = None,
) -> BillingReport:
    """Write OUT/LABEL/SLUG/ for what the spec asks, with the books as they are now in it.

    As of the lake's position, or of a position or an instant, and then by the books of that time: what was
    reported then. See `write_reports`. `books` reads them once nobody else writes here, instead of the
    spec's.

    Raises:
        ReportError: an organization that never occurs in the log, or no position or instant; and what
            `write_reports` raises.
        LakeError, CorruptFileError: the lake can not be read.
    """
    with exclusive(out / LOCK):
        pinned = lake.pin()
        if books is not None:
            # After the position is known: a close before it must not be missed.
            spec = replace(spec, books=books())
        if as_of is not None:
            with pinned.naming_damage(), engine.connect(pinned) as connection:
                position, then = as_it_was(as_of, connection, spec.books)
            pinned, spec = lake.pin(position), replace(spec, books=then)
        with pinned.naming_damage(), engine.connect(pinned) as connection:
            if spec.organization is not None:
                _check_known(connection, spec.organization, pinned.position)
            folder = out / spec.interval.folder
            before = _reports_in(folder)
            _check_alike(before, folder, spec)
            report = write_reports(pinned, connection, spec, folder, formats, on_progress, ON_REQUEST, gate)
            if spec.organization is None:
                # Everybody's reports are these: one of an earlier position would not add up with them.
                written = {slug(name) for name in report.organizations}
                for name, manifest in before.items():
                    if name not in written and manifest.state == ON_REQUEST:
                        _remove(folder / name)
            return report


def _reports_in(folder: Path) -> dict[str, Manifest]:
    """The reports that are there already, by their folders' names; not those that are damaged."""
    found = {}
    for path in folder.glob(f"*/{MANIFEST}"):
        with suppress(ReportError, OSError, ValueError):
            found[path.parent.name] = read_manifest(path.parent)
    return found


def _remove(folder: Path) -> None:
    """Remove a report; what somebody else put beside its files stays."""
    for name in (MANIFEST, *TABLES, *OTHERS):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _check_alike(before: Mapping[str, Manifest], folder: Path, spec: ReportSpec) -> None:
    """Refuse to put reports of other instants, or in another currency, beside those that are there."""
    for name, manifest in before.items():
        facts = facts_of(spec, "", 0, "")
        if any(manifest.facts[part] != facts[part] for part in ("interval", "currency")):
            zone, currency = manifest.facts["interval"]["zone"], manifest.facts["currency"]
            raise ReportError(
                f"{folder / name} is a report in {zone}{f', in {currency}' if currency else ''}: beside this"
                " one it would count movements twice.",
                "Give another folder: --out.",
            )


def _check_known(connection: Connection, organization: str, position: int) -> None:
    query = "SELECT 1 AS one FROM events WHERE organization_id = $organization LIMIT 1"
    if not connection.sql(query, params={"organization": organization}).to_arrow_table().num_rows:
        raise ReportError(
            f"No event up to position {position} is of an organization {organization!r}.",
            "Check the spelling, capitals included; or refresh the lake first, if it is new.",
        )
