"""A quick reconciliation: control sums instead of events, so that its cost does not grow with the log.

Every layer was filled from the log by a way of its own. So here they are compared with one another, in
counts and minor units per organization, currency and outcome, each as of its own position: what the log has
between two positions is added up by the server. What cancels out in sums, or is wrong in all layers alike,
only a full verification finds; that is why one follows as soon as anything differs, and once a day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from pymongo.database import Database
from pymongo.errors import OperationFailure

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import ARCHIVED
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.lake.segments import SegmentInfo
from ledgerlake.lake.tables import TABLES
from ledgerlake.projections import PROJECTIONS, checkpoint, model
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import (
    Check,
    Figure,
    Figures,
    Key,
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
from ledgerlake.reconciliation.verify import MISSHAPEN, verify

# What a layer knows of each key; a count that it does not keep is 0 on both sides.
Sums: TypeAlias = dict[Key, Figure]
Row: TypeAlias = dict[str, Any]

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
        # Before the snapshot is taken: so the lake can not be ahead of it.
        segments = lake.segments()
        with db.client.start_session(snapshot=True) as session:
            log = Log(db, session, lake.archive)
            quick = _Quick(log, lake, segments, known)
            checks = quick.checks()
            if not dropped(log):
                return Verification(all(check.ok for check in checks), log.head, tuple(checks))


class _Quick:
    def __init__(self, log: Log, lake: EventLake, segments: list[SegmentInfo], known: int) -> None:
        self._log = log
        self._lake = lake
        self._segments = segments
        self._known = known
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
            base, stated = _movements(self._table(_STATISTICS)), self._stated(_STATISTICS)
        except FileNotFoundError:
            pass
        except _NOT_TO_BE_COMPARED as error:
            failed("lake payment_statistics", "lake_statistics", error)

        def expected(position: int) -> Sums:
            if position >= stated:
                return _added(base, self._log_between(stated, position))
            return _added(base, self._log_between(position, stated), -1)

        def compare(part: str, what: str, position: int, sums: Callable[[], Sums], **how: Any) -> None:
            def check() -> Check:
                return self._compared(what, part, position, _only(expected(position), **how), sums())

            run(f"{what} (sums)", part, check)

        run("log positions", "events", self._positions)
        run("dead letters", "events", lambda: replace(check_dead_letters(log), part="events"))
        held = self._segments[-1].to if self._segments else 0
        compare("event_lake", "event_lake", held, self._footers, by_organization=False)
        run("columns of events", "event_lake", partial(check_files, lake))
        for path, definition in TABLES.items():
            part = f"lake_{path.partition('/')[0]}"
            position = 0
            with suppress(FileNotFoundError, CorruptFileError):  # reading its rows says which
                position = self._stated(path)
            of_payments = path == _STATES
            sums = partial(self._table_sums, path, _states if of_payments else _movements)
            compare(part, f"lake {definition.name}", position, sums, payments=of_payments)
        for folder in ("statistics", "trends"):
            run(f"columns of {folder}", f"lake_{folder}", partial(check_files, lake, folder))
        for name in at:
            if name != _PAYMENTS:
                outcome = "failed" if name == "failure_reasons" else None
                compare(name, name, at[name], partial(self._summed, name, outcome), outcome=outcome)
            elif (why := uneven(log, name)) is not None:
                found.append(of_part(log, f"{name} (sums)", name, at[name], [], detail=why))
            else:
                compare(name, name, at[name], self._payment_states, payments=True)
            run(f"fields of {name}", name, partial(check_documents, log, name, quick=True))
        return found

    def _positions(self) -> Check:
        """No position between the last verification and the head is missing or held twice."""
        log, known = self._log, min(self._known, self._log.head)
        new = log.db["events"].count_documents(
            {"position": {"$gt": known, "$lte": log.head}}, session=log.session
        )
        wrong = [] if new == log.head - known else [f"after position {known:,}: {new:,} events"]
        if self._known > log.head:
            wrong.append(f"the log was verified up to {self._known:,}, and ends at {log.head:,}")
        found = checked("log positions", f"{new:,} after position {known:,}, each once", wrong)
        return replace(found, part="events", position=log.head, lag=0)

    def _compared(self, name: str, part: str, position: int, expected: Figures, actual: Figures) -> Check:
        differences = described(expected, actual, differing(expected, actual), name)
        return of_part(
            self._log,
            f"{name} (sums)",
            part,
            position,
            differences,
            (expected, actual),
            detail=f"control sums, {as_of(self._log, position)}",
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

    def _footers(self) -> Sums:
        """What the segments state, over all organizations."""
        return _total(
            (("", currency, EVENT_STATUS.get(kind, kind)), count, minor)
            for info in self._segments
            for (currency, kind), (count, minor) in info.totals.items()
        )

    def _table_sums(self, path: str, sums: Callable[[Iterable[Row]], Sums]) -> Sums:
        return sums(self._table(path))

    def _table(self, path: str) -> list[Row]:
        rows: list[Row] = read_verified(self._lake.root / path, TABLES[path].schema).to_pylist()
        return rows

    def _stated(self, path: str) -> int:
        return int(read_footer(self._lake.root / path).stated["position"])

    def _summed(self, name: str, outcome: str | None = None) -> Sums:
        """A read model's movements; those of one without a status all have the `outcome`."""
        group = {
            "_id": {"organization": "$organizationId", "currency": "$currency", "status": "$status"},
            "count": {"$sum": "$count"},
            # Half the cost of decimals. One that 64 bits do not hold comes as a double, and is told.
            "minor": {"$sum": "$totalMinor"},
        }
        rows = model(self._log.db, name, self._log.session).aggregate(
            [{"$group": group}], session=self._log.session, allowDiskUse=True
        )
        found = []
        for row in rows:
            key, minor = row["_id"], row["minor"]
            if isinstance(minor, float):
                raise LedgerLakeError(f"A sum of {name} is more than 64 bits hold.")
            status = key["status"] if outcome is None else outcome
            found.append(((key["organization"], key["currency"], status), int(row["count"]), int(minor)))
        return _total(found)

    def _payment_states(self) -> Sums:
        found = checkpoint(self._log.db, _PAYMENTS, self._log.session)
        if found.version not in (None, PROJECTIONS[_PAYMENTS].version):
            raise LedgerLakeError(f"{_PAYMENTS} was filled by version {found.version} of its definition.")
        states = model(self._log.db, "payment_states", self._log.session)
        return _states(
            {
                "organization_id": row["organizationId"],
                "currency": row["currency"],
                "status": row["status"],
                "unreferenced": row["unreferenced"],
                "count": row["count"],
                "amount_minor": row["amountMinor"],
                "refunded_minor": row["refundedMinor"],
            }
            for row in states.find({}, session=self._log.session)
        )


