"""Catching up through Dagster's job, against the same by the command line; finding nothing new; starting."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from dagster import DagsterInstance, in_process_executor
from dagster._core.instance.ref import InstanceRef

from benchmarks.measure import Db, Figure, Scale, environment, fill, scratch
from ledgerlake.application import LedgerLake
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.indexes import CONTROL_SUMS
from ledgerlake.settings import Settings
from pipelines.definitions import build
from pipelines.resources import Ledger

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1 / 1.15
NOTHING_NEW = 2.0
SMALL = 20_000
# Of the work on a small log over that on a large one: it must not grow with the log.
CONSTANT = 0.9
BARE = "import dagster as dg\n\n\n@dg.asset\ndef one():\n    pass\n\n\ndefs = dg.Definitions([one])\n"
BARE_PROJECT = """[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "bare"
code_location_target_module = "bare"
"""
# What a catch-up starts from: the log, and that it was verified some time ago.
KEPT = {"events", "counters", "log_chain", "verifications"}

BY_HAND = ("-c", "from ledgerlake.cli import main; main()", "refresh")
BY_DAGSTER = ("-m", "dagster", "job", "execute", "-m", "pipelines.definitions", "-j", "refresh_all")


def run(scale: Scale) -> list[Figure]:
    """Seconds of `ledgerlake refresh` over those of the job, both as processes, starts included.

    Both fill all read models, the lake, its tables and the reports from nothing; the job also reconciles
    them with the log. No notebook is executed. What a run does that finds nothing new is measured on this log
    and, by turns, on a small one.
    """
    ratios, notes = [], []
    with scratch(scale) as (settings, database), scratch(scale) as (small, few):
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
        fill(replace(scale, events=SMALL), few)
        _seconds(small, BY_DAGSTER)
        # Control sums are noted in the first run and kept in the second; what is measured is every later one.
        for each, its in ((small, few), (settings, database)):
            _own_work(each)
            # As if more time than a transaction can last had passed since.
            its[CONTROL_SUMS].update_many({}, {"$set": {"seen": datetime(2000, 1, 1, tzinfo=UTC)}})
            _own_work(each)
            if its[CONTROL_SUMS].find_one({"sums": {"$exists": False}}) is not None:
                raise RuntimeError("Not all control sums are kept.")
        idle = [(_own_work(small), _own_work(settings)) for _ in range(scale.rounds)]
    note = f"{scale.events:,} events; seconds (of the processor, MongoDB's apart): {'; '.join(notes)}"
    found = ", ".join(f"{one:.2f} and {other:.2f}" for one, other in idle)
    found = f"{SMALL:,} and {scale.events:,} events; seconds of the steps: {found}"
    work = "a refresh's own work that finds nothing new"
    return [
        Figure("catch-up through Dagster", "ledgerlake refresh", ratios, TARGET, note),
        Figure("2 s", work, [NOTHING_NEW / one for _, one in idle], 1, found),
        Figure(work, "on a large log", [one / other for one, other in idle], CONSTANT, found),
        _definitions(scale),
    ]


def _definitions(scale: Scale) -> Figure:
    """`dg list defs` of a project that has a single asset, against that of this one."""
    bare = scale.folder / "bare"
    bare.mkdir()
    (bare / "bare.py").write_text(BARE)
    (bare / "pyproject.toml").write_text(BARE_PROJECT)
    env = {**os.environ, "LEDGERLAKE_HOME": str(scale.folder), "PYTHONPATH": str(bare)}
    env["VIRTUAL_ENV"] = sys.prefix
    command = [Path(sys.executable).with_name("dg"), "list", "defs"]
    taken: dict[Path, list[float]] = {bare: [], ROOT: []}
    for _ in range(scale.rounds + 1):
        for folder, seconds in taken.items():
            started = time.perf_counter()
            subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
    pairs = list(zip(taken[bare], taken[ROOT], strict=True))[1:]  # the first ones fill the disk's cache
    listed = ", ".join(f"{one:.2f} and {ours:.2f}" for one, ours in pairs)
    note = f"seconds, starts included: {listed}"
    return Figure("dg list defs of one asset", "of ours", [one / ours for one, ours in pairs], note=note)


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
