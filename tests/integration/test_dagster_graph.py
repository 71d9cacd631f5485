"""The asset graph as it is meant to be: a change of it has to be made here, too."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
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
from pipelines.jobs import OURS
from pipelines.positions import READ_MODELS
from pipelines.resources import Ledger
from scripts.data_dictionary import COLUMNS, columns_of_assets, meanings, tables

ROOT = Path(__file__).resolve().parents[2]

LAKE_TABLES = ["lake_statistics", "lake_trends"]
# asset: (group, pool, kinds, what it is made of, the tables whose columns it shows)
ASSETS = {
    "events": ("event_store", None, "mongodb", [], ["mongodb/events"]),
    **{
        name: ("read_models", name, "mongodb polars", ["events"], [f"mongodb/{one}" for one in (name, *more)])
        for name, *more in (
            ("payment_read_models", "payment_states", "refund_latency", "retry_recovery"),
            ("payment_statistics",),
            ("payment_trends",),
            ("failure_reasons",),
            ("payment_quarters",),
        )
    },
    "event_lake": ("lake", "event_lake", "parquet", ["events"], ["parquet/events"]),
    "lake_statistics": (
        "lake",
        "lake_tables",
        "duckdb parquet",
        ["event_lake"],
        ["parquet/payment_statistics", "parquet/payment_states"],
    ),
    "lake_trends": ("lake", "lake_tables", "duckdb parquet", ["event_lake"], ["parquet/payment_trends"]),
    "billing_reports": (
        "publications",
        "billing_reports",
        "duckdb parquet",
        [*LAKE_TABLES, "payment_read_models", "payment_statistics", "payment_trends"],
        ["parquet/billing_itemised", "parquet/billing_summary"],
    ),
    "billing_months": (
        "publications",
        "billing_reports",
        "duckdb parquet",
        ["events"],
        ["parquet/billing_itemised", "parquet/billing_summary"],
    ),
    **{
        f"{name}_notebook": ("publications", "notebook_pages", "jupyter plotly", made_of, [])
        for name, made_of in (
            ("payment_trends", LAKE_TABLES),
            ("failures_and_retries", LAKE_TABLES),
            ("organizations", LAKE_TABLES),
            ("data_access", LAKE_TABLES),
            ("billing_review", ["billing_reports", *LAKE_TABLES]),
        )
    },
}  # fmt: skip
# job: its steps that are no assets' (those of assets are compared below)
JOBS = {
    "rebuild": {"rebuild"},
    "close_period": {"close_period"},
    "verify": {"verify_layers", "verify_lake", "verify_reports"},
    "export": {"export"},
    "prune_history": {"prune_history"},
    "refresh_all": {"reconciliation", "billing_reports_agrees_with_the_lake"},
    "billing_month": set(),
}
# what starts runs by itself: (job, when)
AUTOMATION = {
    "behind_the_log": ("refresh_all", None),
    "alerts": (None, None),
    "catch_up": ("refresh_all", "7 * * * *"),
    "monthly_close": ("close_period", "17 1 * * *"),
    "nightly_verify": ("verify", "41 2 * * *"),
    "weekly_pruning": ("prune_history", "23 3 * * 0"),
}
TABLES_OF_LAKE = ("lake_statistics", "lake_trends")
MODELS = (
    "payment_read_models",
    "payment_statistics",
    "payment_trends",
    "failure_reasons",
    "payment_quarters",
)
# check: the assets that it looks at, and of these the ones that it blocks what comes after
CHECKS = {
    "agrees_with_the_log": ({"events", "event_lake", *MODELS, *TABLES_OF_LAKE}, {*MODELS, *TABLES_OF_LAKE}),
    "declared_schema": ({"event_lake", *MODELS, *TABLES_OF_LAKE}, {*MODELS, *TABLES_OF_LAKE}),
    "no_negative_balances": ({"payment_read_models", "lake_statistics"},) * 2,
    "gapless_positions": ({"events"}, set()),
    "fresh": ({"event_lake", *MODELS}, set()),
    "agrees_with_the_lake": ({"billing_reports"},) * 2,
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
        [pool] = node.pools or {None}
        found[key.to_user_string()] = (node.group_name, pool, " ".join(sorted(node.kinds)), parents)
    assert found == {
        name: (group, pool, kinds, sorted(made_of))
        for name, (group, pool, kinds, made_of, _) in ASSETS.items()
    }


def test_every_asset_has_an_owner_and_a_description(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.owners == ["team:payments-platform"]
        assert spec.description


def test_the_columns_are_those_that_the_program_declares(definitions: dg.Definitions) -> None:
    """Names, order and types by the schemas themselves; what each means by the data dictionary."""
    assert COLUMNS.read_text("utf-8") == columns_of_assets(), "run `make docs`"
    declared = tables(meanings())
    for spec in definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        shown = [
            value.schema if isinstance(value, dg.TableSchemaMetadataValue) else value
            for key, value in spec.metadata.items()
            if key == "dagster/column_schema" or key.startswith("columns/")
        ]
        expected = ASSETS[name][-1]
        assert [[column.name for column in schema.columns] for schema in shown] == [
            [row.name for row in declared[table]] for table in expected
        ], name
        for schema, table in zip(shown, expected, strict=True):
            for column, row in zip(schema.columns, declared[table], strict=True):
                assert column.description
                assert column.type + " or null" * column.constraints.nullable == row.type


def test_the_jobs_and_their_steps(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    dg.Definitions.validate_loadable(definitions)
    jobs = {job.name: job for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assets = definitions.resolve_asset_graph().assets_defs
    of_assets = {each.op.name for each in assets if each.keys and each.is_executable}
    assert {name: {node.name for node in job.nodes} - of_assets for name, job in jobs.items()} == JOBS
    assert {job.executor_def.name for job in jobs.values()} == {"in_process"}
    marked = {name for name, job in jobs.items() if OURS.items() <= job.run_tags.items()}
    assert set(JOBS) == marked, "whose silent and old runs are ours to end and to prune"


def test_what_starts_runs_by_itself(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    found: dict[str, tuple[str | None, str | None]] = {}
    for sensor in repository.sensor_defs:
        found[sensor.name] = (sensor.job_name if sensor.targets else None, None)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    for schedule in repository.schedule_defs:
        found[schedule.name] = (schedule.job_name, str(schedule.cron_schedule))
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert schedule.execution_timezone == "UTC"
    assert found == AUTOMATION


def test_resources_and_the_executor_can_be_replaced(settings: Settings) -> None:
    ledger = Ledger(settings)
    replaced = build(ledger, dg.multiprocess_executor, clock="stopped")
    assert replaced.resources == {"ledger": ledger, "clock": "stopped"}
    assert replaced.resolve_job_def("refresh_all").executor_def.name == "multiprocess"


def test_the_checks_and_what_each_of_them_blocks(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found: dict[str, tuple[set[str], set[str]]] = {}
    for key in graph.asset_check_keys:
        looked_at, blocking = found.setdefault(key.name, (set(), set()))
        looked_at.add(key.asset_key.to_user_string())
        if graph.get_check_spec(key).blocking:
            blocking.add(key.asset_key.to_user_string())
    assert found == CHECKS


def test_one_job_has_every_asset_but_the_months_and_every_check(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("refresh_all")
    graph = definitions.resolve_asset_graph()
    months = {dg.AssetKey("billing_months")}
    assert job.asset_layer.executable_asset_keys == graph.executable_asset_keys - months
    assert job.asset_layer.asset_graph.asset_check_keys == graph.asset_check_keys
    assert job.tags["ledgerlake/refresh"] == "all"
    assert definitions.resolve_job_def("billing_month").asset_layer.executable_asset_keys == months


def test_the_months_are_one_partition_each_and_a_backfill_is_one_run(definitions: dg.Definitions) -> None:
    node = definitions.resolve_asset_graph().get(dg.AssetKey("billing_months"))
    assert node.partitions_def == dg.DynamicPartitionsDefinition(name="billing_month")
    assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_the_names_are_those_of_what_they_stand_for(definitions: dg.Definitions) -> None:
    assert tuple(PROJECTIONS) == READ_MODELS
    parts = {part.removesuffix(" (sums)") for parts in checks.PARTS.values() for part in parts}
    tables = {part for part in parts if part.startswith("lake payment_")}
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


def test_only_the_file_of_all_events_is_kept_open_and_two_processes_see_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_HOME", str(tmp_path / "home"))

    def open_files() -> set[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        names = {link.readlink() for link in links}
        return {name.name for name in names if name.is_relative_to(tmp_path) and name.suffix == ".db"}

    @dg.op
    def say(context) -> None:  # type: ignore[no-untyped-def]  # Dagster takes no text for its type
        context.log.info("said")

    job = dg.GraphDefinition("talk", node_defs=[say]).to_job()
    ref = InstanceRef.from_dir(str(ROOT))
    with dg.DagsterInstance.from_ref(ref) as one, dg.DagsterInstance.from_ref(ref) as other:
        runs = [job.execute_in_process(instance=one).run_id for _ in range(6)]
        assert [len(other.all_logs(run)) for run in runs] == [len(one.all_logs(run)) for run in runs]
        assert open_files() == {"index.db"}
        # As the web page does that shows a run at work: it is told by the file.
        run, told = one.get_run_by_id(runs[-1]), threading.Event()
        assert run is not None
        before = len(one.all_logs(run.run_id))
        other.watch_event_logs(run.run_id, None, lambda *_: told.set())
        one.report_engine_event("more", run)
        assert told.wait(120)
        other.report_engine_event("more", run)
        assert len(one.all_logs(run.run_id)) == before + 2
        # What was put back from a backup meanwhile is another file, and the next event goes there.
        [index] = (tmp_path / "home").rglob("index.db")
        with closing(sqlite3.connect(index)) as old, closing(sqlite3.connect(tmp_path / "backup")) as backup:
            old.backup(backup)
        for each in index.parent.glob("index.db*"):
            each.unlink()
        (tmp_path / "backup").rename(index)
        after = job.execute_in_process(instance=one).run_id
        with closing(sqlite3.connect(index)) as put_back:
            [[last]] = put_back.execute("SELECT run_id FROM event_logs ORDER BY id DESC LIMIT 1")
        assert last == after
    assert open_files() == set()


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
