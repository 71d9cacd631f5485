"""payment_read_models: the current state of every payment, one document a stream."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING

from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field, Projection, as_int64, int64_sum, not_in_step
from ledgerlake.projections.movements import AT, CURRENCY, INSTANT, ORGANIZATION, with_status
from ledgerlake.projections.payment_documents import payment_documents
from ledgerlake.projections.payment_totals import PAYMENT_STATES, REFUND_LATENCY, RETRY_RECOVERY, with_state

_NAME = "payment_read_models"
_COLUMNS = (
    "position",
    "payment_id",
    "event_type",
    "version",
    "occurred_at",
    "amount_minor",
    "currency",
    "organization_id",
    "user_id",
    "attempt",
    "reason",
    "unreferenced",
    "schema_version",
)
# What a stretch of a payment's events comes to. `processed` and `failed` are the amounts of the completed
# and of the last failed attempt, null where there was none; `since` is the version of the first event.
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "organizationId": pl.String,
    "userId": pl.String,
    "currency": pl.String,
    "processed": pl.Int64,
    "failed": pl.Int64,
    "refunded": pl.Int64,
    "attempts": pl.Int32,
    "failures": pl.Int32,
    "refunds": pl.Int32,
    "completing": pl.Int32,
    "reason": pl.String,
    "unreferenced": pl.Boolean,
    "openedAt": INSTANT,
    "firstAt": INSTANT,
    "lastAt": INSTANT,
    "completedAt": INSTANT,
    "firstRefundAt": INSTANT,
    "firstFailedAt": INSTANT,
    "since": pl.Int64,
    "version": pl.Int64,
    "firstPosition": pl.Int64,
    "position": pl.Int64,
}
# Expressions are made once: to make them costs more than to apply them to the rows of a live batch.
_IS_PROCESSED = pl.col("status") == "completed"
_IS_FAILED = pl.col("status") == "failed"
_IS_REFUNDED = pl.col("status") == "refunded"
_AMOUNT = pl.col("amount_minor")
_OF_EVENT = {
    "key": pl.col("payment_id"),
    "organizationId": pl.col("organization_id"),
    "userId": pl.col("user_id"),
    "currency": pl.col("currency"),
    "processed": pl.when(_IS_PROCESSED).then(_AMOUNT),
    "failed": pl.when(_IS_FAILED).then(_AMOUNT),
    "refunded": pl.when(_IS_REFUNDED).then(_AMOUNT).otherwise(0),
    "attempts": (_IS_PROCESSED | _IS_FAILED).cast(pl.Int32),
    "failures": _IS_FAILED.cast(pl.Int32),
    "refunds": _IS_REFUNDED.cast(pl.Int32),
    "completing": pl.when(_IS_PROCESSED).then(pl.col("attempt")),
    # A failure without a reason still is the last failure: its reason is the empty text until rendered.
    "reason": pl.when(_IS_FAILED).then(pl.col("reason").fill_null("")),
    "unreferenced": pl.col("unreferenced"),
    "openedAt": AT,
    "firstAt": AT,
    "lastAt": AT,
    "completedAt": pl.when(_IS_PROCESSED).then(AT),
    "firstRefundAt": pl.when(_IS_REFUNDED).then(AT),
    "firstFailedAt": pl.when(_IS_FAILED).then(AT),
    "since": pl.col("version"),
    "version": pl.col("version"),
    "firstPosition": pl.col("position"),
    "position": pl.col("position"),
}
_SINCE = pl.col("version") - pl.col("since") + 1
_TOGETHER = (
    pl.col("organizationId", "currency", "openedAt", "since", "firstPosition").first(),
    pl.col("userId").drop_nulls().first(),
    pl.col("processed", "completing", "failed", "reason", "completedAt").drop_nulls().last(),
    int64_sum("refunded").alias("refunded"),
    pl.col("attempts", "failures", "refunds").sum(),
    pl.col("unreferenced").any(),
    pl.col("firstAt", "firstRefundAt", "firstFailedAt").min(),
    pl.col("lastAt").max(),
    pl.col("version", "position").last(),
    _SINCE.sum().alias("versions"),
)
_MISSING = pl.col("versions") != _SINCE
_TYPED = [pl.col(name).cast(kind) for name, kind in _SCHEMA.items()]


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    return _merge(with_status(events).select(**_OF_EVENT))


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    merged = rows.group_by("key", maintain_order=True).agg(_TOGETHER)
    for key, since, version, versions in merged.filter(_MISSING).select(
        "key", "since", "version", "versions"
    ).iter_rows():  # fmt: skip
        raise not_in_step(_NAME, f"counts {versions} events of {key!r} in its versions {since} to {version}")
    return as_int64(merged, "refunded").select(_TYPED)


def _recall(documents: Sequence[Document]) -> pl.DataFrame:
    rows = [
        {
            "key": document["_id"],
            "organizationId": document["organizationId"],
            "userId": document["userId"],
            "currency": document["currency"],
            "processed": document["amountMinor"] if document["completedAt"] is not None else None,
            "failed": document["amountMinor"] if document["status"] == "failed" else None,
            "refunded": document["refundedMinor"],
            "attempts": document["attempts"],
            "failures": document["failures"],
            "refunds": document["refunds"],
            "completing": document["failuresBefore"] + 1 if document["completedAt"] is not None else None,
            "reason": (document["lastFailureReason"] or "") if document["failures"] else None,
            "unreferenced": document["unreferenced"],
            "openedAt": document["openedAt"],
            "firstAt": document["firstAt"],
            "lastAt": document["lastAt"],
            "completedAt": document["completedAt"],
            "firstRefundAt": document["firstRefundAt"],
            "firstFailedAt": document["firstFailedAt"],
            "since": 1,
            "version": document["version"],
            "firstPosition": document["firstPosition"],
            "position": document["position"],
        }
        for document in documents
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _render(deltas: pl.DataFrame) -> list[RawBSONDocument]:
    for key, since in deltas.filter(pl.col("since") != 1).select("key", "since").iter_rows():
        raise not_in_step(_NAME, f"has taken the events of {key!r} before version {since}, but lacks it")
    states = with_state(deltas).with_columns(lastFailureReason=pl.when(pl.col("reason") != "").then("reason"))
    return payment_documents(states)


def _money(name: str, meaning: str) -> tuple[Field, Field]:
    return (
        Field(f"{name}Minor", "long", "minor units", meaning),
        Field(name, "decimal", "units of the currency", "the same"),
    )


PAYMENTS = Projection(
    name=_NAME,
    version=2,
    columns=_COLUMNS,
    fields=(
        "organizationId",
        "userId",
        "currency",
        "status",
        "unreferenced",
        "amountMinor",
        "refundedMinor",
        "attempts",
        "failures",
        "refunds",
        "failuresBefore",
        "lastFailureReason",
        "openedAt",
        "firstAt",
        "lastAt",
        "completedAt",
        "firstRefundAt",
        "firstFailedAt",
        "version",
        "firstPosition",
        "position",
    ),
    fold=_fold,
    recall=_recall,
    merge=_merge,
    render=_render,
    starts=pl.col("since") == 1,
    by_stream=True,
    derived=(PAYMENT_STATES, REFUND_LATENCY, RETRY_RECOVERY),
    schema=(
        Field("_id", "string", "", "the payment's id"),
        Field("paymentId", "string", "", "the same"),
        ORGANIZATION,
        CURRENCY,
        Field(
            "status", "string", "", "what it has come to: failed, completed, partially_refunded or refunded"
        ),
        Field("userId", "string or null", "", "whose it is, as its first event that says so says"),
        Field("lastFailureReason", "string or null", "", "why its last failed attempt failed"),
        Field("completedAt", "date or null", "", "when an attempt went through"),
        Field("firstRefundAt", "date or null", "", "the earliest of its refunds"),
        Field("firstFailedAt", "date or null", "", "the earliest of its failed attempts"),
        Field("unreferenced", "bool", "", "a refund that names no payment"),
        *_money("amount", "what was processed; if nothing was: its last attempt; unreferenced: the refund"),
        *_money("refunded", "the sum of its refunds"),
        *_money("net", "processed minus refunded; 0 while failed; unreferenced: minus the refund"),
        Field("attempts", "int", "attempts", "that went through or failed"),
        Field("failures", "int", "attempts", "that failed"),
        Field("refunds", "int", "refunds", "how many there are"),
        Field("failuresBefore", "int", "attempts", "that failed before one went through, or so far"),
        Field("openedAt", "date", "", "when its first event happened"),
        Field("firstAt", "date", "", "the earliest of its events"),
        Field("lastAt", "date", "", "the latest of its events"),
        Field("version", "long", "events", "version of its last event"),
        Field("firstPosition", "long", "position", "of its first event"),
        Field("position", "long", "position", "of its last event"),
    ),
    indexes=(
        Index(
            _NAME,
            "payments_organization",
            (("organizationId", ASCENDING), ("firstPosition", DESCENDING)),
            "an organization's payments, the last opened first, page by page",
        ),
        Index(
            _NAME,
            "payments_organization_status",
            (("organizationId", ASCENDING), ("status", ASCENDING), ("firstPosition", DESCENDING)),
            "an organization's payments in one status, the last opened first, page by page",
        ),
        # What a page may be filtered on besides stands behind the sort: no document is read to be left out.
        Index(
            _NAME,
            "payments_organization_amount",
            (
                ("organizationId", ASCENDING),
                ("currency", ASCENDING),
                ("amountMinor", ASCENDING),
                ("firstPosition", ASCENDING),
                ("status", ASCENDING),
                ("openedAt", ASCENDING),
            ),
            "an organization's payments in one currency by amount, or in a range of amounts, page by page",
        ),
        Index(
            _NAME,
            "payments_organization_time",
            (
                ("organizationId", ASCENDING),
                ("openedAt", ASCENDING),
                ("firstPosition", ASCENDING),
                ("status", ASCENDING),
                ("currency", ASCENDING),
                ("amountMinor", ASCENDING),
            ),
            "an organization's payments by the time they were opened, or in a range of it, page by page",
        ),
    ),
)
