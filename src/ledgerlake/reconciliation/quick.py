"""A quick reconciliation: control sums instead of events, so that its cost does not grow with the log.

Every layer was filled from the log by a way of its own. So here they are compared with one another, in
counts and minor units per organization, currency and outcome, each as of its own position: what the log has
between two positions is added up by the server, and what nobody has written to since is not added up again.
What cancels out in sums, or is wrong in all layers alike, only a full verification finds; that is why one
follows as soon as anything differs, and once a day.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import OperationFailure

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import ARCHIVED
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_footer
from ledgerlake.lake.segments import SegmentInfo
from ledgerlake.lake.tables import TABLES
from ledgerlake.mongo.indexes import EVENTS
from ledgerlake.projections import PROJECTIONS, checkpoint, model
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import (
    Check,
    Figure,
    Figures,
    Verification,
    checked,
    described,
    differing,
)
from ledgerlake.reconciliation.read_side import (
    as_of,
    check_dead_letters,
    dropped,
    of_part,
    positions,
    uneven,
)
from ledgerlake.reconciliation.record import Recorded, last_verification, record_verification
from ledgerlake.reconciliation.schemas import check_documents, check_files
from ledgerlake.reconciliation.sums import ControlSums, Kept, Sums, added, only, states, total
from ledgerlake.reconciliation.verify import MISSHAPEN, verify

_PAYMENTS: Final = "payment_read_models"
_STATISTICS: Final = "statistics/payment_statistics.parquet"
# A damaged file, or what is stored in another shape: then the full verification says more.
_NOT_TO_BE_COMPARED: Final = (LedgerLakeError, OSError, OperationFailure, *MISSHAPEN)
_STATES: Final = "statistics/payment_states.parquet"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found, whether by a full verification, and the last full one that was written down."""

    verification: Verification
    full: bool
    last: Recorded


def reconcile(
    db: Database[Document], lake: EventLake, every: timedelta, now: datetime | None = None
) -> Reconciled:
    """Quickly; in full where the last full one failed, is older than `every`, or the quick one differs."""
    last = last_verification(db)
    now = datetime.now(UTC) if now is None else now
    if last is not None and last.ok and timedelta(0) <= now - last.at < every:
        found = verify_quickly(db, lake, last.position)
        if found.ok:
            return Reconciled(found, False, last)
    return verify_fully(db, lake)


def verify_fully(db: Database[Document], lake: EventLake) -> Reconciled:
    """A full verification, which is written down."""
    started = time.monotonic()
    found = verify(db, lake)
    seconds = time.monotonic() - started
    return Reconciled(found, True, record_verification(db, found, seconds))


def verify_quickly(db: Database[Document], lake: EventLake, known: int) -> Verification:
    """Compare the control sums of all layers; `known` is the position up to which the log was verified.

    The names of its checks are those of the layers, with " (sums)". One that can not be made has failed.
    """
    while True:
        sums = ControlSums(db, EVENTS, *(name for name in PROJECTIONS if name != _PAYMENTS))
        # Before the snapshot is taken: so the lake can not be ahead of it.
        segments = lake.segments()
        with db.client.start_session(snapshot=True) as session:
            log = Log(db, session, lake.archive)
            quick = _Quick(log, lake, segments, known, sums)
            checks = quick.checks()
            if not dropped(log):
                return Verification(all(check.ok for check in checks), log.head, tuple(checks))


