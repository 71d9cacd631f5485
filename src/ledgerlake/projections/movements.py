"""What statistics and trends share: totals of movements by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def with_status(events: pl.DataFrame) -> pl.DataFrame:
    """The events with the outcome that each gives its movement.

    Raises:
        ProjectionError: an event of a type or schema version that has none.
        MoneyError: a currency that is none of ISO 4217.
    """
    known = pl.col("event_type").is_in(list(EVENT_STATUS)) & (pl.col("schema_version") == SCHEMA_VERSION)
    for kind, version in events.filter(~known).select("event_type", "schema_version").iter_rows():
        raise ProjectionError(
            f"There is no event {kind} of schema version {version}.",
            "A newer program has written it: bring this one up to date.",
        )
    for currency in events["currency"].unique():
        exponent(currency)
    return events.with_columns(
        status=pl.col("event_type").replace_strict(EVENT_STATUS, return_dtype=pl.String)
    )


def counts(frame: pl.DataFrame, by: Sequence[str], **more: pl.Expr) -> pl.DataFrame:
    """Count and total of rows that hold the same, by key; `more` adds aggregates."""
    grouped = frame.group_by(by, maintain_order=True).agg(
        count=pl.col("count").sum(), totalMinor=int64_sum("totalMinor"), **more
    )
    return as_int64(grouped, "totalMinor")


def totals(frame: pl.DataFrame, by: Sequence[str], **more: pl.Expr) -> pl.DataFrame:
    """Count, total, min and max of rows that hold the same, by key; `more` adds aggregates."""
    return counts(frame, by, minMinor=pl.col("minMinor").min(), maxMinor=pl.col("maxMinor").max(), **more)


def movements() -> dict[str, pl.Expr]:
    """One event as a total of one."""
    amount = pl.col("amount_minor")
    return {
        "count": pl.lit(1, pl.Int64),
        "totalMinor": amount,
        "minMinor": amount,
        "maxMinor": amount,
    }


def movement_projection(
    name: str,
    version: int,
    schema: Mapping[str, Any],
    *,
    fold: Callable[[pl.DataFrame], pl.DataFrame],
    merge: Callable[[pl.DataFrame], pl.DataFrame],
    render: Callable[[pl.DataFrame], list[Document]],
    fields: tuple[Field, ...] = (),
    indexes: tuple[Index, ...] = (),
    columns: tuple[str, ...] = (),
    events: frozenset[str] | None = None,
) -> Projection:
    """A projection of totals; its documents have at least the fields of `schema`, with `key` as their _id.

    `fields` says what its documents hold, and `indexes` how they are found; it takes `columns` of the log
    besides those that all of them take, and only these `events`, if given.
    """

    def recall(documents: Sequence[Document]) -> pl.DataFrame:
        values = {
            column: [document["_id" if column == "key" else column] for document in documents]
            for column in schema
        }
        return pl.DataFrame(values, schema=dict(schema))

    return Projection(
        name=name,
        version=version,
        columns=(*COLUMNS, *columns),
        fields=tuple(column for column in schema if column != "key"),
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
