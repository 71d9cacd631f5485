"""A projection for those who do not speak Polars: a document is folded event by event, in Python.

It runs through the same engine, as often and as exactly once as any other. It costs a Python call an event,
and a lookup for each document that a batch touches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

import bson
import polars as pl
from bson.codec_options import CodecOptions

from ledgerlake.eventstore.event_columns import SCHEMA, schema_of
from ledgerlake.mongo.indexes import Index
from ledgerlake.projections.model import Document, Field, Projection, ProjectionError

# An event by the columns of the log: position, event_id, payment_id, event_type, version, occurred_at ...
Event: TypeAlias = Mapping[str, Any]

_AWARE: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True)


def per_event(
    name: str,
    version: int,
    *,
    key: Callable[[Event], str | None],
    fold: Callable[[Document | None, Event], Document],
    events: Collection[str] | None = None,
    columns: Sequence[str] = tuple(SCHEMA.names),
    schema: Sequence[Field] = (),
    indexes: Sequence[Index] = (),
    by_stream: bool = False,
) -> Projection:
    """A projection of documents that are folded one event after the other.

    Args:
        name: of the projection and its collection: small letters, digits and single underscores.
        version: of this definition; another one is rebuilt from the start of the log.
        key: the `_id` of the document that an event changes; None if it changes none.
        fold: the document after an event, given the one before it (None: there is none yet). It has to say
            the same whenever it is asked, and may change the document that it is given.
        events: the event types it takes; None: all.
        columns: of the log that the two functions read, by their names in the data dictionary.
        by_stream: every key is the stream's own id (`payment_id`), so that it may be split over workers.

    What the two functions raise stops the projection at the event, or sets that aside, like any other event
    that can not be folded.
    """

    rows_of_events = pl.from_arrow(schema_of(columns).empty_table())
    assert isinstance(rows_of_events, pl.DataFrame)
    deltas_schema = {
        "key": pl.String(),
        "document": pl.Binary(),
        "events": pl.List(pl.Struct(rows_of_events.schema)),
    }

    def folded(rows: pl.DataFrame) -> pl.DataFrame:
        keys = [_called(name, key, event) for event in rows.iter_rows(named=True)]
        told = rows.select(key=pl.Series(keys, dtype=pl.String), event=pl.struct(pl.all()))
        return (
            told.filter(pl.col("key").is_not_null())
            .group_by("key", maintain_order=True)
            .agg(document=pl.lit(None, pl.Binary), events="event")
        )

    def recall(documents: Sequence[Document]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "key": [document["_id"] for document in documents],
                "document": [bson.encode(document) for document in documents],
                "events": [[] for _ in documents],
            },
            schema=deltas_schema,
        )

    def merge(deltas: pl.DataFrame) -> pl.DataFrame:
        return deltas.group_by("key", maintain_order=True).agg(
            pl.col("document").drop_nulls().first(), pl.col("events").explode().drop_nulls()
        )

    def render(deltas: pl.DataFrame) -> list[Document]:
        documents = []
        for row in deltas.iter_rows(named=True):
            held = row["document"]
            document = None if held is None else bson.decode(held, _AWARE)
            for event in row["events"]:
                document = _called(name, fold, document, event)
            documents.append({**(document or {}), "_id": row["key"]})
        return documents

    return Projection(
        name=name,
        version=version,
        columns=tuple(columns),
        fields=(),
        fold=folded,
        recall=recall,
        merge=merge,
        render=render,
        starts=pl.lit(False),
        events=None if events is None else frozenset(events),
        schema=tuple(schema),
        indexes=tuple(indexes),
        by_stream=by_stream,
    )


def _called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of somebody else comes to; whatever it raises is an event that can not be folded."""
    try:
        return function(*arguments)
    except Exception as error:
        position = arguments[-1].get("position")
        raise ProjectionError(
            f"{name} can not take the event at position {position} ({type(error).__name__}: {error})."
        ) from error