class _Quick:
    def __init__(
        self, log: Log, lake: EventLake, segments: list[SegmentInfo], known: int, sums: ControlSums
    ) -> None:
        self._log = log
        self._lake = lake
        self._segments = segments
        self._known = known
        self._sums = sums
        self._between: dict[tuple[int, int], Sums] = {}

    def checks(self) -> list[Check]:
        log, lake = self._log, self._lake
        at = positions(log)
        found: list[Check] = []

        def failed(name: str, part: str, error: Exception) -> None:
            told = str(error) or type(error).__name__
            found.append(replace(checked(name, "can not be compared", [told]), part=part))

        def run(name: str, part: str, check: Callable[[], Check]) -> None:
            try:
                found.append(check())
            except _NOT_TO_BE_COMPARED as error:
                failed(name, part, error)

        # The table of statistics is what all are compared with: it is small, and has every key.
        base: Sums = {}
        stated = 0
        try:
            (base, _), stated = self._sums.of_table(lake.root, _STATISTICS), self._stated(_STATISTICS)
        except FileNotFoundError:
            pass
        except _NOT_TO_BE_COMPARED as error:
            failed("lake payment_statistics", "lake_statistics", error)

        def expected(position: int) -> Sums:
            if position >= stated:
                return added(base, self._log_between(stated, position))
            return added(base, self._log_between(position, stated), -1)

        def compare(part: str, what: str, position: int, sums: Callable[[], Kept], **how: Any) -> None:
            def check() -> Check:
                return self._compared(what, part, position, only(expected(position), **how), sums())

            run(f"{what} (sums)", part, check)

        run("log positions", "events", self._positions)
        run("dead letters", "events", lambda: replace(check_dead_letters(log), part="events"))
        held = self._segments[-1].to if self._segments else 0
        compare("event_lake", "event_lake", held, self._footers, by_organization=False)
        run("columns of events", "event_lake", partial(check_files, lake, quick=True))
        for path, definition in TABLES.items():
            part = f"lake_{path.partition('/')[0]}"
            position = 0
            with suppress(FileNotFoundError, CorruptFileError):  # reading its rows says which
                position = self._stated(path)
            of_payments = path == _STATES
            sums = partial(self._sums.of_table, lake.root, path)
            compare(part, f"lake {definition.name}", position, sums, payments=of_payments)
        for folder in ("statistics", "trends"):
            run(f"columns of {folder}", f"lake_{folder}", partial(check_files, lake, folder))
        for name in at:
            if name != _PAYMENTS:
                outcome = "failed" if name == "failure_reasons" else None
                sums = partial(self._sums.of_read_model, name, log.session)
                compare(name, name, at[name], sums, outcome=outcome)
            elif (why := uneven(log, name)) is not None:
                found.append(of_part(log, f"{name} (sums)", name, at[name], [], detail=why))
            else:
                compare(name, name, at[name], self._payment_states, payments=True)
            run(f"fields of {name}", name, partial(check_documents, log, name, quick=True))
        return found

    def _positions(self) -> Check:
        """No position between the last verification and the head is missing or held twice."""
        log, known = self._log, min(self._known, self._log.head)
        new = self._sums.of_log(known, log.head, log.session)
        wrong = [] if new == log.head - known else [f"after position {known:,}: {new:,} events"]
        if self._known > log.head:
            wrong.append(f"the log was verified up to {self._known:,}, and ends at {log.head:,}")
        found = checked("log positions", f"{new:,} after position {known:,}, each once", wrong)
        return replace(found, part="events", position=log.head, lag=0)

    def _compared(self, name: str, part: str, position: int, expected: Figures, kept: Kept) -> Check:
        actual, since = kept
        old = "" if since is None else f", kept since {since:%Y-%m-%d %H:%M:%S} UTC"
        differences = described(expected, actual, differing(expected, actual), name)
        return of_part(
            self._log,
            f"{name} (sums)",
            part,
            position,
            differences,
            (expected, actual),
            detail=f"control sums, {as_of(self._log, position)}{old}",
        )

    def _log_between(self, after: int, up_to: int) -> Sums:
        """Figures of the events with after < position <= up_to, by the server."""
        if after >= up_to:
            return {}
        if (after, up_to) not in self._between:
            log = self._log
            rows = log.db["events"].aggregate(
                [
                    {"$match": {"position": {"$gt": after, "$lte": up_to}}},
                    {
                        "$group": {
                            "_id": {
                                "organization": "$metadata.organizationId",
                                "currency": "$eventData.currency",
                                "type": "$eventType",
                                "archived": {"$ne": [{"$type": f"${ARCHIVED}"}, "missing"]},
                            },
                            "count": {"$sum": 1},
                            "minor": {"$sum": {"$toDecimal": "$eventData.amountMinor"}},
                        }
                    },
                ],
                session=log.session,
                allowDiskUse=True,
            )
            sums: Sums = {}
            for row in rows:
                if row["_id"]["archived"]:
                    raise LedgerLakeError("A layer stands before events that were archived since.")
                kind = row["_id"].get("type")
                key = (
                    str(row["_id"].get("organization")),
                    str(row["_id"].get("currency")),
                    EVENT_STATUS.get(kind, f"unknown event type {kind!r}"),
                )
                sums[key] = Figure(row["count"], int(row["minor"].to_decimal()))
            self._between[after, up_to] = sums
        return self._between[after, up_to]

    def _footers(self) -> Kept:
        """What the segments state, over all organizations."""
        rows = (
            (("", currency, EVENT_STATUS.get(kind, kind)), count, minor)
            for info in self._segments
            for (currency, kind), (count, minor) in info.totals.items()
        )
        return total(rows), None

    def _stated(self, path: str) -> int:
        return int(read_footer(self._lake.root / path).stated["position"])

    def _payment_states(self) -> Kept:
        found = checkpoint(self._log.db, _PAYMENTS, self._log.session)
        if found.version not in (None, PROJECTIONS[_PAYMENTS].version):
            raise LedgerLakeError(f"{_PAYMENTS} was filled by version {found.version} of its definition.")
        documents = model(self._log.db, "payment_states", self._log.session)
        rows = (
            {
                "organization_id": row["organizationId"],
                "currency": row["currency"],
                "status": row["status"],
                "unreferenced": row["unreferenced"],
                "count": row["count"],
                "amount_minor": row["amountMinor"],
                "refunded_minor": row["refundedMinor"],
            }
            for row in documents.find({}, session=self._log.session)
        )
        return states(rows), None
