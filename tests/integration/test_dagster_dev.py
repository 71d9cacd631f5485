"""`dagster dev` for real: runs, the daemon and MongoDB are killed while events come, and all is caught up.

By itself: nothing is started here but the service, as systemd would. What comes by sensor when there is news
comes by schedule, too, every minute. `--soak` lets it last for ten minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import ProcessPayment
from ledgerlake.domain.money import Money
from ledgerlake.mongo.embedded import status, stop
from ledgerlake.settings import Settings
from pipelines.definitions import build
from pipelines.positions import positions
from tests.builders import insert_events, payment_history
from tests.chromium import QUIETLY
from tests.dagster_dev import PATIENCE, DagsterDev, wait_for

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
SOAK_SECONDS = 600.0

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Settings]:
    """A ledger on an embedded server of its own, which whoever finds it gone starts again."""
    settings = Settings(home=tmp_path / "home", notebook_minutes=None)
    yield settings
    stop(settings)


def test_everything_catches_up_by_itself_whatever_is_killed(
    home: Settings, tmp_path: Path, request: pytest.FixtureRequest, require: Callable[[object, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    require(CHROMIUM, "a Chromium browser (apt-get install chromium)")
    for name in [name for name in os.environ if name.startswith("DAGSTER")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LEDGERLAKE_HOME", str(home.home))
    monkeypatch.setenv("LEDGERLAKE_NOTEBOOK_MINUTES", "off")
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT))
    soak = request.config.getoption("--soak")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = ["-f", str(ROOT / "tests" / "accelerated.py")]
    with (
        DagsterDev(dict(os.environ), elsewhere, tmp_path / "dev.log", target) as dev,
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance,
    ):
        with pytest.raises(AssertionError, match="event_lake"):
            assert_checks_are_green(instance)  # which a check that has never run is not
        crashes = Crashes(home, dev, instance)
        deadline = time.monotonic() + SOAK_SECONDS
        crashes.go_through(crashes.run_and_daemon, crashes.mongod_and_daemon)
        while soak and time.monotonic() < deadline:
            quiet = [lambda: None] * 3
            crashes.go_through(*quiet, crashes.run, *quiet, crashes.mongod, *quiet, crashes.daemon)

        backfill(target, "2026-02", elsewhere)
        runs = wait_for(crashes.done_by_all, crashes.tell, every=1.0)
        assert dev.starts >= 3
        assert runs[0].status is dg.DagsterRunStatus.SUCCESS
        assert {run.status for run in runs} <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
        assert crashes.killed <= {run.run_id for run in runs if run.status is dg.DagsterRunStatus.FAILURE}
        assert_checks_are_green(instance)
        assert_the_page_shows_the_assets(dev.page, tmp_path)
        wait_for(crashes.caught_up, crashes.tell, every=1.0)
    with LedgerLake.open(home) as ledger:
        assert ledger.verify().ok
        assert ledger.verify_reports(home.reports_dir).ok


class Crashes:
    """Events that arrive, and what is killed while a run is about to take them."""

    def __init__(self, settings: Settings, dev: DagsterDev, instance: dg.DagsterInstance) -> None:
        self.settings, self.dev, self.instance = settings, dev, instance
        self.killed: set[str] = set()
        self.appended = 0

    def go_through(self, *crashes: Callable[[], None]) -> None:
        """Each crash while a run is at work on events; more events come right after it."""
        for crash in crashes:
            with LedgerLake.open(self.settings) as ledger:
                stored = ledger.status().head
                insert_events(ledger.db, payment_history(seed=stored + 1, events=150, after=stored))
            self.at_work = wait_for(self.run_at_work, self.tell)
            crash()
            # Opened anew, as another program would: should MongoDB be gone, that starts it again.
            with LedgerLake.open(self.settings) as ledger:
                ledger.commands.dispatch(payment(f"late-{stored}"))
            self.appended += 151
            wait_for(self.caught_up, self.tell, every=1.0)

    def run_at_work(self) -> tuple[str, int] | None:
        """A run, with the process that carries it out."""
        for found in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            for entry in self.instance.all_logs(found.run_id):
                told = re.search(r"Executing steps in process \(pid: (\d+)\)", entry.message)
                if told:
                    return found.run_id, int(told[1])
        return None

    def run(self) -> None:
        run_id, process = self.at_work
        # It may have ended meanwhile; what is killed ends no more.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        if not found.is_finished:
            self.killed.add(run_id)

    def daemon(self) -> None:
        starts = self.dev.starts
        os.kill(wait_for(self.dev.daemon, self.dev.tail), signal.SIGKILL)
        wait_for(lambda: self.dev.starts > starts, self.dev.tail)

    def run_and_daemon(self) -> None:
        self.run()
        self.daemon()

    def mongod(self) -> None:
        process = status(self.settings).pid
        assert process is not None
        os.kill(process, signal.SIGKILL)

    def mongod_and_daemon(self) -> None:
        self.mongod()
        self.daemon()

    def done_by_all(self) -> list[dg.DagsterRun] | None:
        """All runs, once none is under way, and sensor, schedule and backfill have had one that succeeded."""
        runs = self.instance.get_runs()
        tags = {name for run in runs if run.status is dg.DagsterRunStatus.SUCCESS for name in run.tags}
        by_all = {"dagster/sensor_name", "dagster/schedule_name", "dagster/backfill"} <= tags
        return list(runs) if by_all and all(run.is_finished for run in runs) else None

    def caught_up(self) -> bool:
        """Every asset is at the head, everything that was appended is in it, and no run is under way."""
        if not all(run.is_finished for run in self.instance.get_runs()):
            return False
        with LedgerLake.open(self.settings) as ledger:
            found = positions(ledger)
        return found.head == self.appended and not found.behind

    def tell(self) -> str:
        with LedgerLake.open(self.settings) as ledger:
            runs = [(run.run_id[:8], run.status.value) for run in self.instance.get_runs()]
            return f"{positions(ledger)}, runs: {runs}\n{self.dev.tail()}"


def backfill(target: list[str], month: str, folder: Path) -> None:
    """A month's reports, as docs/operations.md says: queued by the command, carried out by the daemon."""
    command = [sys.executable, "-m", "dagster", "job", "backfill", *target, "-j", "billing_month"]
    command += ["--from", month, "--to", month, "--noprompt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def payment(command_id: str) -> ProcessPayment:
    return ProcessPayment(
        payment_id=command_id, command_id=command_id, organization_id="acme",
        amount=Money.parse("12.50", "EUR"), occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
    )  # fmt: skip


def assert_checks_are_green(instance: dg.DagsterInstance) -> None:
    """What each said last; that the next run is already at it by the schedule does not count."""
    green, told = AssetCheckExecutionRecordStatus.SUCCEEDED, set(AssetCheckExecutionRecordStatus)
    told.remove(AssetCheckExecutionRecordStatus.PLANNED)
    last = instance.event_log_storage.get_asset_check_execution_history
    red = {
        f"{key.asset_key.to_user_string()}: {key.name}"
        for key in build().resolve_asset_graph().asset_check_keys
        if [each.status for each in last(key, limit=1, status=told)] != [green]
    }
    assert not red, sorted(red)


def assert_the_page_shows_the_assets(page: str, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.goto(f"{page}/asset-groups", wait_until="domcontentloaded")
        for group in ("event_store", "read_models", "lake", "publications"):
            opened.get_by_text(group, exact=True).first.wait_for(timeout=120_000)
        # Each group's box says how its assets are, once the page has asked.
        opened.wait_for_function(
            "() => !document.body.innerText.includes('fetching statuses')", timeout=120_000
        )
        opened.screenshot(path=folder / "graph.png")
        browser.close()
