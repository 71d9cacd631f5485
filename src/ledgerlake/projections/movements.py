"""What statistics and trends share: totals of movements by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from ledgerlake.domain.events import EVENT_STATUS, SCHEMA_VERSION
from ledgerlake.domain.money import exponent
from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field, Projection, ProjectionError, as_int64, int64_sum

# Fields that statistics and trends share.
ORGANIZATION = Field("organizationId", "string", "", "the organization")
CURRENCY = Field("currency", "string", "", "ISO 4217 code")
STATUS = Field("status", "string", "", "the outcome of the movements: completed, failed or refunded")
COUNT = Field("count", "long", "movements", "how many there are")


def amounts(*names: str) -> tuple[Field, ...]:
    """Amounts of movements in minor units, such as totalMinor."""
    return tuple(
        Field(f"{name}Minor", "long", "minor units", f"{name} of the movements' amounts") for name in names
    )


COLUMNS = ("event_type", "schema_version", "organization_id", "currency", "amount_minor", "occurred_at")
INSTANT = pl.Datetime("ms", "UTC")
# Expressions are made once: to make them costs more than to apply them to the rows of a live batch.
_UNKNOWN: Final = ~(
    pl.col("event_type").is_in(list(EVENT_STATUS)) & (pl.col("schema_version") == SCHEMA_VERSION)
)
_STATUS_OF: Final = pl.col("event_type").replace_strict(EVENT_STATUS, return_dtype=pl.String)


def with_status(events: pl.DataFrame) -> pl.DataFrame:
    """The events with the outcome that each gives its movement.

    Raises:
        ProjectionError: an event of a type or schema version that has none.
        MoneyError: a currency that is none of ISO 4217.
    """
    for kind, version in events.filter(_UNKNOWN).select("event_type", "schema_version").iter_rows():
        raise ProjectionError(
            f"There is no event {kind} of schema version {version}.",
            "A newer program has written it: bring this one up to date.",
        )
    for currency in events["currency"].unique():
        exponent(currency)
    return events.with_columns(status=_STATUS_OF)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of deltas: what it is for one event, and what it comes to over rows of one key.

    `together` is None for what the key is made of, which is the same in all of them.
    """

    kind: pl.DataType | type[pl.DataType]
    of: pl.Expr
    together: pl.Expr | None = None


_AMOUNT: Final = pl.col("amount_minor")
# When it happened in business, however late the event was stored: a late one lands in its own day.
AT: Final = pl.col("occurred_at").cast(INSTANT)
DAY: Final = AT.dt.truncate("1d")

OF_ORGANIZATION: Final = {"organizationId": Column(pl.String, pl.col("organization_id"))}
OF_CURRENCY: Final = {"currency": Column(pl.String, pl.col("currency"))}
OF_STATUS: Final = {"status": Column(pl.String, pl.col("status"))}
TOTALS: Final = {
    "count": Column(pl.Int64, pl.lit(1, pl.Int64), pl.col("count").sum()),
    "totalMinor": Column(pl.Int64, _AMOUNT, int64_sum("totalMinor")),
}
EXTREMES: Final = {
    "minMinor": Column(pl.Int64, _AMOUNT, pl.col("minMinor").min()),
    "maxMinor": Column(pl.Int64, _AMOUNT, pl.col("maxMinor").max()),
}


def movement_projection(
    name: str,
    version: int,
    *,
    key: pl.Expr,
    deltas: Mapping[str, Column],
    render: Callable[[pl.DataFrame], list[Document]],
    fields: tuple[Field, ...],
    indexes: tuple[Index, ...],
    columns: tuple[str, ...] = (),
    events: frozenset[str] | None = None,
) -> Projection:
    """A projection of totals by key.

    Args:
        key: of the document that an event counts in, out of the event's columns.
        deltas: the columns besides the key; stored documents have at least these fields.
        fields: what its documents hold, and `indexes` how they are found.
        columns: of the log, besides those that all of them take.
        events: the only event types that it takes, if given.
    """
    schema = {"key": pl.String, **{each: column.kind for each, column in deltas.items()}}
    of = {"key": key, **{each: column.of for each, column in deltas.items()}}
    by = ["key", *(each for each, column in deltas.items() if column.together is None)]
    together = {each: column.together for each, column in deltas.items() if column.together is not None}

    def fold(events: pl.DataFrame) -> pl.DataFrame:
        return merge(with_status(events).select(**of))

    def merge(rows: pl.DataFrame) -> pl.DataFrame:
        merged = rows.group_by(by, maintain_order=True).agg(**together)
        return as_int64(merged, "totalMinor").select(list(schema))

    def recall(documents: Sequence[Document]) -> pl.DataFrame:
        values = {
            column: [document["_id" if column == "key" else column] for document in documents]
            for column in schema
        }
        return pl.DataFrame(values, schema=schema)

    return Projection(
        name=name,
        version=version,
        columns=(*COLUMNS, *columns),
        fields=tuple(deltas),
        fold=fold,
        recall=recall,
        merge=merge,
        render=render,
        # Any group may have been there before.
        starts=pl.lit(False),
        schema=fields,
        indexes=indexes,
        events=events,
    )
