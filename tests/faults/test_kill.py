"""SIGKILL of import, refresh and the Dagster run at random moments: finished, every total is exact."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from ledgerlake.simulation import simulate

SEED = 20261123
KILLS = {"import": 12, "refresh": 12, "dagster": 6}
COMMANDS = 6_000

PROGRAMS = {
    "import": "import sys; from pathlib import Path; from ledgerlake.application import LedgerLake\n"
    "with LedgerLake.open() as ledger: ledger.import_file(Path(sys.argv[1]))",
    "refresh": "from ledgerlake.application import LedgerLake\n"
    "with LedgerLake.open() as ledger: ledger.refresh()",
    "dagster": "import dagster as dg\nfrom pipelines.definitions import build\n"
    "job = build().resolve_job_def('refresh_all')\n"
    "assert job.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success",
}
# How long each takes to do its work here, start of the interpreter included, in seconds: kills fall within.
SPAN = {"import": (0.3, 1.8), "refresh": (0.5, 3.0), "dagster": (2.0, 9.0)}


def totals(database: Database[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Count and sum of minor units by event type and currency, from the log itself."""
    return {
        (row["_id"]["type"], row["_id"]["currency"]): (row["count"], int(row["minor"]))
        for row in database["events"].aggregate(
            [
                {
                    "$group": {
                        "_id": {"type": "$eventType", "currency": "$eventData.currency"},
                        "count": {"$sum": 1},
                        "minor": {"$sum": "$eventData.amountMinor"},
                    }
                }
            ]
        )
    }


def test_thirty_kills_lose_nothing_and_double_nothing(
    settings: Settings, database: Database[dict[str, Any]], environ: dict[str, str], tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    rows = list(simulate(commands=COMMANDS))
    files = []
    for number in range(3):  # the log grows between the kills of refresh and Dagster
        path = tmp_path / f"part-{number}.parquet"
        # A payment's commands stay together, in order: what the rules accept does not hang on who was killed.
        part = [r for r in rows if zlib.crc32((r["payment_id"] or r["command_id"]).encode()) % 3 == number]
        pl.DataFrame(part, infer_schema_length=None).write_parquet(path)
        files.append(path)
    whole = tmp_path / "whole.parquet"
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(whole)
    small = {
        **environ,
        "LEDGERLAKE_APPEND_BATCH": "40",
        "LEDGERLAKE_PROJECTION_BATCH": "300",
        "LEDGERLAKE_SEGMENT_SIZE": "700",
    }
    kills = [kind for kind, count in KILLS.items() for _ in range(count)]
    chance.shuffle(kills)
    killed: Counter[str] = Counter()
    for kind in kills:
        argument = str(chance.choice(files))
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAMS[kind], argument],
            env=small,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(*SPAN[kind]))
        process.send_signal(signal.SIGKILL)
        killed[kind] += process.wait() == -signal.SIGKILL
    print(f"killed in mid-work, of {KILLS}: {dict(killed)}")
    missed = {kind: count for kind, count in KILLS.items() if killed[kind] < count / 3}
    assert not missed, f"most of these ended before their kill, so nothing was shown: {missed}"

    own = Settings(settings.home, settings.mongodb_uri, settings.database, segment_size=700)
    with LedgerLake.open(own) as ledger:
        for path in (*files, whole):
            ledger.import_file(path)
        again = ledger.import_file(whole)
        assert again.accepted == 0
        ledger.refresh()
        assert {part.name: part.lag for part in ledger.status().parts if part.lag} == {}
        verification = ledger.verify()
        assert verification.ok, verification
        in_the_log = ledger.store.find_commands(
            r["commandId"] for r in ledger.db["command_rejections"].find({"resolvedAt": None})
        )
        refused = {r["_id"] for r in ledger.db["command_rejections"].find({"resolvedAt": None})}
        wrongly = [i for i, e in in_the_log.items() if f"{i}#{e.metadata['requestHash']}" in refused]
        assert not wrongly, "carried out, and still called refused"
        reference = LedgerLake(own, database.client[f"{settings.database}_calm"])
        try:
            from ledgerlake.mongo.indexes import ensure_schema

            ensure_schema(reference.db)
            for path in (*files, whole):
                reference.import_file(path)
            assert totals(ledger.db) == totals(reference.db)
        finally:
            reference.store.close()
            database.client.drop_database(reference.db.name)
        assert ledger.store.head() == sum(count for count, _ in totals(ledger.db).values())
    assert not list(settings.home.rglob("*.tmp")), "a dead writer's temporary file was left behind"
