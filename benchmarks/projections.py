"""Advance of the payment read models over the whole log, against inserting the same documents raw."""

from __future__ import annotations

from benchmarks.measure import Figure, Scale, fill, insert_all, rate, scratch, twin
from ledgerlake.projections import PROJECTIONS, advance, reset

RAW_BATCH = 10_000


def run(scale: Scale) -> list[Figure]:
    """Events a second through fold and checkpoint, over documents a second of raw insert_many.

    Two logs: one where every event opens a payment, so that both sides write the same documents; and one
    where each sixth is a refund of some earlier payment, so that advance also reads and replaces some.
    """
    return [
        _measure(scale, "payment read models advance, payments only", 0.50, refunds=False),
        _measure(scale, "payment read models advance, each sixth a refund", None, refunds=True),
    ]


def _measure(scale: Scale, name: str, target: float | None, *, refunds: bool) -> Figure:
    ratios: list[float] = []
    projection = PROJECTIONS["payment_read_models"]
    with scratch(scale) as (settings, database):
        fill(scale, database, refunds=refunds)
        for _ in range(scale.rounds):
            reset(database, projection)
            advanced = rate(
                scale.events, lambda: advance(database, projection, batch=settings.projection_batch)
            )
            documents = list(database["payment_read_models"].find(batch_size=10_000))
            raw = twin(database, "raw", "payment_read_models")
            inserted = rate(len(documents), lambda d=documents, c=raw: insert_all(c, d, RAW_BATCH))
            ratios.append(advanced / inserted)
            scale.say(f"  advance {advanced:,.0f} ev/s, raw {inserted:,.0f} documents/s")
    note = f"{scale.events:,} events, batches of {settings.projection_batch:,}"
    return Figure(name, "raw insert_many of the read models", ratios, target, note)
