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
    DAY,
    INSTANT,
    OF_CURRENCY,
    OF_ORGANIZATION,
    ORGANIZATION,
    TOTALS,
    Column,
    movement_projection,
)

_NAME = "failure_reasons"
# An empty reason is none.
_REASON = pl.when(pl.col("reason") != "").then(pl.col("reason"))
# Organization and reason may hold anything: the length of the one tells where the other begins.
_KEY = pl.concat_str(
    DAY.dt.strftime("%Y-%m-%d"),
    "currency",
    pl.col("organization_id").str.len_chars(),
    "organization_id",
    _REASON.fill_null(""),
    separator="|",
)
_DELTAS = {
    **OF_ORGANIZATION,
    "day": Column(INSTANT, DAY),
    **OF_CURRENCY,
    "reason": Column(pl.String, _REASON),
    **TOTALS,
}


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
    key=_KEY,
    deltas=_DELTAS,
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
