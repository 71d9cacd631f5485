"""Import of a real file, against raw inserts of the events that it leads to."""

from __future__ import annotations

import polars as pl

from benchmarks.measure import Figure, Scale, child, insert_all, rate, scratch, twin

IMPORT = """
import sys, time
from pathlib import Path
from ledgerlake.application import LedgerLake
with LedgerLake.open() as ledger:
    started = time.perf_counter()
    summary = ledger.import_file(Path(sys.argv[1]))
    seconds = time.perf_counter() - started
    result = {"rate": summary.rows / seconds, "rows": summary.rows}
"""
BATCH = 500


def run(scale: Scale) -> list[Figure]:
    """uk_public_spend in slices: one imported by a process of its own, then its events inserted raw."""
    source = scale.shared_data / "uk_public_spend" / "commands.parquet"
    if not source.exists():
        scale.say(f"  left out: {source} is not there")
        return []
    rows = pl.read_parquet(source)
    slices = max(scale.rounds, 6)
    height = -(-rows.height // slices)
    ratios: list[float] = []
    peak = 0
    with scratch(scale) as (settings, database):
        settings.home.mkdir(parents=True, exist_ok=True)
        raw = twin(database, "raw", "events")
        after = 0
        for number in range(slices):
            path = settings.home / f"slice-{number}.parquet"
            rows.slice(number * height, height).write_parquet(path)
            imported = child(settings, IMPORT, str(path))
            documents = list(database["events"].find({"position": {"$gt": after}}).sort("position", 1))
            after += len(documents)
            inserted = rate(len(documents), lambda d=documents: insert_all(raw, d, BATCH))
            ratios.append(imported["rate"] / inserted)
            peak = max(peak, imported["peak_mb"])
            scale.say(
                f"  {imported['rows']:,} rows: {imported['rate']:,.0f} rows/s, raw {inserted:,.0f}/s, "
                f"peak {imported['peak_mb']} MB"
            )
    note = f"{rows.height:,} rows; peak memory {peak} MB (limit 500)"
    return [Figure("import of uk_public_spend", "raw insert_many of its events", ratios, 0.35, note)]
