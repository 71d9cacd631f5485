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
    AT,
    COUNT,
    CURRENCY,
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

_NAME = "payment_quarters"
_QUARTER = AT.dt.truncate("15m")
_KEY = pl.concat_str(
    "organization_id", _QUARTER.dt.strftime("%Y-%m-%dT%H:%M"), "currency", "status", separator="|"
)
_DELTAS = {**OF_ORGANIZATION, "quarter": Column(INSTANT, _QUARTER), **OF_CURRENCY, **OF_STATUS, **TOTALS}


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
    key=_KEY,
    deltas=_DELTAS,
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
