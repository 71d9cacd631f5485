"""All checks together, in one snapshot of the database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.reconciliation import lake_side, read_side, report_side
from ledgerlake.reconciliation.log import Document, Log, check_amounts, check_positions
from ledgerlake.reconciliation.model import Check, Verification, checked

if TYPE_CHECKING:
    from ledgerlake.lake.pinned import PinnedLake


def verify(
    db: Database[Document],
    lake: EventLake,
    up_to: int | None = None,
    reports: Path | None = None,
) -> Verification:
    """Compare every layer with the event log, each as of its own checkpoint, to the minor unit.

    The log, read models, statistics and trends are read in one snapshot, so that what is appended or
    refreshed meanwhile does not disturb. A layer that is behind is in order, and its check says how far
    it is behind; with `up_to`, a layer that has not reached that position is not in order. `reports` is
    the folder of billing reports to check, if any.
    """
    checks: list[Check] = []

    def run(name: str, check: Callable[[], Check]) -> None:
        try:
            checks.append(check())
        except LedgerLakeError as error:
            checks.append(checked(name, "can not be checked", [str(error)]))

    # Pinned before the snapshot is taken: so the lake can not be ahead of it.
    pinned: PinnedLake | LedgerLakeError
    try:
        pinned = lake.pin()
    except LedgerLakeError as error:
        pinned = error
    with db.client.start_session(snapshot=True) as session:
        log = Log(db, session)
        at = read_side.positions(log)
        run("log positions", lambda: check_positions(log))
        run("log amounts", lambda: check_amounts(log))
        run(
            "payment read models",
            lambda: read_side.check_read_models(log, at["payment_read_models"]),
        )
        run("payment statistics", lambda: read_side.check_statistics(log, at["payment_statistics"]))
        run("payment trends", lambda: read_side.check_trends(log, at["payment_trends"]))
        run("lake segments", lambda: lake_side.check_segments(lake))
        if isinstance(pinned, LedgerLakeError):
            checks.append(checked("lake events", "can not be read", [str(pinned)]))
        else:
            held = pinned.position
            at["event_lake"] = held
            run("lake events", lambda: lake_side.check_events(log, pinned))
            for path, definition in TABLES.items():
                run(f"lake {definition.name}", lambda path=path: lake_side.check_table(log, lake, path))
            if at["payment_read_models"] <= held:
                run(
                    "payment states",
                    lambda: lake_side.check_states(log, lake, at["payment_read_models"]),
                )
            if at["payment_trends"] <= held:
                run(
                    "payment trends by day",
                    lambda: lake_side.check_trend_days(log, lake, at["payment_trends"]),
                )
            if reports is not None:
                run("billing reports", lambda: report_side.check_reports(log, lake, reports))
        head = log.head
    if up_to is not None:
        late = [
            f"{name} is at {position}, not at {up_to}" for name, position in at.items() if position < up_to
        ]
        checks.append(checked("up to date", f"every layer has reached position {up_to:,}", late))
    return Verification(all(check.ok for check in checks), head, tuple(checks))