def _movements(rows: Iterable[Row]) -> Sums:
    """Rows with organization, currency, status, count and sum, added up."""
    return _total(
        ((row["organization_id"], row["currency"], row["status"]), row["count"], row["total_minor"])
        for row in rows
    )


def _states(rows: Iterable[Row]) -> Sums:
    """Payments by state as movements: those that were processed, and what was refunded, uncounted.

    Raises:
        LedgerLakeError: payments of a state have more refunded than can be.
    """
    found: list[tuple[Key, int, int]] = []
    for row in rows:
        organization, currency, refunded = row["organization_id"], row["currency"], row["refunded_minor"]
        processed = not row["unreferenced"] and row["status"] != "failed"
        amount = row["amount_minor"] if processed else 0
        if not row["unreferenced"] and refunded > amount:
            raise LedgerLakeError(
                f"Payments of organization {organization!r}, {currency} that are {row['status']} have a"
                " negative balance: more was refunded than processed."
            )
        found.append(((organization, currency, "completed"), row["count"] if processed else 0, amount))
        found.append(((organization, currency, "refunded"), 0, refunded))
    return _total(found)


def _only(
    sums: Sums, *, outcome: str | None = None, payments: bool = False, by_organization: bool = True
) -> Sums:
    """The sums of one outcome; or as payments have them, or over all organizations."""
    return _total(
        (
            (organization if by_organization else "", currency, status),
            0 if payments and status == "refunded" else figure.count,
            figure.minor or 0,
        )
        for (organization, currency, status), figure in sums.items()
        if outcome in (None, status) and not (payments and status == "failed")
    )


def _added(one: Sums, other: Sums, sign: int = 1) -> Sums:
    """One with the other put in, or with -1 taken out."""
    return _total(
        (key, by * figure.count, by * (figure.minor or 0))
        for sums, by in ((one, 1), (other, sign))
        for key, figure in sums.items()
    )


def _total(rows: Iterable[tuple[Key, int, int]]) -> Sums:
    """The figures of keys, each key's counts and sums added up."""
    totals: dict[Key, list[int]] = {}
    for key, count, minor in rows:
        figure = totals.setdefault(key, [0, 0])
        figure[0] += count
        figure[1] += minor
    return {key: Figure(*figure) for key, figure in totals.items()}
