"""payment_trends: movements by organization, UTC day, currency and status; weeks and months sum up days."""

from __future__ import annotations

import polars as pl
from bson import Int64
from pymongo import ASCENDING

from ledgerlake.domain.money import exponent
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field
from ledgerlake.projections.movements import (
    COUNT,
    CURRENCY,
    INSTANT,
    ORGANIZATION,
    STATUS,
    amounts,
    movement_projection,
    movements,
    totals,
    with_status,
)

_BY = ("key", "organizationId", "day", "currency", "status")
_SCHEMA = {
    "key": pl.String,
    "organizationId": pl.String,
    "day": INSTANT,
    "currency": pl.String,
    "status": pl.String,
    "count": pl.Int64,
    "totalMinor": pl.Int64,
    "minMinor": pl.Int64,
    "maxMinor": pl.Int64,
}


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    # The day of the business time, however late the event was stored: a late one lands in its own day.
    day = pl.col("occurred_at").cast(INSTANT).dt.truncate("1d")
    rows = with_status(events).select(
        pl.concat_str(
            "organization_id",
            pl.lit("|"),
            day.dt.strftime("%Y-%m-%d"),
            pl.lit("|"),
            "currency",
            pl.lit("|"),
            "status",
        ).alias("key"),
        pl.col("organization_id").alias("organizationId"),
        day.alias("day"),
        "currency",
        "status",
        **movements(),
    )
    return _merge(rows)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    return totals(rows, _BY).select(list(_SCHEMA))


def _render(deltas: pl.DataFrame) -> list[Document]:
    return [
        {
            "_id": row["key"],
            "organizationId": row["organizationId"],
            "day": row["day"],
            "currency": row["currency"],
            "status": row["status"],
            "count": Int64(row["count"]),
            "totalMinor": Int64(row["totalMinor"]),
            "total": decimal128(row["totalMinor"], exponent(row["currency"])),
            "minMinor": Int64(row["minMinor"]),
            "maxMinor": Int64(row["maxMinor"]),
        }
        for row in deltas.iter_rows(named=True)
    ]


TRENDS = movement_projection(
    "payment_trends",
    1,
    _SCHEMA,
    fold=_fold,
    merge=_merge,
    render=_render,
    fields=(
        Field("_id", "string", "", "organization|day|currency|status"),
        ORGANIZATION,
        Field("day", "date", "", "the UTC day on which they happened, its midnight"),
        CURRENCY,
        STATUS,
        COUNT,
        *amounts("total", "min", "max"),
        Field("total", "decimal", "units of the currency", "total of the movements' amounts"),
    ),
    indexes=(
        Index(
            "payment_trends",
            "trends_organization",
            (
                ("organizationId", ASCENDING),
                ("day", ASCENDING),
                ("currency", ASCENDING),
                ("status", ASCENDING),
            ),
            "the days of one organization in a range",
        ),
        Index(
            "payment_trends", "trends_day", (("day", ASCENDING),), "the days of all organizations in a range"
        ),
    ),
)
