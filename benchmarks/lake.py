"""The lake: its refresh against reading the same events raw, a few events on many, and trends out of it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from bson import Int64

from benchmarks.measure import Db, Figure, Scale, child, events, fill, rate, scratch
from ledgerlake.eventstore.columnar import head
from ledgerlake.lake.definitions import TRENDS
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.settings import Settings

SHORT = 100_000
NEW = 1_000
# So few events take a tenth of a second, most of it the disk's: one round says nothing.
NEW_ROUNDS = 20
MEMORY_MB = 500

REFRESH = """
import sys, time, shutil
from ledgerlake.application import LedgerLake
from ledgerlake.lake.event_lake import EventLake
with LedgerLake.open() as ledger:
    shutil.rmtree(ledger.settings.lake_dir, ignore_errors=True)
    lake = EventLake(ledger.settings.lake_dir, int(sys.argv[2]))
    started = time.perf_counter()
    done = lake.refresh(ledger.db, up_to=int(sys.argv[1]))
    result = {"rate": done.events / (time.perf_counter() - started), "events": done.events}
"""


def run(scale: Scale) -> list[Figure]:
    """One log of five times the events: twice the events from nothing, then a thousand more on all of it."""
    short = min(SHORT, scale.events)
    with scratch(scale) as (made, long), scratch(scale) as (made_for_few, few):
        # Both end with full segments: the last one is what a refresh writes again.
        settings, few_settings = (replace(each, segment_size=short) for each in (made, made_for_few))
        fill(replace(scale, events=5 * scale.events), long)
        refreshed = _from_nothing(scale, settings, long)
        fill(replace(scale, events=short), few)
        on_many = _on_many(scale, (few_settings, few), (settings, long))
    return [*refreshed, on_many, _trends(scale)]


def _from_nothing(scale: Scale, settings: Settings, database: Db) -> list[Figure]:
    """Sealed Parquet segments, fsynced; memory is that of the refreshing process."""
    many = 2 * scale.events
    ratios: list[float] = []
    peaks: list[int] = []
    for number in range(scale.rounds + 1):
        read = rate(many, lambda: _read(database, many))
        refreshed = child(settings, REFRESH, str(many), str(settings.segment_size))
        if number == 0:
            continue  # the first round fills the server's cache
        ratios.append(refreshed["rate"] / read)
        peaks.append(refreshed["peak_mb"])
        scale.say(
            f"  refresh {refreshed['rate']:,.0f} ev/s, raw {read:,.0f}/s, peak {refreshed['peak_mb']} MB"
        )
    return [
        Figure("lake refresh", "raw find_raw_batches", ratios, 0.50, f"{many:,} events"),
        Figure(
            f"{MEMORY_MB} MB of memory",
            "peak of the lake's refresh",
            [MEMORY_MB / peak for peak in peaks],
            1.0,
            f"{many:,} events; at most {max(peaks)} MB",
        ),
    ]


def _on_many(scale: Scale, few: tuple[Settings, Db], many: tuple[Settings, Db]) -> Figure:
    """A thousand new events, by a process that has not looked at the lake before."""
    for settings, database in (few, many):
        _lake(settings).refresh(database)
    short, long = (head(database) for _, database in (few, many))
    ratios: list[float] = []
    for number in range(max(scale.rounds, NEW_ROUNDS) + 1):
        on_few, on_many = (_more(settings, database) for settings, database in (few, many))
        if number:
            ratios.append(on_many / on_few)
            scale.say(f"  {NEW:,} events on {short:,}: {on_few:,.0f} ev/s, on {long:,}: {on_many:,.0f} ev/s")
    note = "lake; at least 1 / 1.3: at most 1.3 times the time"
    return Figure(f"{NEW:,} events on {long:,}", f"on {short:,}", ratios, round(1 / 1.3, 2), note)


def _trends(scale: Scale) -> Figure:
    """Movements per organization, day, currency and outcome: the definition against an aggregation."""
    by = {
        "organization": "$metadata.organizationId",
        "day": {"$dateTrunc": {"date": "$timestamp", "unit": "day"}},
        "currency": "$eventData.currency",
        "type": "$eventType",
    }
    minor = "$eventData.amountMinor"
    figures = {"count": {"$sum": 1}, "total": {"$sum": minor}, "min": {"$min": minor}, "max": {"$max": minor}}
    pipeline = [{"$group": {"_id": by, **figures}}]
    ratios: list[float] = []
    with scratch(scale) as (settings, database):
        fill(scale, database)
        _lake(settings).refresh(database)
        for number in range(scale.rounds + 1):
            ours = rate(1, lambda: _trends_of(settings))
            theirs = rate(1, lambda: list(database["events"].aggregate(pipeline)))
            if number:
                ratios.append(ours / theirs)
                scale.say(f"  trends: lake {1000 / ours:,.0f} ms, aggregation {1000 / theirs:,.0f} ms")
        groups = list(database["events"].aggregate(pipeline))
        totals = sorted((each["count"], each["total"], each["min"], each["max"]) for each in groups)
        names = ("count", "total_minor", "min_minor", "max_minor")
        columns = _trends_of(settings).select(names).to_pydict()
        assert sorted(zip(*(columns[name] for name in names), strict=True)) == totals
    note = f"{scale.events:,} events"
    return Figure("trends by DuckDB over the lake", "MongoDB's aggregation of the log", ratios, 20, note)


def _trends_of(settings: Settings) -> pa.Table:
    with _lake(settings).duckdb() as connection:
        return TRENDS["day"].run(connection)


def _lake(settings: Settings) -> EventLake:
    return EventLake(settings.lake_dir, settings.segment_size)


def _more(settings: Settings, database: Db) -> float:
    old = head(database)
    [batch] = events(NEW, refunds=False, seed=old)
    for number, event in enumerate(batch, start=old + 1):
        event["position"] = Int64(number)
        event["aggregateId"] = f"payment-{number:09d}"
        event["commandId"] = event["correlationId"] = event["causationId"] = f"command-{number:09d}"
    database["events"].insert_many(batch)
    database["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(old + NEW)}})
    return rate(NEW, lambda: _lake(settings).refresh(database))


def _read(database: Db, up_to: int) -> int:
    size = 0
    wanted = {"position": {"$gt": 0, "$lte": up_to}}
    for batch in database["events"].find_raw_batches(wanted, sort=[("position", 1)]):
        size += len(batch)
    return size
