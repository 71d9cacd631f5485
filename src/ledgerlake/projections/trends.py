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
    DAY,
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

_KEY = pl.concat_str("organization_id", DAY.dt.strftime("%Y-%m-%d"), "currency", "status", separator="|")
_DELTAS = {**OF_ORGANIZATION, "day": Column(INSTANT, DAY), **OF_CURRENCY, **OF_STATUS, **TOTALS, **EXTREMES}


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
    key=_KEY,
    deltas=_DELTAS,
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
