"""payment_statistics: count, total, average, min and max of movements by organization, status, currency."""

from __future__ import annotations

import decimal
from decimal import Decimal

import polars as pl
from bson import Decimal128, Int64
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

_BY = ("key", "organizationId", "status", "currency")
_SCHEMA = {
    "key": pl.String,
    "organizationId": pl.String,
    "status": pl.String,
    "currency": pl.String,
    "count": pl.Int64,
    "totalMinor": pl.Int64,
    "minMinor": pl.Int64,
    "maxMinor": pl.Int64,
    "firstAt": INSTANT,
    "lastAt": INSTANT,
}


def average(total_minor: int, count: int, places: int) -> Decimal:
    """total / count in units, rounded half-even to two decimals more than the currency has."""
    with decimal.localcontext(prec=50):
        exact = Decimal(total_minor).scaleb(-places) / Decimal(count)
        return exact.quantize(Decimal(1).scaleb(-places - 2), rounding=decimal.ROUND_HALF_EVEN)


def _fold(events: pl.DataFrame) -> pl.DataFrame:
    rows = with_status(events).select(
        pl.concat_str("organization_id", pl.lit("|"), "status", pl.lit("|"), "currency").alias("key"),
        pl.col("organization_id").alias("organizationId"),
        "status",
        "currency",
        **movements(),
        firstAt=pl.col("occurred_at").cast(INSTANT),
        lastAt=pl.col("occurred_at").cast(INSTANT),
    )
    return _merge(rows)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    merged = totals(rows, _BY, firstAt=pl.col("firstAt").min(), lastAt=pl.col("lastAt").max())
    return merged.select(list(_SCHEMA))


def _render(deltas: pl.DataFrame) -> list[Document]:
    documents: list[Document] = []
    for row in deltas.iter_rows(named=True):
        places = exponent(row["currency"])
        documents.append(
            {
                "_id": row["key"],
                "organizationId": row["organizationId"],
                "status": row["status"],
                "currency": row["currency"],
                "count": Int64(row["count"]),
                "totalMinor": Int64(row["totalMinor"]),
                "total": decimal128(row["totalMinor"], places),
                "average": Decimal128(average(row["totalMinor"], row["count"], places)),
                "minMinor": Int64(row["minMinor"]),
                "min": decimal128(row["minMinor"], places),
                "maxMinor": Int64(row["maxMinor"]),
                "max": decimal128(row["maxMinor"], places),
                "firstAt": row["firstAt"],
                "lastAt": row["lastAt"],
            }
        )
    return documents


def _units(name: str) -> Field:
    return Field(name, "decimal", "units of the currency", f"{name} of the movements' amounts")


STATISTICS = movement_projection(
    "payment_statistics",
    1,
    _SCHEMA,
    fold=_fold,
    merge=_merge,
    render=_render,
    fields=(
        Field("_id", "string", "", "organization|status|currency"),
        ORGANIZATION,
        STATUS,
        CURRENCY,
        COUNT,
        *amounts("total", "min", "max"),
        _units("total"),
        Field("average", "decimal", "units of the currency", "total by count, to two decimals more"),
        _units("min"),
        _units("max"),
        Field("firstAt", "date", "", "when the first of them happened"),
        Field("lastAt", "date", "", "when the last of them happened"),
    ),
    indexes=(
        Index(
            "payment_statistics",
            "statistics_organization",
            (("organizationId", ASCENDING), ("status", ASCENDING), ("currency", ASCENDING)),
            "the statistics of one organization",
        ),
    ),
)
