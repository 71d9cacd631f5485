"""failure_reasons: failed attempts by organization, UTC day, currency and the reason that was given."""

from __future__ import annotations

import polars as pl
from bson import Int64
from pymongo import ASCENDING

from ledgerlake.domain.money import exponent
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field
from ledgerlake.projections.movements import (
    CURRENCY,
    INSTANT,
    ORGANIZATION,
    counts,
    movement_projection,
    with_status,
)

_NAME = "failure_reasons"
_BY = ("key", "organizationId", "day", "currency", "reason")
_SCHEMA = {
    "key": pl.String,
    "organizationId": pl.String,
    "day": INSTANT,
    "currency": pl.String,
    "reason": pl.String,
    "count": pl.Int64,
    "totalMinor": pl.Int64,
}


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    day = pl.col("occurred_at").cast(INSTANT).dt.truncate("1d")
    # An empty reason is none.
    reason = pl.when(pl.col("reason") != "").then(pl.col("reason"))
    rows = with_status(events).select(
        # Organization and reason may hold anything: the length of the one tells where the other begins.
        pl.concat_str(
            day.dt.strftime("%Y-%m-%d"),
            "currency",
            pl.col("organization_id").str.len_chars(),
            "organization_id",
            reason.fill_null(""),
            separator="|",
        ).alias("key"),
        pl.col("organization_id").alias("organizationId"),
        day.alias("day"),
        "currency",
        reason.alias("reason"),
        count=pl.lit(1, pl.Int64),
        totalMinor=pl.col("amount_minor"),
    )
    return _merge(rows)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    return counts(rows, _BY).select(list(_SCHEMA))


def _render(deltas: pl.DataFrame) -> list[Document]:
    return [
        {
            "_id": row["key"],
            "organizationId": row["organizationId"],
            "day": row["day"],
            "currency": row["currency"],
            "reason": row["reason"],
            "count": Int64(row["count"]),
            "totalMinor": Int64(row["totalMinor"]),
            "total": decimal128(row["totalMinor"], exponent(row["currency"])),
        }
        for row in deltas.iter_rows(named=True)
    ]


FAILURE_REASONS = movement_projection(
    _NAME,
    1,
    _SCHEMA,
    fold=_fold,
    merge=_merge,
    render=_render,
    columns=("reason",),
    events=frozenset({"PaymentFailed"}),
    fields=(
        Field("_id", "string", "", "day|currency|length of the organization|organization|reason"),
        ORGANIZATION,
        Field("day", "date", "", "the UTC day on which the attempts failed, its midnight"),
        CURRENCY,
        Field("reason", "string or null", "", "as the failure gave it; null where it gave none"),
        Field("count", "long", "attempts", "how many failed for the reason"),
        Field("totalMinor", "long", "minor units", "sum of what they tried to take"),
        Field("total", "decimal", "units of the currency", "the same"),
    ),
    indexes=(
        Index(
            _NAME,
            "failure_reasons_organization",
            (("organizationId", ASCENDING), ("day", ASCENDING)),
            "the days of one organization in a range",
        ),
        Index(
            _NAME, "failure_reasons_day", (("day", ASCENDING),), "the days of all organizations in a range"
        ),
    ),
)
