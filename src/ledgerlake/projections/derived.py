"""Totals over a projection's documents: what changed documents counted for goes out, what they do now in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
from bson import Int64
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from ledgerlake.mongo.steps import Steps
from ledgerlake.projections.checkpoints import Part, Slot, collection_of
from ledgerlake.projections.model import Derived, ProjectionError, as_int64, int64_sum, too_large

_BAD_VALUE: Final = 2
# From so many changes on it pays to look which totals are there and to insert the others: an upsert costs the
# server several inserts. For fewer the round trip costs more.
_LOOK_FROM: Final = 100
_LIKE: Final = "like a worker's"
_LIKE_A_WORKERS: Final = pl.col("key").str.contains(r"@\d+$").alias(_LIKE)


def contributed(derived: Derived, states: pl.DataFrame) -> pl.DataFrame:
    """What these rows of deltas, each the whole state of a document, count for: of no shape if for nothing.

    Raises:
        ProjectionError: a key that could be mistaken for that of a worker.
    """
    rows = derived.contributions(states)
    if not rows.height:
        return rows
    found = rows.select(
        pl.col("key").cast(pl.String),
        *derived.by,
        *(pl.col(total).cast(pl.Int64) for total in derived.totals),
        _LIKE_A_WORKERS,
    )
    like = found.drop_in_place(_LIKE)
    for key in found["key"].filter(like) if like.any() else ():
        raise ProjectionError(
            f"The key {key!r} of {derived.name} ends in @ and a number, as those of workers do.",
            "Let its contributions make other keys.",
        )
    return found


def change(derived: Derived, now: Sequence[pl.DataFrame], before: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """What is added to each key's totals, by contributions of now and of before; no row adds nothing.

    Raises:
        ProjectionError: a sum does not fit 64 bits.
    """
    out = [frame.with_columns(-pl.col(*derived.totals)) for frame in before if frame.height]
    frames = [frame for frame in now if frame.height] + out
    if not frames:
        return pl.DataFrame(schema=["key"])
    rows = pl.concat(frames, how="vertical")
    summed = rows.group_by("key", maintain_order=True).agg(
        pl.col(*derived.by).first(), *(int64_sum(total).alias(total) for total in derived.totals)
    )
    moved = summed.filter(pl.any_horizontal(pl.col(total) != 0 for total in derived.totals))
    return as_int64(moved, *derived.totals)


def add(db: Any, derived: Derived, slot: Slot, changes: pl.DataFrame, session: Any) -> Steps[None]:
    """Add changes to the stored totals. Raises ProjectionError where a sum does not fit 64 bits.

    The workers of a split projection each keep totals of their own, in documents of their own (`key@k`, with
    the field `part`), so that they never wait for one another: what a key comes to is the sum over them.
    """
    if not changes.height:
        return
    collection = db[collection_of(derived.name, slot.generation)]
    ids = [_id(key, slot.part) for key in changes["key"]]
    there = set(ids)
    if len(ids) >= _LOOK_FROM:
        found = collection.find({"_id": {"$in": ids}}, {"_id": 1}, session=session)
        there = {document["_id"] for document in (yield found.to_list())}
    part = {} if slot.part is None else {"part": slot.part.number}
    longs = [name for name, kind in changes.schema.items() if kind == pl.Int64]
    begun, moved = [], []
    for key, row in zip(ids, changes.iter_rows(named=True), strict=True):
        row |= {name: Int64(row[name]) for name in longs if row[name] is not None}
        by = {name: row[name] for name in derived.by} | part
        totals = {total: row[total] for total in derived.totals}
        if key in there:
            moved.append(UpdateOne({"_id": key}, {"$inc": totals, "$setOnInsert": by}, upsert=True))
        else:
            # In the order in which the server puts the fields of an upsert.
            begun.append({"_id": key, **dict(sorted((by | totals).items()))})
    try:
        if begun:
            yield collection.insert_many(begun, ordered=False, session=session)
        if moved:
            yield collection.bulk_write(moved, ordered=False, session=session)
    except BulkWriteError as error:
        for failed in error.details.get("writeErrors", ()):
            # The server does not let a long overflow.
            if failed.get("code") == _BAD_VALUE and "$inc" in failed.get("errmsg", ""):
                raise too_large(f"in {derived.name}", failed["op"]["q"]["_id"]) from error
        raise
    # Totals can only have come to 0 where something was taken out, or where a part's were below 0.
    shrunk = changes
    if slot.part is None:
        shrunk = changes.filter(pl.any_horizontal(pl.col(total) < 0 for total in derived.totals))
    if shrunk.height:
        touched = [_id(key, slot.part) for key in shrunk["key"]]
        nothing = {"_id": {"$in": touched}, **dict.fromkeys(derived.totals, 0)}
        yield collection.delete_many(nothing, session=session)


def _id(key: str, part: Part | None) -> str:
    return key if part is None else f"{key}@{part.number}"
