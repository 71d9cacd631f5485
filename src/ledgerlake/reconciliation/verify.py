"""All checks together, in one snapshot of the database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.reconciliation import lake_side, read_side, report_side
from ledgerlake.reconciliation.balances import (
    LAKE_BALANCES,
    READ_MODEL_BALANCES,
    check_balances,
    check_lake_balances,
)
from ledgerlake.reconciliation.chain import NotedHead, check_chain
from ledgerlake.reconciliation.log import Document, Log, check_amounts
from ledgerlake.reconciliation.model import Check, Verification, checked
from ledgerlake.reconciliation.positions import check_positions
from ledgerlake.reconciliation.schemas import check_documents, check_files
from ledgerlake.reconciliation.totals import TOTALS, PaymentTable, check_each_payment, check_totals

# A field that is missing or of another type: the check of the fields names it.
MISSHAPEN: Final = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)


def verify(
    db: Database[Document],
    lake: EventLake,
    up_to: int | None = None,
    reports: Path | None = None,
    noted: NotedHead | None = None,
) -> Verification:
    """Compare every layer with the event log, each as of its own checkpoint, to the minor unit.

    The log, read models, statistics and trends are read in one snapshot, so that what is appended or
    refreshed meanwhile does not disturb. A layer that is behind is in order, and its check says how far
    it is behind; one that was never built, or is lost, while the log has events is not. With `up_to`, a
    layer that has not reached that position is not in order. `reports` is the folder of billing reports
    to check, if any; `noted` a hash of the log that was noted before, to check the log against.
    """
    while True:
        found = _verify(db, lake, up_to, reports, noted)
        if found is not None:
            return found


def _verify(
    db: Database[Document],
    lake: EventLake,
    up_to: int | None,
    reports: Path | None,
    noted: NotedHead | None,
) -> Verification | None:
    """`verify`; None where a read model was replaced and dropped meanwhile: what is gone reads as empty."""
    checks: list[Check] = []

    def run(name: str, check: Callable[[], Check]) -> None:
        try:
            checks.append(check())
        except LedgerLakeError as error:
            checks.append(checked(name, "can not be checked", [str(error)]))
        except MISSHAPEN as error:
            told = f"what is stored has another shape ({type(error).__name__}: {error})"
            checks.append(checked(name, "can not be checked", [told]))

    # Before the snapshot is taken: so the lake can not be ahead of it.
    held = lake.position()
    with ExitStack() as opened:
        session = opened.enter_context(db.client.start_session(snapshot=True))
        views = opened.enter_context(lake_side.LakeViews(lake))
        log = Log(db, session, lake.archive)
        paid = opened.enter_context(PaymentTable(log))
        at = read_side.positions(log)
        payments, trends = at["payment_read_models"], at["payment_trends"]
        uneven = read_side.uneven(log, "payment_read_models")

        def run_on_payments(name: str, check: Callable[[], Check]) -> None:
            if uneven is None:
                run(name, check)
            else:
                checks.append(
                    read_side.of_part(log, name, "payment_read_models", payments, [], detail=uneven)
                )

        run("log positions", lambda: check_positions(log))
        run("log chain", lambda: check_chain(log, noted))
        run("archived events", log.archived.check)
        run("log amounts", lambda: check_amounts(log))
        run_on_payments("payment read models", lambda: read_side.check_read_models(log, payments))
        run("payment statistics", lambda: read_side.check_statistics(log, at["payment_statistics"]))
        run("payment trends", lambda: read_side.check_trends(log, trends))
        for name, totals in TOTALS.items():
            runs = run_on_payments if totals.part == "payment_read_models" else run
            runs(name, partial(check_totals, name, log, paid, views, at[totals.part], held))
        run("dead letters", lambda: read_side.check_dead_letters(log))
        run("lake segments", lambda: lake_side.check_segments(log, lake, held))
        run("lake events", lambda: lake_side.check_events(log, views, held))
        for path, definition in TABLES.items():
            run(f"lake {definition.name}", partial(lake_side.check_table, log, views, path))
        # These need the lake's events up to the checkpoint; where it is behind, the sums must do.
        if payments <= held:
            run_on_payments("payment states", lambda: lake_side.check_states(log, views, payments))
            each = "payments one by one"
            run_on_payments(each, lambda: check_each_payment(log, paid, views, payments))
        run(LAKE_BALANCES, lambda: check_lake_balances(log, views, held))
        run_on_payments(READ_MODEL_BALANCES, lambda: check_balances(log, payments))
        for name in at:
            run(f"fields of {name}", partial(check_documents, log, name))
        run("columns of events", lambda: check_files(lake))
        for folder in ("statistics", "trends"):
            run(f"columns of {folder}", partial(check_files, lake, folder))
        if trends <= held:
            run("payment trends by day", lambda: lake_side.check_trend_days(log, views, trends))
        if reports is not None:
            run("billing reports", lambda: report_side.check_reports(log, views, reports))
        if read_side.dropped(log):
            return None
    at["event_lake"] = held
    if up_to is not None:
        late = [
            f"{name} is at {position}, not at {up_to}" for name, position in at.items() if position < up_to
        ]
        checks.append(checked("up to date", f"every layer has reached position {up_to:,}", late))
    return Verification(all(check.ok for check in checks), log.head, tuple(checks))
