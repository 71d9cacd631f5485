"""Advance of projections: against raw inserts, on logs of two lengths, and by two processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

from bson import Int64

from benchmarks.measure import Db, Figure, Scale, environment, events, fill, insert_all, rate, scratch, twin
from ledgerlake.eventstore.columnar import head
from ledgerlake.projections import PROJECTIONS, Projection, advance, open_slot, split
from ledgerlake.projections.checkpoints import Slot
from ledgerlake.settings import Settings

RAW_BATCH = 10_000
PAYMENTS, STATISTICS = PROJECTIONS["payment_read_models"], PROJECTIONS["payment_statistics"]

# Ready, then at work from one moment on: what is measured is the work, not the start of Python.
WORKER = """
import json, sys, time
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance, part_slot
from ledgerlake.settings import Settings
settings = Settings.from_env()
db = open_database(settings)
projection = PROJECTIONS["payment_read_models"]
slot = part_slot(db, projection, int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
started = time.time()
events = advance(db, projection, batch=settings.projection_batch, slot=slot).events
print(json.dumps([started, time.time(), events]))
"""


def run(scale: Scale) -> list[Figure]:
    """Events a second through fold and checkpoint, over documents a second of raw insert_many.

    Two logs: one where every event opens a payment, so that both sides write the same documents; and one
    where each sixth is a refund of some earlier payment, so that advance also reads and replaces some.
    Then the same projection by two processes against one, and a thousand events on a short and a long log.
    """
    return [
        *_measure(scale, "payments only", 0.55, refunds=False),
        *_measure(scale, "each sixth a refund", None, refunds=True),
        _workers(scale),
        _lengths(scale),
    ]


def _measure(scale: Scale, log: str, target: float | None, *, refunds: bool) -> list[Figure]:
    ratios: list[float] = []
    of_statistics: list[float] = []
    with scratch(scale) as (settings, database):
        fill(scale, database, refunds=refunds)
        for _ in range(scale.rounds):
            _forget(database, PAYMENTS)
            advanced = rate(
                scale.events, lambda: advance(database, PAYMENTS, batch=settings.projection_batch)
            )
            documents = list(database[PAYMENTS.name].find(batch_size=10_000))
            raw = twin(database, "raw", PAYMENTS.name)
            inserted = rate(len(documents), lambda d=documents, c=raw: insert_all(c, d, RAW_BATCH))
            ratios.append(advanced / inserted)
            _forget(database, STATISTICS)
            counted = rate(
                scale.events, lambda: advance(database, STATISTICS, batch=settings.projection_batch)
            )
            of_statistics.append(counted / inserted)
            scale.say(
                f"  payments {advanced:,.0f} ev/s, statistics {counted:,.0f} ev/s, "
                f"raw {inserted:,.0f} documents/s"
            )
    note = f"{scale.events:,} events, batches of {settings.projection_batch:,}"
    against = "raw insert_many of the payments' documents"
    return [
        Figure(f"payment read models advance, {log}", against, ratios, target, note),
        Figure(f"statistics advance, {log}", against, of_statistics, 3.0, note),
    ]


def _workers(scale: Scale) -> Figure:
    ratios: list[float] = []
    with scratch(scale) as (settings, database):
        fill(scale, database)
        for _ in range(scale.rounds):
            one, two = (_together(database, settings, parts) for parts in (1, 2))
            ratios.append(two / one)
            scale.say(f"  one process {one:,.0f} ev/s, two {two:,.0f} ev/s")
    note = f"{scale.events:,} events, {os.cpu_count()} cores, on which the server runs too"
    return Figure("payment read models, two worker processes", "one", ratios, 1.6, note)


def _together(database: Db, settings: Settings, parts: int) -> float:
    """Events a second of so many processes, each a worker of the split projection."""
    _forget(database, PAYMENTS)
    split(database, PAYMENTS, parts)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number)],
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(parts)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found: list[Any] = [json.loads(process.communicate()[0]) for process in processes]
    seconds = max(ended for _, ended, _ in found) - min(started for started, _, _ in found)
    return sum(events for _, _, events in found) / seconds


def _lengths(scale: Scale) -> Figure:
    """A thousand new events, each sixth a refund of some old payment, behind 10,000 and behind many."""
    long = 2 * scale.events
    ratios: list[float] = []
    with scratch(scale) as (_, few), scratch(scale) as (_, many):
        for database, events in ((few, 10_000), (many, long)):
            fill(replace(scale, events=events), database, refunds=False)
            for projection in PROJECTIONS.values():
                advance(database, projection)
        for _ in range(max(scale.rounds, 3)):
            on_few, on_many = (_more(database) for database in (few, many))
            ratios.append(on_many / on_few)
            scale.say(f"  1,000 events on 10,000: {on_few:,.0f} ev/s, on {long:,}: {on_many:,.0f} ev/s")
    note = "all projections; at least 1 / 1.2: the same cost within a fifth"
    return Figure(f"1,000 events on a log of {long:,}", "on one of 10,000", ratios, round(1 / 1.2, 2), note)


def _more(database: Db) -> float:
    """Append a thousand events and take them; events a second through all projections."""
    old = head(database)
    chance = random.Random(old)
    places = iter(chance.sample(range(1, 10_001), 200))
    [batch] = events(1_000, refunds=False, seed=old)
    for number, event in enumerate(batch, start=old + 1):
        event["position"] = Int64(number)
        event["commandId"] = event["correlationId"] = event["causationId"] = f"command-{number:09d}"
        event["aggregateId"] = f"payment-{number:09d}"
        if number % 6 == 0:
            wanted = {"aggregateId": f"payment-{next(places) * (old // 10_000):09d}"}
            paid = database["events"].find_one(wanted, sort=[("version", -1)])
            assert paid is not None
            if paid["eventType"] == "PaymentProcessed":
                event["eventType"], event["version"] = "PaymentRefunded", Int64(2)
                event["eventData"] = {**paid["eventData"], "reason": "returned"}
                event["metadata"]["organizationId"] = paid["metadata"]["organizationId"]
                event["aggregateId"] = wanted["aggregateId"]
    database["events"].insert_many(batch)
    database["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(old + 1_000)}})
    return rate(1_000, lambda: [advance(database, each) for each in PROJECTIONS.values()])


def _forget(database: Db, projection: Projection) -> None:
    """As if it had never run."""
    database["projections_metadata"].delete_many({"projectionName": projection.name})
    for name in projection.models:
        database[name].drop()
    open_slot(database, projection, Slot(projection.name))
