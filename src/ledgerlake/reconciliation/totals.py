"""The totals that queries read, row by row: against the payments they come from, and the lake's events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import polars as pl
import pyarrow as pa

from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.lake.definitions import (
    FAILURE_REASONS,
    PAYMENTS,
    QUARTERS,
    REFUND_LATENCY,
    RETRY_RECOVERY,
    STATES,
    Definition,
)
from ledgerlake.lake.pinned import connect
from ledgerlake.projections import checkpoint, model
from ledgerlake.reconciliation.lake_side import LakeViews, row_differences
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, Figure, Figures, described, differing
from ledgerlake.reconciliation.payments import batches, differing_payments, read
from ledgerlake.reconciliation.read_side import GROUPS_LOOKED_INTO, as_of, of_part

if TYPE_CHECKING:
    import duckdb

_PAYMENTS: Final = "payment_read_models"
# What the SQL texts ask of a payment.
_PAYMENT: Final = {
    "organizationId": ("organization_id", Kind.STRING),
    "currency": ("currency", Kind.STRING),
    "status": ("status", Kind.STRING),
    "unreferenced": ("unreferenced", Kind.BOOL),
    "amountMinor": ("amount_minor", Kind.INTEGER),
    "refundedMinor": ("refunded_minor", Kind.INTEGER),
    "completedAt": ("completed_at", Kind.DATE),
    "firstRefundAt": ("first_refund_at", Kind.DATE),
    "firstFailedAt": ("first_failed_at", Kind.DATE),
    "failuresBefore": ("failures_before", Kind.INTEGER),
}
# What else tells one payment from another, or from what its events come to.
_IN_FULL: Final = {
    "_id": ("payment_id", Kind.STRING),
    "attempts": ("attempts", Kind.INTEGER),
    "failures": ("failures", Kind.INTEGER),
    "refunds": ("refunds", Kind.INTEGER),
    "version": ("version", Kind.INTEGER),
}
_INTEGERS: Final = (
    "amount_minor",
    "refunded_minor",
    "failures_before",
    "attempts",
    "failures",
    "refunds",
    "version",
)
_INSTANTS: Final = ("completed_at", "first_refund_at", "first_failed_at")
# Of a row of payments, the same from events as from documents, whatever the types of the columns.
FINGERPRINT: Final = "hash({})".format(
    ", ".join(
        [
            *("payment_id", "status", "unreferenced"),
            *(f"CAST({name} AS BIGINT)" for name in _INTEGERS),
            *(f"epoch_ms({name})" for name in _INSTANTS),
        ]
    )
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals in a collection of their own, and what they have to come to.

    Attributes:
        name: of the collection.
        part: the projection whose checkpoint they move with.
        by: the fields of a document's key, each with its column in the lake's table and what that holds.
        sums: the fields that are summed, each with its column.
        definition: the same from events; from payments, where it has the mark for them.
        outcome: whether each row counts movements, which the log counts too: "status" where the row says
            their outcome, else the outcome. Empty for totals of payments.
    """

    name: str
    part: str
    by: Mapping[str, tuple[str, str]]
    sums: Mapping[str, str]
    definition: Definition
    outcome: str = ""


_WHOSE: Final = {"organizationId": ("organization_id", "text"), "currency": ("currency", "text")}
_DAY: Final = {"day": ("day", "day")}
_KINDS: Final = {
    "text": Kind.STRING,
    "flag": Kind.BOOL,
    "number": Kind.INTEGER,
    "day": Kind.DATE,
    "instant": Kind.DATE,
}
_TYPES: Final[dict[str, Any]] = {
    "text": pl.String,
    "flag": pl.Boolean,
    "number": pl.Int64,
    "day": pl.Date,
    "instant": pl.Datetime("ms", "UTC"),
}

