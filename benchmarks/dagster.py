"""Catching up through Dagster's job, against the same by the command line; and finding nothing new."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from dagster import DagsterInstance, in_process_executor
from dagster._core.instance.ref import InstanceRef

from benchmarks.measure import Db, Figure, Scale, environment, fill, scratch
from ledgerlake.application import LedgerLake
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings
from pipelines.definitions import build
from pipelines.resources import Ledger

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1 / 1.15
NOTHING_NEW = 2.0
# What a catch-up starts from: the log, and that it was verified some time ago.
KEPT = {"events", "counters", "log_chain", "verifications"}

BY_HAND = ("-c", "from ledgerlake.cli import main; main()", "refresh")
BY_DAGSTER = ("-m", "dagster", "job", "execute", "-m", "pipelines.definitions", "-j", "refresh_all")


def run(scale: Scale) -> list[Figure]:
    """Seconds of `ledgerlake refresh` over those of the job, both as processes, starts included.

    Both fill all read models, the lake, its tables and the reports from nothing; the job also reconciles
    them with the log. No notebook is executed.
    """
    ratios, notes = [], []
    with scratch(scale) as (settings, database):
        _seconds(settings, BY_DAGSTER)  # makes the history, and verifies the empty log to the last event
        fill(scale, database)
        for number in range(scale.rounds):
            taken = {}
            order = (BY_HAND, BY_DAGSTER) if number % 2 else (BY_DAGSTER, BY_HAND)
            for command in order:
                _forget(settings, database)
                taken[command] = _seconds(settings, command)
                with LedgerLake.open(settings) as ledger:
                    if any(part.lag for part in ledger.status().parts):
                        raise RuntimeError(f"Not caught up: {ledger.status()}")
            (seconds, cpu), (by_hand, cpu_by_hand) = taken[BY_DAGSTER], taken[BY_HAND]
            ratios.append(by_hand / seconds)
            notes.append(f"{seconds:.1f} ({cpu:.1f}) and {by_hand:.1f} ({cpu_by_hand:.1f})")
            scale.say(f"  Dagster and command line {notes[-1]} s for {scale.events:,} events")
        idle = [_own_work(settings) for _ in range(scale.rounds + 1)][1:]  # the first one warms up
    note = f"{scale.events:,} events; seconds (of the processor, MongoDB's apart): {'; '.join(notes)}"
    found = f"{scale.events:,} events; seconds of the steps: {', '.join(f'{each:.2f}' for each in idle)}"
    return [
        Figure("catch-up through Dagster", "ledgerlake refresh", ratios, TARGET, note),
        Figure(
            "2 s",
            "a refresh's own work that finds nothing new",
            [NOTHING_NEW / each for each in idle],
            1,
            found,
        ),
    ]


def _own_work(settings: Settings) -> float:
    """Seconds that the steps of a refresh take that finds nothing new, in this process."""
    definitions = build(Ledger(replace(settings, notebook_minutes=None)), in_process_executor)
    job, quiet = definitions.resolve_job_def("refresh_all"), {"console": {"config": {"log_level": "ERROR"}}}
    with (
        patch.dict(os.environ, environment(settings)),
        DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance,
    ):
        done = job.execute_in_process(instance=instance, run_config={"loggers": quiet})
    steps = [event.step_success_data for event in done.all_events if event.is_step_success]
    return sum(step.duration_ms for step in steps) / 1000


def _forget(settings: Settings, database: Db) -> None:
    """All that was made from the log; Dagster's history stays."""
    for name in database.list_collection_names():
        if name not in KEPT:
            database.drop_collection(name)
    for each in ("lake", "reports"):
        shutil.rmtree(settings.home / each, ignore_errors=True)
    open_database(settings).client.close()


def _seconds(settings: Settings, command: Sequence[str]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    env = environment(settings) | {"DAGSTER_HOME": str(ROOT), "LEDGERLAKE_NOTEBOOK_MINUTES": "off"}
    log = settings.home / "benchmark.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started, before = time.perf_counter(), _processor()
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, *command], env=env, cwd=ROOT, stdout=out, stderr=out, check=False
        )
    taken = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(log.read_text()[-3000:])
    return taken, _processor() - before


def _processor() -> float:
    """Seconds that the processes which have ended took of it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
