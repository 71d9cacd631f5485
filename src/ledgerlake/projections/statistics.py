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
    AT,
    COUNT,
    CURRENCY,
    EXTREMES,
    INSTANT,
    OF_CURRENCY,
    OF_ORGANIZATION,
    OF_STATUS,
    ORGANIZATION,
    STATUS,
    TOTALS,
    Column,
    amounts,
    movement_projection,
)

_KEY = pl.concat_str("organization_id", "status", "currency", separator="|")
_DELTAS = {
    **OF_ORGANIZATION,
    **OF_STATUS,
    **OF_CURRENCY,
    **TOTALS,
    **EXTREMES,
    "firstAt": Column(INSTANT, AT, pl.col("firstAt").min()),
    "lastAt": Column(INSTANT, AT, pl.col("lastAt").max()),
}


def average(total_minor: int, count: int, places: int) -> Decimal:
    """total / count in units, rounded half-even to two decimals more than the currency has."""
    with decimal.localcontext(prec=50):
        exact = Decimal(total_minor).scaleb(-places) / Decimal(count)
        return exact.quantize(Decimal(1).scaleb(-places - 2), rounding=decimal.ROUND_HALF_EVEN)


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
    key=_KEY,
    deltas=_DELTAS,
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
