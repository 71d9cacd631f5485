"""Refresh of the lake from an empty one, against reading the same events raw."""

from __future__ import annotations

from benchmarks.measure import Db, Figure, Scale, child, fill, rate, scratch

REFRESH = """
import time, shutil
from ledgerlake.application import LedgerLake
with LedgerLake.open() as ledger:
    shutil.rmtree(ledger.settings.lake_dir, ignore_errors=True)
    started = time.perf_counter()
    done = ledger.lake.refresh(ledger.db)
    result = {"rate": done.events / (time.perf_counter() - started), "events": done.events}
"""


def run(scale: Scale) -> list[Figure]:
    """The whole log into sealed Parquet segments, fsynced; memory is that of the refreshing process."""
    ratios: list[float] = []
    peak = 0
    with scratch(scale) as (settings, database):
        fill(scale, database)
        for number in range(scale.rounds + 1):
            read = rate(scale.events, lambda: _read(database))
            refreshed = child(settings, REFRESH)
            if number == 0:
                continue  # the first round fills the server's cache
            ratios.append(refreshed["rate"] / read)
            peak = max(peak, refreshed["peak_mb"])
            scale.say(
                f"  refresh {refreshed['rate']:,.0f} ev/s, raw {read:,.0f}/s, peak {refreshed['peak_mb']} MB"
            )
    note = f"{scale.events:,} events; peak memory {peak} MB (limit 500)"
    return [Figure("lake refresh", "raw find_raw_batches", ratios, 0.50, note)]


def _read(database: Db) -> int:
    size = 0
    for batch in database["events"].find_raw_batches({"position": {"$gt": 0}}, sort=[("position", 1)]):
        size += len(batch)
    return size