TOTALS: Final[dict[str, Totals]] = {
    "payment state totals": Totals(
        "payment_states",
        _PAYMENTS,
        {**_WHOSE, "status": ("status", "text"), "unreferenced": ("unreferenced", "flag")},
        {"count": "count", "amountMinor": "amount_minor", "refundedMinor": "refunded_minor"},
        STATES,
    ),
    "refund latency": Totals(
        "refund_latency",
        _PAYMENTS,
        {**_WHOSE, **_DAY, "bucket": ("bucket", "number")},
        {"payments": "payments"},
        REFUND_LATENCY,
    ),
    "retry recovery": Totals(
        "retry_recovery",
        _PAYMENTS,
        {
            **_WHOSE,
            **_DAY,
            "failuresBefore": ("failures_before", "number"),
            "recovered": ("recovered", "flag"),
        },
        {"payments": "payments", "amountMinor": "amount_minor"},
        RETRY_RECOVERY,
    ),
    "failure reasons": Totals(
        "failure_reasons",
        "failure_reasons",
        {**_WHOSE, **_DAY, "reason": ("reason", "text")},
        {"count": "count", "totalMinor": "total_minor"},
        FAILURE_REASONS,
        outcome="failed",
    ),
    "payment quarters": Totals(
        "payment_quarters",
        "payment_quarters",
        {**_WHOSE, "quarter": ("quarter", "instant"), "status": ("status", "text")},
        {"count": "count", "totalMinor": "total_minor"},
        QUARTERS,
        outcome="status",
    ),
}


class PaymentTable:
    """payment_read_models as a table of DuckDB, read once and only if it is asked for. Close after use."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open = ExitStack()

    def run(self, definition: Definition) -> pa.Table:
        """What the definition comes to over these payments, instead of payments folded from events."""
        over = replace(definition, replace={"payments": "SELECT * FROM payments"})
        return self._connection.sql(over.sql).to_arrow_table()

    def fingerprints(self) -> dict[tuple[str, str], tuple[int, int]]:
        """How many payments each organization and currency has, and a fingerprint of all of them together."""
        return fingerprints(self._connection, "SELECT * FROM payments")

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = self._open.enter_context(connect())
        connection.execute("SET TimeZone = 'UTC'")
        read_models, columns = model(self._log.db, _PAYMENTS, self._log.session), {**_PAYMENT, **_IN_FULL}
        found = batches(read_models, {}, columns, self._log.session)
        # The texts group by an exponent; of one currency it is always the same. Ids would fill the memory.
        dropped = ", ".join(name for name, _ in _IN_FULL.values())
        rows = f"SELECT * EXCLUDE ({dropped}), {FINGERPRINT} AS fingerprint, 0 AS exponent FROM part"
        for number, part in enumerate(found):
            connection.register("part", pa.Table.from_batches([part]))
            into = "INSERT INTO payments" if number else "CREATE TABLE payments AS"
            connection.execute(f"{into} {rows}")
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def fingerprints(
    connection: duckdb.DuckDBPyConnection, payments: str
) -> dict[tuple[str, str], tuple[int, int]]:
    """Of a text that gives payments with their `fingerprint`s: see `PaymentTable.fingerprints`."""
    rows = connection.sql(
        "SELECT organization_id, currency, count(*), bit_xor(fingerprint)"
        f" FROM ({payments}) AS payments GROUP BY ALL"
    ).fetchall()
    return {(organization, currency): (count, value) for organization, currency, count, value in rows}


def check_each_payment(log: Log, payments: PaymentTable, views: LakeViews, position: int) -> Check:
    """Every payment against what the lake's events come to: what cancels out in sums is found, too."""
    events = f"SELECT *, {FINGERPRINT} AS fingerprint FROM ({PAYMENTS.sql}) AS folded"
    with views.at(position) as connection:
        expected = fingerprints(connection, events)
    found = payments.fingerprints()
    groups = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    differences = [
        f"organization {organization!r}, {currency}: payments are not what their events come to"
        for organization, currency in groups
    ]
    for organization, currency in groups[:GROUPS_LOOKED_INTO]:
        differences += differing_payments(log, organization, currency, position)
    detail = f"{as_of(log, position)}, one by one"
    return of_part(log, "payments one by one", _PAYMENTS, position, differences, detail=detail)


