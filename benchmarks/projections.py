"""Advance of the payment read models over the whole log, against inserting the same documents raw."""

from __future__ import annotations

from benchmarks.measure import Figure, Scale, fill, insert_all, rate, scratch, twin
from ledgerlake.projections import PROJECTIONS, advance, reset

RAW_BATCH = 10_000


def run(scale: Scale) -> list[Figure]:
    """Events a second through fold and checkpoint, over documents a second of raw insert_many."""
    ratios: list[float] = []
    projection = PROJECTIONS["payment_read_models"]
    with scratch(scale) as (settings, database):
        fill(scale, database)
        for _ in range(scale.rounds):
            reset(database, projection)
            advanced = rate(
                scale.events, lambda: advance(database, projection, batch=settings.projection_batch)
            )
            documents = list(database["payment_read_models"].find())
            raw = twin(database, "raw", "payment_read_models")
            inserted = rate(len(documents), lambda d=documents, c=raw: insert_all(c, d, RAW_BATCH))
            ratios.append(advanced / inserted)
            scale.say(f"  advance {advanced:,.0f} ev/s, raw {inserted:,.0f} documents/s")
    note = f"{scale.events:,} events, batches of {settings.projection_batch:,}"
    return [Figure("payment read models advance", "raw insert_many of them", ratios, 0.50, note)]
