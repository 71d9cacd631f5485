"""What payments come to, kept up as they change: their states, time to the first refund, recovery by retries.

Each is a sum over the documents of payment_read_models, written in the same transaction: a payment that
changes leaves the total that it counted in, and counts in the one that it belongs to now.
"""

from __future__ import annotations

from typing import Final

import polars as pl
from pymongo import ASCENDING

from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Derived, Field, as_int64, int64_sum
from ledgerlake.projections.movements import CURRENCY, ORGANIZATION

# Hours up to which the time to a refund is kept by the hour; from there on by the day.
BY_THE_HOUR: Final = 7 * 24
# The bucket of refunds that bear an earlier date than the completion of their payment.
BEFORE: Final = -1
_HOUR: Final = 3_600_000
_DAY: Final = 24 * _HOUR

# Expressions are made once: to make them costs more than to apply them to the rows of a live batch.
_PROCESSED, _REFUNDED = pl.col("processed"), pl.col("refunded")
_STATE: Final = {
    "status": pl.when("unreferenced")
    .then(pl.lit("refunded"))
    .when(_PROCESSED.is_null())
    .then(pl.lit("failed"))
    .when(_REFUNDED == 0)
    .then(pl.lit("completed"))
    .when(_REFUNDED < _PROCESSED)
    .then(pl.lit("partially_refunded"))
    .otherwise(pl.lit("refunded")),
    "amountMinor": pl.coalesce(pl.when("unreferenced").then(_REFUNDED), _PROCESSED, "failed"),
    "refundedMinor": _REFUNDED,
    "netMinor": _PROCESSED.fill_null(0) - _REFUNDED,
    "failuresBefore": pl.coalesce(pl.col("completing") - 1, "failures"),
}
_STATE_KEY: Final = pl.concat_str(
    "organizationId",
    "status",
    pl.when("unreferenced").then(pl.lit("unreferenced")).otherwise(pl.lit("payment")),
    "currency",
    separator="|",
)


def with_state(payments: pl.DataFrame) -> pl.DataFrame:
    """Deltas of whole payments, with what their documents say besides: status, amounts, failuresBefore."""
    return payments.with_columns(**_STATE)


def _states(payments: pl.DataFrame) -> pl.DataFrame:
    return _counted(
        with_state(payments),
        ("organizationId", "status", "unreferenced", "currency"),
        _STATE_KEY,
        "count",
        "amountMinor",
        "refundedMinor",
    )


def _latency(payments: pl.DataFrame) -> pl.DataFrame:
    # A refund that names no payment has no completion.
    refunded = payments.filter(pl.col("completedAt").is_not_null() & pl.col("firstRefundAt").is_not_null())
    if not refunded.height:
        return refunded
    late = (pl.col("firstRefundAt") - pl.col("completedAt")).dt.total_milliseconds()
    return _counted(
        refunded.with_columns(
            day=pl.col("completedAt").dt.truncate("1d"),
            bucket=pl.when(late < 0)
            .then(BEFORE)
            .when(late < BY_THE_HOUR * _HOUR)
            .then(late // _HOUR)
            .otherwise(late // _DAY * 24)
            .cast(pl.Int64),
        ),
        ("organizationId", "currency", "day", "bucket"),
        pl.concat_str("organizationId", _DATE, "currency", "bucket", separator="|"),
        "payments",
    )


def _recovery(payments: pl.DataFrame) -> pl.DataFrame:
    failed = payments.filter(pl.col("failures") > 0)
    if not failed.height:
        return failed
    outcome = pl.when("recovered").then(pl.lit("recovered")).otherwise(pl.lit("not recovered"))
    return _counted(
        with_state(failed)
        .filter(pl.col("failuresBefore") > 0)
        .with_columns(
            day=pl.col("firstFailedAt").dt.truncate("1d"),
            failuresBefore=pl.col("failuresBefore").cast(pl.Int64),
            recovered=pl.col("completedAt").is_not_null(),
        ),
        ("organizationId", "currency", "day", "failuresBefore", "recovered"),
        pl.concat_str("organizationId", _DATE, "currency", "failuresBefore", outcome, separator="|"),
        "payments",
        "amountMinor",
    )


_DATE: Final = pl.col("day").dt.strftime("%Y-%m-%d")


def _counted(rows: pl.DataFrame, by: tuple[str, ...], key: pl.Expr, count: str, *sums: str) -> pl.DataFrame:
    """A row for each group with its key: how many rows it has, and sums. ProjectionError beyond 64 bits."""
    grouped = rows.group_by(by, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias(count), *(int64_sum(each).alias(each) for each in sums)
    )
    return as_int64(grouped.with_columns(key=key), *sums)


PAYMENT_STATES: Final = Derived(
    name="payment_states",
    by=("organizationId", "status", "unreferenced", "currency"),
    totals=("count", "amountMinor", "refundedMinor"),
    contributions=_states,
    schema=(
        Field("_id", "string", "", "organization|status|payment or unreferenced|currency"),
        ORGANIZATION,
        Field("status", "string", "", "what the payments have come to: as in payment_read_models"),
        Field("unreferenced", "bool", "", "refunds that name no payment"),
        CURRENCY,
        Field("count", "long", "payments", "how many are in the state now"),
        Field("amountMinor", "long", "minor units", "sum of their amounts"),
        Field("refundedMinor", "long", "minor units", "sum of what was refunded of them"),
    ),
    indexes=(
        Index(
            "payment_states",
            "states_organization",
            (("organizationId", ASCENDING), ("status", ASCENDING), ("currency", ASCENDING)),
            "the states of one organization's payments, or of all",
        ),
    ),
)

REFUND_LATENCY: Final = Derived(
    name="refund_latency",
    by=("organizationId", "currency", "day", "bucket"),
    totals=("payments",),
    contributions=_latency,
    schema=(
        Field("_id", "string", "", "organization|day|currency|bucket"),
        ORGANIZATION,
        CURRENCY,
        Field("day", "date", "", "the UTC day on which the payments completed, its midnight"),
        Field(
            "bucket",
            "long",
            "hours",
            "from completion to the earliest refund: whole hours below seven days, whole days above"
            " (168, 192 ...); -1 for a refund that is dated before the completion",
        ),
        Field("payments", "long", "payments", "how many were refunded after that time, in part or in full"),
    ),
    indexes=(
        Index(
            "refund_latency",
            "refund_latency_day",
            (("day", ASCENDING), ("organizationId", ASCENDING)),
            "the days in a range, of one organization or of all",
        ),
    ),
)

RETRY_RECOVERY: Final = Derived(
    name="retry_recovery",
    by=("organizationId", "currency", "day", "failuresBefore", "recovered"),
    totals=("payments", "amountMinor"),
    contributions=_recovery,
    schema=(
        Field("_id", "string", "", "organization|day|currency|failuresBefore|recovered or not recovered"),
        ORGANIZATION,
        CURRENCY,
        Field("day", "date", "", "the UTC day of the payments' earliest failure, its midnight"),
        Field("failuresBefore", "long", "attempts", "failed attempts before completion, or so far"),
        Field("recovered", "bool", "", "whether a later attempt went through"),
        Field("payments", "long", "payments", "how many there are"),
        Field("amountMinor", "long", "minor units", "sum of their amounts; not recovered: last attempt's"),
    ),
    indexes=(
        Index(
            "retry_recovery",
            "retry_recovery_day",
            (("day", ASCENDING), ("organizationId", ASCENDING)),
            "the days in a range, of one organization or of all",
        ),
    ),
)
