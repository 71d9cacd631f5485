"""payment_read_models: the current state of every payment, one document a stream."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from bson import Int64

from ledgerlake.domain.events import EVENT_TYPES
from ledgerlake.domain.money import exponent
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.projections.model import Document, Projection, as_int64, int64_sum
from ledgerlake.projections.movements import INSTANT

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
    "reason",
    "unreferenced",
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
    "reason": pl.String,
    "unreferenced": pl.Boolean,
    "firstAt": INSTANT,
    "lastAt": INSTANT,
    "completedAt": INSTANT,
    "since": pl.Int64,
    "version": pl.Int64,
    "firstPosition": pl.Int64,
    "position": pl.Int64,
}


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    processed = pl.col("event_type") == "PaymentProcessed"
    failed = pl.col("event_type") == "PaymentFailed"
    refunded = pl.col("event_type") == "PaymentRefunded"
    amount = pl.col("amount_minor")
    at = pl.col("occurred_at").cast(INSTANT)
    rows = events.select(
        key=pl.col("payment_id"),
        organizationId=pl.col("organization_id"),
        userId=pl.col("user_id"),
        currency=pl.col("currency"),
        processed=pl.when(processed).then(amount),
        failed=pl.when(failed).then(amount),
        refunded=pl.when(refunded).then(amount).otherwise(0),
        attempts=(processed | failed).cast(pl.Int32),
        failures=failed.cast(pl.Int32),
        refunds=refunded.cast(pl.Int32),
        # A failure without a reason still is the last failure: its reason is the empty text until rendered.
        reason=pl.when(failed).then(pl.col("reason").fill_null("")),
        unreferenced=pl.col("unreferenced"),
        firstAt=at,
        lastAt=at,
        completedAt=pl.when(processed).then(at),
        since=pl.col("version"),
        version=pl.col("version"),
        firstPosition=pl.col("position"),
        position=pl.col("position"),
    )
    unknown = set(events["event_type"].unique()) - set(EVENT_TYPES)
    if unknown:
        raise ValueError(f"no such event type: {', '.join(sorted(unknown))}")
    for currency in events["currency"].unique():
        exponent(currency)
    return _merge(rows)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    merged = rows.group_by("key", maintain_order=True).agg(
        pl.col("organizationId", "currency", "since", "firstPosition").first(),
        pl.col("userId").drop_nulls().first(),
        pl.col("processed", "failed", "reason", "completedAt").drop_nulls().last(),
        int64_sum("refunded").alias("refunded"),
        pl.col("attempts", "failures", "refunds").sum(),
        pl.col("unreferenced").any(),
        pl.col("firstAt").min(),
        pl.col("lastAt").max(),
        pl.col("version", "position").last(),
    )
    return as_int64(merged, "refunded").select(pl.col(name).cast(kind) for name, kind in _SCHEMA.items())


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
            "reason": (document["lastFailureReason"] or "") if document["failures"] else None,
            "unreferenced": document["unreferenced"],
            "firstAt": document["firstAt"],
            "lastAt": document["lastAt"],
            "completedAt": document["completedAt"],
            "since": 1,
            "version": document["version"],
            "firstPosition": document["firstPosition"],
            "position": document["position"],
        }
        for document in documents
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _render(deltas: pl.DataFrame) -> list[Document]:
    processed = pl.col("processed")
    refunded = pl.col("refunded")
    amount = pl.coalesce(pl.when("unreferenced").then(refunded), processed, "failed")
    states = deltas.with_columns(
        status=pl.when("unreferenced")
        .then(pl.lit("refunded"))
        .when(processed.is_null())
        .then(pl.lit("failed"))
        .when(refunded == 0)
        .then(pl.lit("completed"))
        .when(refunded < processed)
        .then(pl.lit("partially_refunded"))
        .otherwise(pl.lit("refunded")),
        amount=amount,
        net=processed.fill_null(0) - refunded,
        reason=pl.when(pl.col("reason") != "").then("reason"),
    )
    documents: list[Document] = []
    columns = (
        "key", "organizationId", "userId", "currency", "status", "unreferenced", "amount", "refunded", "net",
        "attempts", "failures", "refunds", "reason", "firstAt", "lastAt", "completedAt", "version",
        "firstPosition", "position",
    )  # fmt: skip
    # Tuples, not dicts: this loop runs once for every payment of a batch, and is where the time goes.
    for (
        key, organization, user, currency, status, unreferenced, minor, back, net,
        attempts, failures, refunds, reason, first_at, last_at, completed_at, version,
        first_position, position,
    ) in states.select(columns).iter_rows():  # fmt: skip
        places = exponent(currency)
        documents.append(
            {
                "_id": key,
                "paymentId": key,
                "organizationId": organization,
                "userId": user,
                "currency": currency,
                "status": status,
                "unreferenced": unreferenced,
                "amountMinor": Int64(minor),
                "amount": decimal128(minor, places),
                "refundedMinor": Int64(back),
                "refunded": decimal128(back, places),
                "netMinor": Int64(net),
                "net": decimal128(net, places),
                "attempts": attempts,
                "failures": failures,
                "refunds": refunds,
                "lastFailureReason": reason,
                "firstAt": first_at,
                "lastAt": last_at,
                "completedAt": completed_at,
                "version": Int64(version),
                "firstPosition": Int64(first_position),
                "position": Int64(position),
            }
        )
    return documents


PAYMENTS = Projection(
    name="payment_read_models",
    version=1,
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
        "lastFailureReason",
        "firstAt",
        "lastAt",
        "completedAt",
        "version",
        "firstPosition",
        "position",
    ),
    fold=_fold,
    recall=_recall,
    merge=_merge,
    render=_render,
    # A stream that starts in this batch has no document yet: only the others are looked up.
    known=lambda deltas: deltas.filter(pl.col("since") > 1)["key"].to_list(),
)
