"""SIGKILL of import, refresh and the Dagster run at random moments: finished, every total is exact."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb  # noqa: F401 - once, before there are children
import polars as pl
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from ledgerlake.simulation import simulate
from pipelines.definitions import build
from tests.faults.forks import forks

Db = Database[dict[str, Any]]
SEED = 20261123
KILLS = {"import": 12, "refresh": 12, "dagster": 6}
COMMANDS = 6_000


def import_file(_: Db, path: str) -> None:
    with LedgerLake.open() as ledger:
        ledger.import_file(Path(path))


def refresh(_: Db, __: str) -> None:
    with LedgerLake.open() as ledger:
        ledger.refresh()


def run_of_dagster(_: Db, __: str) -> None:
    job = build().resolve_job_def("refresh_all")
    assert job.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success


PROGRAMS = {"import": import_file, "refresh": refresh, "dagster": run_of_dagster}
# The longest wait before a kill, in seconds. A program that ended before its kill shows nothing: the kill is
# tried again with a shorter wait, so that neither a fast nor a slow machine ends with no kill in mid-work.
LONGEST_WAIT = {"import": 1.5, "refresh": 2.0, "dagster": 6.0}
SHORTER = 0.8
MOST_TRIES = 90


def totals(database: Db) -> dict[tuple[str, str], tuple[int, int]]:
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
    settings: Settings, database: Db, environ: dict[str, str], tmp_path: Path
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
    with forks(database, small) as forking:
        while kills:
            tries += 1
            assert tries <= MOST_TRIES, f"the programs end before their kill: {dict(killed)} of {KILLS}"
            kind = kills[-1]
            program = f"tests.faults.test_kill:{PROGRAMS[kind].__name__}"
            if forking.run(program, str(chance.choice(files)), seconds=chance.uniform(0, waits[kind])).killed:
                killed[kind] += 1
                kills.pop()
            else:
                waits[kind] *= SHORTER
    print(f"killed in mid-work: {dict(killed)}, in {tries} tries")

    own = replace(settings, segment_size=700)
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
