"""What an operator types in the root of the project, for real: dg, and dagster dev with its daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines.positions import Positions, positions
from tests.builders import insert_events, payment_history
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
DG = Path(sys.executable).with_name("dg")
PATIENCE = 300.0  # seconds for what takes ten where there is nothing else to do

pytestmark = pytest.mark.slow


@pytest.fixture
def operator(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What an operator's shell has: nothing of ours but where the ledger is."""
    kept = {name: value for name, value in environ.items() if not name.startswith("DAGSTER")}
    return kept | {
        "PATH": os.pathsep.join([str(DG.parent), os.environ.get("PATH", "")]),
        "COLUMNS": "120",
        # dg by itself reads the setting in dagster.yaml only when DAGSTER_HOME is set.
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "HOME": str(tmp_path),
    }


def run(*command: str, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def append(database: Any, events: int, after: int = 0) -> None:
    insert_events(database, payment_history(seed=after + 1, events=events, after=after))


def standing(settings: Settings) -> Positions:
    with LedgerLake.open(settings) as ledger:
        return positions(ledger)


def test_dg_lists_and_checks_the_definitions(
    operator: dict[str, str], require: Callable[[object, str], None]
) -> None:
    require(DG.exists(), "dg (pip install dagster-dg-cli)")
    listed = json.loads(run(str(DG), "list", "defs", "--json", env=operator))
    assert {asset["asset_key"] for asset in listed["assets"]} >= {"event_lake", "billing_reports"}
    assert [job["name"] for job in listed["jobs"]] == ["refresh_all"]
    run(str(DG), "check", "defs", env=operator)


def test_dg_launches_the_job_and_its_history_stays(
    database: Any, settings: Settings, operator: dict[str, str], require: Callable[[object, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    require(DG.exists(), "dg (pip install dagster-dg-cli)")
    append(database, 200)
    run(str(DG), "launch", "--job", "refresh_all", env=operator)
    assert not standing(settings).behind
    monkeypatch.setenv("LEDGERLAKE_HOME", str(settings.home))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance:
        [found] = instance.get_runs()
    assert (found.job_name, found.status) == ("refresh_all", dg.DagsterRunStatus.SUCCESS)


def test_dagster_dev_refreshes_when_events_arrive_and_again_when_the_run_is_killed(
    database: Any, settings: Settings, operator: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_HOME", str(settings.home))
    with (
        dagster_dev(operator | {"DAGSTER_HOME": str(ROOT)}) as page,
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance,
    ):
        assert "dagster" in urllib.request.urlopen(page).read().decode().lower()
        append(database, 500)
        killed, process = wait_for(lambda: worker_of_a_run(instance), told_by(settings))
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: len(finished(instance)) == 2, told_by(settings))
        assert not standing(settings).behind
        last, first = instance.get_runs()
        assert (first.run_id, first.status) == (killed, dg.DagsterRunStatus.FAILURE)
        assert last.status is dg.DagsterRunStatus.SUCCESS
    with LedgerLake.open(settings) as ledger:
        assert ledger.verify().ok


def told_by(settings: Settings) -> Callable[[], str]:
    return lambda: str(standing(settings))


def worker_of_a_run(instance: dg.DagsterInstance) -> tuple[str, int] | None:
    """A run at work, with the process that executes it."""
    for found in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        for entry in instance.all_logs(found.run_id):
            told = re.search(r"Executing steps in process \(pid: (\d+)\)", entry.message)
            if told:
                return found.run_id, int(told[1])
    return None


def finished(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return [each for each in instance.get_runs() if each.is_finished]


def wait_for(look: Callable[[], Any], tell: Callable[[], str] = str) -> Any:
    """What `look` gives once it gives something; fails with what `tell` says after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {tell()}"
        time.sleep(0.2)
    return found


def interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class dagster_dev:  # noqa: N801
    """`dagster dev` on a free loopback port: webserver, daemon and code server."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __enter__(self) -> str:
        [port] = free_ports(1)
        command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions"]
        self.log = Path(self.env["LEDGERLAKE_HOME"]) / "dagster-dev.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "-h", "127.0.0.1", "-p", str(port)],
                cwd=ROOT, env=self.env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                # Tests run in the background may have been started with interrupts ignored.
                preexec_fn=interruptible,  # noqa: PLW1509
            )  # fmt: skip
        page = f"http://127.0.0.1:{port}/"
        try:
            wait_for(lambda: self._answers(page), self.log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return page

    def _answers(self, page: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return bool(urllib.request.urlopen(page + "server_info", timeout=2).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def __exit__(self, *_: object) -> None:
        # Its own session, so that nothing it started is left behind.
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
