"""The same assets under other executors: steps in processes of their own, and at workers of Celery."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.instance.ref import InstanceRef

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines.positions import positions
from tests.builders import insert_events, payment_history
from tests.dagster_dev import wait_for
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ("left", "right")

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger_of_the_environment(
    database: Any, settings: Settings, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A log of 300 events, and an environment that says where: this process's, too."""
    insert_events(database, payment_history(seed=5, events=300))
    told = {name: value for name, value in environ.items() if name.startswith("LEDGERLAKE_")}
    for name, value in (told | {"LEDGERLAKE_NOTEBOOK_MINUTES": "off"}).items():
        monkeypatch.setenv(name, value)
    return environ | {"LEDGERLAKE_NOTEBOOK_MINUTES": "off"}


def refresh_all() -> ReconstructableJob:
    """The job as another process can load it: by the environment's executor."""
    repository = ReconstructableRepository.for_module("pipelines.definitions", "defs", str(ROOT))
    return repository.get_reconstructable_job("refresh_all")


def by_process(instance: dg.DagsterInstance, run_id: str) -> dict[str, set[str]]:
    """The steps that each worker, or process, has said it executes."""
    found: dict[str, set[str]] = {}
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None or event.step_key is None:
            continue
        told = {**event.engine_event_data.metadata} if event.is_engine_event else {}
        if event.event_type is dg.DagsterEventType.STEP_WORKER_STARTED:
            told = {**event.engine_event_data.metadata}
        for name in ("Celery worker", "pid"):
            if name in told:
                found.setdefault(str(told[name].value), set()).add(event.step_key)
    return found


def test_two_celery_workers_share_the_steps_of_a_refresh(
    ledger_of_the_environment: dict[str, str], settings: Settings, tmp_path: Path,
    require: Callable[[object, str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    require(shutil.which("redis-server"), "redis-server (apt-get install redis-server)")
    monkeypatch.setenv("LEDGERLAKE_DAGSTER_EXECUTOR", "celery")
    with ExitStack() as stack:
        broker = stack.enter_context(redis(tmp_path))
        for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
            monkeypatch.setenv(name, broker)
        env = ledger_of_the_environment | {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker}
        env["LEDGERLAKE_DAGSTER_EXECUTOR"] = "celery"
        logs = [stack.enter_context(celery_worker(name, env, tmp_path)) for name in WORKERS]
        for log in logs:
            wait_for(lambda log=log: "ready." in log.read_text(), log.read_text)
        instance = stack.enter_context(dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))))

        # On a slow machine one worker may be done with all before the other has imported anything.
        for _ in range(3):
            result = stack.enter_context(dg.execute_job(refresh_all(), instance))
            assert result.success
            shares = by_process(instance, result.run_id)
            if len(shares) == len(WORKERS):
                break
    assert {name.split("@")[0] for name in shares} == set(WORKERS)
    assert all(shares.values())
    executed = {event.step_key for event in result.all_events if event.is_step_start}
    assert set.union(*shares.values()) == executed
    assert {"payment_trends", "event_lake", "lake_tables", "billing_reports"} <= executed
    assert_everything_is_there(settings)


def test_the_steps_of_a_refresh_run_in_processes_of_their_own(
    ledger_of_the_environment: dict[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_DAGSTER_EXECUTOR", "multiprocess")
    lake = [dg.AssetKey(name) for name in ("event_lake", "lake_statistics", "lake_trends")]
    with (
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance,
        dg.execute_job(refresh_all(), instance, asset_selection=lake) as result,
    ):
        assert result.success
        processes = by_process(instance, result.run_id)
    assert len(processes) == len(set.union(*processes.values())) >= 2
    assert str(os.getpid()) not in processes
    with LedgerLake.open(settings) as ledger:
        found = positions(ledger).assets
        assert {found[key.to_user_string()] for key in lake} == {300}


def assert_everything_is_there(settings: Settings) -> None:
    with LedgerLake.open(settings) as ledger:
        assert {part.lag for part in ledger.status().parts} == {0}
        assert ledger.verify().ok
        assert ledger.verify_reports(settings.reports_dir).ok


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    [port] = free_ports(1)
    server = subprocess.Popen(
        [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(folder),
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: listens(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


@contextmanager
def celery_worker(name: str, env: dict[str, str], folder: Path) -> Iterator[Path]:
    """A worker that executes one step at a time, in a process; yields the file of its log."""
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker"]
    command += ["--queues", "dagster", "--prefetch-multiplier", "1", "--pool", "solo"]
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [*command, "--hostname", f"{name}@%h", "--loglevel", "INFO"],
            cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield log
    finally:
        worker.kill()
        worker.wait()
