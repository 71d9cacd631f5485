"""What an operator types, from a folder of no account, and where Dagster then keeps its history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterInvalidDefinitionError
from dagster._core.instance.ref import InstanceRef

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines import executors, instance
from pipelines.definitions import build
from tests.builders import insert_events, payment_history
from tests.postgres import postgres, programs

ROOT = Path(__file__).resolve().parents[2]
DG = Path(sys.executable).with_name("dg")


@pytest.fixture
def operator(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What an operator's shell has: where the ledger and dagster.yaml are, and nothing else of ours."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("DAGSTER", "PYTHONPATH"))}
    return kept | {
        "PATH": os.pathsep.join([str(DG.parent), os.environ.get("PATH", "")]),
        "DAGSTER_HOME": str(ROOT),
        "LEDGERLAKE_NOTEBOOK_MINUTES": "off",
        "COLUMNS": "120",
        "HOME": str(tmp_path),
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder that has nothing to do with the project; nothing may be left there."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def run(*command: object, env: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def history() -> dg.DagsterInstance:
    """Dagster's, by dagster.yaml and this process's environment."""
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))


@pytest.mark.slow
def test_dg_lists_the_definitions(
    operator: dict[str, str], elsewhere: Path, require: Callable[[object, str], None]
) -> None:
    require(DG.exists(), "dg (pip install dagster-dg-cli)")
    listed = json.loads(
        run(DG, "list", "defs", "--target-path", ROOT, "--json", env=operator, folder=elsewhere)
    )
    assert {asset["asset_key"] for asset in listed["assets"]} >= {"event_lake", "billing_reports"}
    assert {job["name"] for job in listed["jobs"]} >= {"refresh_all", "close_period", "verify"}


def test_the_definitions_are_whole_and_a_broken_one_would_be_told() -> None:
    """What `dg check defs` looks at."""
    dg.Definitions.validate_loadable(build())

    @dg.asset(deps=["events"], required_resource_keys={"nobody"})
    def lost() -> None: ...

    with pytest.raises(DagsterInvalidDefinitionError, match="nobody"):
        dg.Definitions.validate_loadable(dg.Definitions.merge(build(), dg.Definitions(assets=[lost])))


@pytest.mark.slow
def test_dg_launches_the_job_and_postgresql_keeps_its_history(
    database: Any, settings: Settings, operator: dict[str, str], elsewhere: Path,
    require: Callable[[object, str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    require(DG.exists(), "dg (pip install dagster-dg-cli)")
    require(programs(), "PostgreSQL (apt-get install postgresql)")
    insert_events(database, payment_history(seed=1, events=200))
    monkeypatch.setenv("LEDGERLAKE_HOME", str(settings.home))
    launch = [DG, "launch", "-m", "pipelines.definitions", "--job", "refresh_all"]
    with postgres() as address:
        run(*launch, env=operator | {"LEDGERLAKE_DAGSTER_POSTGRES": address}, folder=elsewhere)

        with LedgerLake.open(settings) as ledger:
            assert {part.lag for part in ledger.status().parts} == {0}
            assert ledger.verify().ok
        with history() as files:
            assert files.get_runs() == []
        monkeypatch.setenv("LEDGERLAKE_DAGSTER_POSTGRES", address)
        with history() as kept:
            [found] = kept.get_runs()
            assert (found.job_name, found.status) == ("refresh_all", dg.DagsterRunStatus.SUCCESS)
            steps = {entry.step_key for entry in kept.all_logs(found.run_id)}
            assert {"event_lake", "billing_reports"} <= steps
            # Handed from process to process, shown by `dagster instance info`: no place for a password.
            assert "no-secret" not in json.dumps(kept.get_ref().to_dict(), default=str)
            kept.upgrade()  # `dagster instance migrate`, which an upgrade asks for
            assert len(kept.get_runs()) == 1


def test_without_the_package_a_postgresql_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_HOME", str(tmp_path))
    monkeypatch.setenv("LEDGERLAKE_DAGSTER_POSTGRES", "postgresql://db.example/dagster")
    monkeypatch.setitem(sys.modules, "dagster_postgres", None)
    with pytest.raises(instance.PostgresMissing) as refused, history() as opened:
        opened.get_runs()
    assert "ledgerlake[postgres]" in refused.value.remedy


def test_without_the_package_celery_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_celery", None)
    monkeypatch.setenv("LEDGERLAKE_DAGSTER_EXECUTOR", "celery")
    with pytest.raises(executors.ExecutorMissing) as refused:
        build()
    assert "ledgerlake[celery]" in refused.value.remedy
