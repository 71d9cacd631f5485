"""The asset graph as it is meant to be: a change of it has to be made here, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef

from ledgerlake.lake.tables import TABLES
from ledgerlake.projections import PROJECTIONS
from ledgerlake.settings import Settings
from pipelines import checks
from pipelines.definitions import build, defs
from pipelines.positions import READ_MODELS
from pipelines.resources import Ledger

ROOT = Path(__file__).resolve().parents[2]

# asset: (group, pool, what it is made of)
ASSETS = {
    "events": ("event_store", None, []),
    "payment_read_models": ("read_models", "payment_read_models", ["events"]),
    "payment_statistics": ("read_models", "payment_statistics", ["events"]),
    "payment_trends": ("read_models", "payment_trends", ["events"]),
    "failure_reasons": ("read_models", "failure_reasons", ["events"]),
    "payment_quarters": ("read_models", "payment_quarters", ["events"]),
    "event_lake": ("lake", "event_lake", ["events"]),
    "lake_statistics": ("lake", "lake_tables", ["event_lake"]),
    "lake_trends": ("lake", "lake_tables", ["event_lake"]),
    "billing_reports": (
        "publications",
        "billing_reports",
        ["lake_statistics", "lake_trends", "payment_read_models", "payment_statistics", "payment_trends"],
    ),
    "payment_trends_notebook": (
        "publications",
        "payment_trends_notebook",
        ["lake_statistics", "lake_trends"],
    ),
}
BLOCKING = {
    "events": False,
    "event_lake": False,
    "payment_read_models": True,
    "payment_statistics": True,
    "payment_trends": True,
    "failure_reasons": True,
    "payment_quarters": True,
    "lake_statistics": True,
    "lake_trends": True,
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_the_assets_and_what_each_is_made_of(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        parents = sorted(parent.to_user_string() for parent in node.parent_keys)
        pools = node.pools or {None}
        found[key.to_user_string()] = (node.group_name, *pools, parents)
    assert found == ASSETS


def test_every_asset_has_an_owner_a_description_and_kinds(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.owners == ["team:payments-platform"]
        assert spec.description
        assert spec.kinds


def test_reconciliation_blocks_everything_that_is_published(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {key: graph.get_check_spec(key).blocking for key in graph.asset_check_keys}
    expected = {dg.AssetCheckKey(dg.AssetKey(name), checks.NAME): block for name, block in BLOCKING.items()}
    reports = dg.AssetCheckKey(dg.AssetKey("billing_reports"), "agrees_with_the_lake")
    assert found == expected | {reports: False}


def test_one_job_has_every_asset_and_every_check(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("refresh_all")
    graph = definitions.resolve_asset_graph()
    assert job.asset_layer.executable_asset_keys == graph.executable_asset_keys
    assert job.asset_layer.asset_graph.asset_check_keys == graph.asset_check_keys
    assert job.tags["ledgerlake/refresh"] == "all"


def test_sensor_and_schedule_run_from_the_start(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("behind_the_log")
    schedule = repository.get_schedule_def("catch_up")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert sensor.job.name == schedule.job.name == "refresh_all"


def test_the_names_are_those_of_what_they_stand_for(definitions: dg.Definitions) -> None:
    assert tuple(PROJECTIONS) == READ_MODELS
    tables = {part for parts in checks.PARTS.values() for part in parts if part.startswith("lake payment_")}
    assert tables == {f"lake {table.name}" for table in TABLES.values()}


def test_definitions_do_not_touch_the_ledger_until_something_runs(settings: Settings) -> None:
    build(Ledger(settings)).resolve_asset_graph()
    assert not settings.home.exists()


def test_dagster_yaml_has_no_key_that_dagster_does_not_know() -> None:
    found, _ = dagster_instance_config(str(ROOT))
    assert found["telemetry"] == {"enabled": False}


def test_dagsters_history_lies_in_the_home_of_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_HOME", str(tmp_path / "home"))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance:
        assert instance.run_monitoring_enabled
        assert instance.get_runs() == []
        assert Path(instance.storage_directory()).is_relative_to(tmp_path / "home" / "dagster")
    assert (tmp_path / "home" / "dagster" / "history" / "runs.db").is_file()


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    """`dg list defs` and every start of a run pay for what is imported here."""
    heavy = ("polars", "duckdb", "plotly", "papermill")
    code = (
        f"import sys, pipelines.definitions as d; d.defs(); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
