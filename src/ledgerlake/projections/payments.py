"""payment_read_models: the current state of every payment, one document a stream."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from bson.raw_bson import RawBSONDocument

from ledgerlake.projections.model import Document, Projection, as_int64, int64_sum, not_in_step
from ledgerlake.projections.movements import INSTANT, with_status
from ledgerlake.projections.payment_documents import payment_documents

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
    events = with_status(events)
    processed = pl.col("status") == "completed"
    failed = pl.col("status") == "failed"
    refunded = pl.col("status") == "refunded"
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
        versions=(pl.col("version") - pl.col("since") + 1).sum(),
    )
    for key, since, version, versions in merged.filter(
        pl.col("versions") != pl.col("version") - pl.col("since") + 1
    ).select("key", "since", "version", "versions").iter_rows():  # fmt: skip
        raise not_in_step(_NAME, f"counts {versions} events of {key!r} in its versions {since} to {version}")
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


def _render(deltas: pl.DataFrame) -> list[RawBSONDocument]:
    for key, since in deltas.filter(pl.col("since") != 1).select("key", "since").iter_rows():
        raise not_in_step(_NAME, f"has taken the events of {key!r} before version {since}, but lacks it")
    processed = pl.col("processed")
    refunded = pl.col("refunded")
    amount = pl.coalesce(pl.when("unreferenced").then(refunded), processed, "failed")
    net = processed.fill_null(0) - refunded
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
        amountMinor=amount,
        refundedMinor=refunded,
        netMinor=net,
        lastFailureReason=pl.when(pl.col("reason") != "").then("reason"),
    )
    return payment_documents(states)


PAYMENTS = Projection(
    name=_NAME,
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
    starts=pl.col("since") == 1,
)
