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

# Each says when it is about to start its work, so that the start of an interpreter is no part of the wait.
READY = "print('ready', flush=True)\n"
PROGRAMS = {
    "import": "import sys; from pathlib import Path; from ledgerlake.application import LedgerLake\n"
    f"{READY}with LedgerLake.open() as ledger: ledger.import_file(Path(sys.argv[1]))",
    "refresh": "from ledgerlake.application import LedgerLake\n"
    f"{READY}with LedgerLake.open() as ledger: ledger.refresh()",
    "dagster": "import dagster as dg\nfrom pipelines.definitions import build\n"
    f"job = build().resolve_job_def('refresh_all')\n{READY}"
    "assert job.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success",
}
# The longest wait before a kill, in seconds. A program that ended before its kill shows nothing: the kill is
# tried again with a shorter wait, so that neither a fast nor a slow machine ends with no kill in mid-work.
LONGEST_WAIT = {"import": 1.5, "refresh": 2.0, "dagster": 6.0}
SHORTER = 0.8
MOST_TRIES = 90


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
    waits = dict(LONGEST_WAIT)
    killed: Counter[str] = Counter()
    tries = 0
    while kills:
        tries += 1
        assert tries <= MOST_TRIES, f"the programs end before their kill: {dict(killed)} of {KILLS}"
        kind = kills[-1]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAMS[kind], str(chance.choice(files))],
            env=small,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, waits[kind]))
            process.kill()
            if process.wait() == -signal.SIGKILL:
                killed[kind] += 1
                kills.pop()
            else:
                assert process.returncode == 0, f"{kind} failed by itself"
                waits[kind] *= SHORTER
    print(f"killed in mid-work: {dict(killed)}, in {tries} tries")

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
