"""payment_quarters: movements by organization, quarter of an hour, currency and status.

What trends in any time zone are made of: `ledgerlake.queries.zones`.
"""

from __future__ import annotations

import polars as pl
from bson import Int64
from pymongo import ASCENDING

from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field
from ledgerlake.projections.movements import (
    COUNT,
    CURRENCY,
    INSTANT,
    ORGANIZATION,
    STATUS,
    amounts,
    counts,
    movement_projection,
    with_status,
)

_NAME = "payment_quarters"
_BY = ("key", "organizationId", "quarter", "currency", "status")
_SCHEMA = {
    "key": pl.String,
    "organizationId": pl.String,
    "quarter": INSTANT,
    "currency": pl.String,
    "status": pl.String,
    "count": pl.Int64,
    "totalMinor": pl.Int64,
}


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    # Of the business time, however late the event was stored.
    quarter = pl.col("occurred_at").cast(INSTANT).dt.truncate("15m")
    rows = with_status(events).select(
        pl.concat_str(
            "organization_id", quarter.dt.strftime("%Y-%m-%dT%H:%M"), "currency", "status", separator="|"
        ).alias("key"),
        pl.col("organization_id").alias("organizationId"),
        quarter.alias("quarter"),
        "currency",
        "status",
        count=pl.lit(1, pl.Int64),
        totalMinor=pl.col("amount_minor"),
    )
    return _merge(rows)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    return counts(rows, _BY).select(list(_SCHEMA))


def _render(deltas: pl.DataFrame) -> list[Document]:
    return [
        {
            "_id": key,
            "organizationId": organization,
            "quarter": quarter,
            "currency": currency,
            "status": status,
            "count": Int64(count),
            "totalMinor": Int64(total),
        }
        for key, organization, quarter, currency, status, count, total in deltas.iter_rows()
    ]


PAYMENT_QUARTERS = movement_projection(
    _NAME,
    1,
    _SCHEMA,
    fold=_fold,
    merge=_merge,
    render=_render,
    fields=(
        Field("_id", "string", "", "organization|quarter|currency|status"),
        ORGANIZATION,
        Field("quarter", "date", "", "when the quarter of an hour begins in which they happened, UTC"),
        CURRENCY,
        STATUS,
        COUNT,
        *amounts("total"),
    ),
    indexes=(
        Index(
            _NAME,
            "quarters_organization",
            (("organizationId", ASCENDING), ("quarter", ASCENDING)),
            "the quarters of one organization in a range",
        ),
        Index(
            _NAME, "quarters_time", (("quarter", ASCENDING),), "the quarters of all organizations in a range"
        ),
    ),
)