def check_totals(
    name: str, log: Log, payments: PaymentTable, views: LakeViews, position: int, held: int
) -> Check:
    """Totals against the payments or the log's own sums and, where the lake is as far, against its events."""
    totals = TOTALS[name]
    of_payments = totals.part == _PAYMENTS
    if of_payments and checkpoint(log.db, _PAYMENTS, log.session).version == 1:
        later = f"version 1 of {_PAYMENTS} does not keep them: `ledgerlake refresh` fills it anew"
        return of_part(log, name, totals.part, position, [], detail=later)
    columns = {field: (column, _KINDS[kind]) for field, (column, kind) in totals.by.items()}
    columns |= {field: (column, Kind.INTEGER) for field, column in totals.sums.items()}
    found = _alike(totals, read(model(log.db, totals.name, log.session), {}, columns, log.session))
    differences: list[str] = []
    figures: tuple[Figures, Figures] | None = None
    if of_payments:
        expected = _alike(totals, payments.run(totals.definition))
        differences += _differences(expected, found, "payments", totals)
    else:
        figures = (_of_log(log, totals, position), _figures(totals, found))
        differences += described(*figures, differing(*figures), totals.name)
    if position <= held:
        with views.at(position) as connection:
            expected = _alike(totals, totals.definition.run(connection))
        wrong = _differences(expected, found, "events", totals)
        if of_payments and wrong:
            only = [
                one.join(other, on=one.columns, how="anti", nulls_equal=True)
                for one, other in ((expected, found), (found, expected))
            ]
            whose = pl.concat(only).select("organization_id", "currency").unique()
            for organization, currency in whose.sort(pl.all()).head(GROUPS_LOOKED_INTO).iter_rows():
                wrong += differing_payments(log, organization, currency, position)
        differences += wrong
    return of_part(log, name, totals.part, position, differences, figures)


def _alike(totals: Totals, rows: pa.Table) -> pl.DataFrame:
    """Rows from wherever: one for each key (workers of a split projection each have their own), in order."""
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    by = [pl.col(column).cast(_TYPES[kind]) for column, kind in totals.by.values()]
    # More than 64 bits: what is compared may be wrong by any amount.
    sums = [pl.col(column).cast(pl.Int128).sum() for column in totals.sums.values()]
    grouped = frame.group_by(by).agg(sums)
    some = grouped.filter(pl.any_horizontal(pl.col(column) != 0 for column in totals.sums.values()))
    return some.sort([column for column, _ in totals.by.values()])


def _differences(expected: pl.DataFrame, found: pl.DataFrame, source: str, totals: Totals) -> list[str]:
    if expected.equals(found):
        return []
    as_decimals = pl.col(*totals.sums.values()).cast(pl.Decimal(38, 0))
    one, other = (frame.with_columns(as_decimals).to_arrow() for frame in (expected, found))
    return row_differences(one, other, (source, totals.name))


def _of_log(log: Log, totals: Totals, position: int) -> Figures:
    figures = log.at(position).figures
    if totals.outcome == "status":
        return figures
    return {key: figure for key, figure in figures.items() if key[2] == totals.outcome}


def _figures(totals: Totals, found: pl.DataFrame) -> Figures:
    status = pl.col("status") if totals.outcome == "status" else pl.lit(totals.outcome).alias("status")
    summed = found.group_by("organization_id", "currency", status).agg(pl.col("count", "total_minor").sum())
    return {
        (organization, currency, outcome): Figure(count, minor)
        for organization, currency, outcome, count, minor in summed.iter_rows()
    }
