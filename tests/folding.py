"""What a log comes to, folded in memory in one batch: no checkpoint, no transaction, nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson
import polars as pl
from bson.codec_options import CodecOptions
from pymongo.database import Database

from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.columnar import head, read_columns
from ledgerlake.projections import Projection, Slot, checkpoint, collection_of, columns_of

Db = Database[dict[str, Any]]
# Collection (in its first generation): _id: document.
Models = dict[str, dict[str, dict[str, Any]]]

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


def fresh_fold(db: Db, projection: Projection, archive: ArchivedEvents = NO_ARCHIVE) -> Models:
    """The documents of a projection, and of the totals derived from it, that the whole log comes to."""
    table = read_columns(db, 0, head(db), columns_of(projection, Slot(projection.name)), archive)
    events = pl.from_arrow(table)
    assert isinstance(events, pl.DataFrame)
    if projection.events is not None:
        events = events.filter(pl.col("event_type").is_in(list(projection.events)))
    if not events.height:
        return {name: {} for name in projection.models}
    states = projection.fold(events.select(projection.columns))
    models: Models = {projection.name: {}}
    for document in projection.render(states):
        raw = document.raw if not isinstance(document, dict) else bson.encode(document)
        plain = bson.decode(raw, _AWARE)
        models[projection.name][plain["_id"]] = plain
    for derived in projection.derived:
        found = models[derived.name] = {}
        for row in derived.contributions(states).iter_rows(named=True):
            nothing = {"_id": row["key"], **dict.fromkeys(derived.totals, 0)}
            total = found.setdefault(row["key"], nothing | {name: row[name] for name in derived.by})
            for name in derived.totals:
                total[name] += row[name]
        models[derived.name] = {
            key: total for key, total in found.items() if any(total[name] for name in derived.totals)
        }
    return models


def stored(db: Db, projection: Projection) -> Models:
    """The live documents of a projection, and of the totals derived from it, the latter over all workers."""
    generation = checkpoint(db, projection.name).generation
    models: Models = {
        name: {document["_id"]: document for document in db[collection_of(name, generation)].find()}
        for name in projection.models
    }
    for derived in projection.derived:
        summed: dict[str, dict[str, Any]] = {}
        for document in models[derived.name].values():
            part = document.pop("part", None)
            key = document["_id"] if part is None else document["_id"].removesuffix(f"@{part}")
            before: Mapping[str, Any] = summed.get(key, dict.fromkeys(derived.totals, 0))
            totals = {name: before[name] + document[name] for name in derived.totals}
            summed[key] = {**document, "_id": key, **totals}
        models[derived.name] = {
            key: total for key, total in summed.items() if any(total[name] for name in derived.totals)
        }
    return models
