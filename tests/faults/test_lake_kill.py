"""SIGKILL of a lake refresh at random moments: only whole files; the next refresh makes the same bytes."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pymongo.database import Database

from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.segments import read_rows
from ledgerlake.lake.tables import refresh_tables
from ledgerlake.reports import refresh_billing
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history

SEED = 20261124
KILLS = 16
EVENTS = 3_000
SEGMENT = 150

REFRESH = """
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import refresh_tables
from ledgerlake.mongo.connection import open_database
from ledgerlake.reports.refresh import refresh_billing
from ledgerlake.settings import Settings
import duckdb, polars
settings = Settings.from_env()
database = open_database(settings)
lake = EventLake(settings.lake_dir, settings.segment_size)
print("ready", flush=True)
lake.refresh(database)
refresh_tables(lake)
refresh_billing(lake, settings.reports_dir)
print("done", flush=True)
"""


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".json")
    }


def refresh_once(lake: EventLake, database: Database[dict[str, Any]], reports: Path) -> None:
    lake.refresh(database)
    refresh_tables(lake)
    refresh_billing(lake, reports)


def test_kills_at_random_moments_leave_whole_files_and_change_nothing_in_the_end(
    settings: Settings, database: Database[dict[str, Any]], environ: dict[str, str]
) -> None:
    chance = random.Random(SEED)
    documents = payment_history(1, EVENTS)
    environ = {**environ, "LEDGERLAKE_SEGMENT_SIZE": str(SEGMENT)}
    killed = 0
    # How long a refresh takes here is learned from those that were not killed.
    span = 1.0
    for number in range(KILLS):
        # The log grows between the kills, so that tails are rewritten and reports get late events.
        low = EVENTS * number // KILLS
        insert_events(database, documents[low : EVENTS * (number + 1) // KILLS])
        process = subprocess.Popen(
            [sys.executable, "-c", REFRESH], env=environ, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        try:
            process.wait(timeout=chance.uniform(0.0, span))
            span = time.monotonic() - began
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        process.stdout.close()
        _only_whole_files(settings)
    assert killed >= KILLS // 3, "too few kills hit a running refresh to show anything"

    refresh_once(EventLake(settings.lake_dir, SEGMENT), database, settings.reports_dir)
    whole = settings.home / "uninterrupted"
    refresh_once(EventLake(whole / "lake", SEGMENT), database, whole / "reports")
    assert contents(settings.lake_dir) == contents(whole / "lake")
    assert contents(settings.reports_dir) == contents(whole / "reports")
    assert list(settings.home.rglob("*.tmp")) == []


def _only_whole_files(settings: Settings) -> None:
    for path in settings.home.rglob("*.parquet"):
        with path.open("rb") as opened:
            pq.ParquetFile(opened, page_checksum_verification=True).read()
    lake = EventLake(settings.lake_dir, SEGMENT)
    for info in lake.segments():
        read_rows(info)
    position = lake.position()
    assert lake.scan().collect()["position"].to_list() == list(range(1, position + 1))
