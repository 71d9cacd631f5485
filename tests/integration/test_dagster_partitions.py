"""Billing reports by month: their history as partitions, backfills, and marks for what came too late."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines.definitions import build
from pipelines.months import MONTHS
from pipelines.resources import Ledger
from tests.builders import event, insert_events

ROOT = Path(__file__).resolve().parents[2]
DG = Path(sys.executable).with_name("dg")
REPORTS = {dg.AssetKey(name) for name in ("event_lake", "lake_statistics", "lake_trends", "billing_reports")}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, segment_size=50, notebook_minutes=None)


def put(database: Any, *movements: tuple[str, str, int, str]) -> None:
    """Append (payment, kind, minor, day) in EUR of acme."""
    found = database["counters"].find_one({"_id": "events"}) or {"position": 0}
    documents: list[dict[str, Any]] = []
    for number, (payment, kind, minor, day) in enumerate(movements, int(found["position"]) + 1):
        before = database["events"].count_documents({"aggregateId": payment})
        own = sum(each["aggregateId"] == payment for each in documents)
        at = datetime.fromisoformat(day).replace(tzinfo=UTC)
        documents.append(event(number, payment, f"Payment{kind}", minor, at=at, version=before + own + 1))
    insert_events(database, documents)


def three_months(database: Any) -> None:
    put(
        database,
        ("a", "Processed", 10_000, "2011-10-03"),
        ("b", "Processed", 4_000, "2011-11-20"),
        ("a", "Refunded", 1_000, "2011-11-25"),
        ("c", "Processed", 700, "2011-12-02"),
    )


def refresh(instance: dg.DagsterInstance, settings: Settings) -> dg.ExecuteInProcessResult:
    """The job without its read models and checks, which months do not depend on."""
    whole = build(Ledger(settings)).resolve_job_def("refresh_all")
    job = whole.get_subset(asset_selection=REPORTS, asset_check_selection=set())
    return job.execute_in_process(instance=instance)


def months(instance: dg.DagsterInstance, settings: Settings, *keys: str) -> dg.ExecuteInProcessResult:
    """The job `billing_month` for a month, or for all from the first to the last."""
    job = build(Ledger(settings)).resolve_job_def("billing_month")
    which: dict[str, Any] = {"partition_key": keys[0]}
    if len(keys) > 1:
        # As a backfill of several partitions starts its one run.
        which = {"tags": {ASSET_PARTITION_RANGE_START_TAG: keys[0], ASSET_PARTITION_RANGE_END_TAG: keys[-1]}}
    return job.execute_in_process(instance=instance, raise_on_error=False, **which)


def told(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """The metadata of each month that a run materialized."""
    return {
        str(event.partition): {name: each.value for name, each in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(MONTHS)
    }


def marks(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """The metadata of each month on which a run noted what came too late."""
    noted = [each.asset_observation_data.asset_observation for each in result.get_asset_observation_events()]
    return {
        str(each.partition): {name: value.value for name, value in each.metadata.items()} for each in noted
    }


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def failure(result: dg.ExecuteInProcessResult) -> dg.Failure:
    [found] = [each.step_failure_data.user_failure_data for each in result.all_events if each.is_step_failure]
    assert found is not None
    return found  # type: ignore[return-value]


def closing(settings: Settings, month: str) -> Path:
    """Close a month, and give its folder."""
    with LedgerLake.open(settings) as ledger:
        [*_, last] = ledger.close_period(month, by="ann", through=True)
    return last.folder


def test_every_month_is_a_partition_with_a_history(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    first = told(refresh(instance, settings))
    assert instance.get_dynamic_partitions("billing_month") == ["2011-10", "2011-11", "2011-12"]
    assert list(first) == ["2011-10", "2011-11", "2011-12"]
    november = first["2011-11"]
    assert (november["state"], november["position"], november["dagster/partition_row_count"]) == (
        "open",
        4,
        2,
    )
    assert [november[f"{name}_minor/EUR"] for name in ("gross", "refunds", "net")] == [4_000, 1_000, 3_000]
    [row] = november["totals"].records
    assert row.data == {"currency": "EUR", "gross": "40.00", "refunds": "10.00", "net": "30.00"}
    assert november["organizations"] == 1
    assert november["bytes"] > 1_000
    assert Path(november["folder"]) == settings.reports_dir / "2011-11" / "draft"

    assert told(refresh(instance, settings)) == {}  # nothing new, so nothing to tell
    put(database, ("c", "Refunded", 200, "2011-12-05"))
    assert list(told(refresh(instance, settings))) == ["2011-12"]
    # A month that is heard of later stands in its place all the same: ranges go by that.
    put(database, ("f", "Failed", 500, "2011-08-05"))
    assert list(told(refresh(instance, settings))) == ["2011-08", "2011-10", "2011-11", "2011-12"]
    assert instance.get_dynamic_partitions("billing_month") == ["2011-08", "2011-10", "2011-11", "2011-12"]
    key = dg.AssetKey(MONTHS)
    assert instance.get_materialized_partitions(key) == {"2011-08", "2011-10", "2011-11", "2011-12"}


def test_what_comes_for_a_closed_month_is_noted_on_it_and_its_files_stay(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    refresh(instance, settings)
    folder = closing(settings, "2011-11")
    closed = refresh(instance, settings)
    shown = told(closed)["2011-11"]
    assert (shown["state"], shown["revision"], shown["position"]) == ("closed", 1, 4)
    assert marks(closed) == {}
    kept = contents(folder)

    put(
        database,
        ("b", "Refunded", 4_000, "2011-11-29"),
        ("d", "Processed", 55, "2011-10-31"),
        ("d", "Failed", 99, "2011-09-30"),  # before the books begin
        ("c", "Refunded", 50, "2011-12-03"),  # in time
    )
    late = refresh(instance, settings)
    found = marks(late)
    assert list(found) == ["2011-09", "2011-10", "2011-11"]
    november = found["2011-11"]
    assert (november["late_movements"], november["late_booked_in"]) == (1, "2011-12")
    assert (november["late_position_from"], november["late_position_to"]) == (4, 8)
    assert [november[f"late_{name}_minor/EUR"] for name in ("gross", "refunds")] == [0, 4_000]
    assert [found["2011-10"][f"late_{name}_minor/EUR"] for name in ("gross", "refunds")] == [55, 0]
    assert contents(folder) == kept
    open_month = told(late)
    assert list(open_month) == ["2011-12"]  # a closed month is not written again
    assert open_month["2011-12"]["corrections"] == 3
    [row] = open_month["2011-12"]["correction_totals"].records
    assert row.data == {"currency": "EUR", "gross": "0.55", "refunds": "40.00", "net": "-39.45"}
    [report] = [
        each.materialization.metadata["late_movements"].value
        for each in late.get_asset_materialization_events()
        if each.asset_key == dg.AssetKey("billing_reports")
    ]
    assert report == 3
    assert marks(refresh(instance, settings)) == {}  # it is noted once


def test_nothing_is_left_untold_when_somebody_else_refreshes_or_a_run_dies(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    refresh(instance, settings)
    closing(settings, "2011-11")
    put(database, ("b", "Refunded", 4_000, "2011-11-29"), ("e", "Processed", 1, "2012-01-01"))
    # The checkpoint moves as if the run had died right after.
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    found = refresh(instance, settings)
    assert list(marks(found)) == ["2011-11"]
    assert {month: shown["state"] for month, shown in told(found).items()} == {
        "2011-10": "closed",
        "2011-11": "closed",
        "2011-12": "open",
        "2012-01": "open",
    }
    # One who has never seen the ledger is told of everything.
    with dg.DagsterInstance.ephemeral() as another:
        assert list(told(refresh(another, settings))) == ["2011-10", "2011-11", "2011-12", "2012-01"]
        assert another.get_dynamic_partitions("billing_month") == ["2011-10", "2011-11", "2011-12", "2012-01"]


def test_a_reopened_month_is_told_as_open_and_its_next_revision_as_closed(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    closing(settings, "2011-11")
    refresh(instance, settings)
    with LedgerLake.open(settings) as ledger:
        ledger.periods.reopen("2011-11", reason="the fair", by="bob")
    assert told(refresh(instance, settings))["2011-11"]["state"] == "open"
    closing(settings, "2011-11")
    shown = told(refresh(instance, settings))["2011-11"]
    assert (shown["state"], shown["revision"]) == ("closed", 2)


def test_a_backfill_writes_drafts_anew_and_verifies_closed_months(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    refresh(instance, settings)
    closing(settings, "2011-10")
    refresh(instance, settings)
    reports = settings.reports_dir
    right = contents(reports)
    [damaged, *_] = (reports / "2011-11" / "draft").rglob("itemised.parquet")
    damaged.write_bytes(b"not what it was")
    [summary, *_] = (reports / "2011-12" / "draft").rglob("summary.parquet")
    summary.unlink()

    found = months(instance, settings, "2011-10", "2011-11", "2011-12")

    assert found.success
    assert contents(reports) == right
    lines = "dagster/partition_row_count"
    assert {month: (shown["state"], shown[lines]) for month, shown in told(found).items()} == {
        "2011-10": ("closed", 1),
        "2011-11": ("open", 2),
        "2011-12": ("open", 1),
    }

    revision = reports / "2011-10" / "revision-1"
    [itemised] = revision.rglob("itemised.parquet")
    itemised.chmod(0o644)
    itemised.write_bytes(itemised.read_bytes()[:-1] + b"?")
    tampered = contents(reports)
    one = months(instance, settings, "2011-11")
    assert one.success
    assert list(told(one)) == ["2011-11"]
    other = months(instance, settings, "2011-10")
    assert not other.success
    assert told(other) == {}
    assert str(itemised) in (failure(other).description or "")
    assert "ledgerlake refresh" in str(failure(other).metadata["remedy"].value)
    assert contents(reports) == tampered  # told, not touched


def test_a_draft_that_is_not_what_the_log_says_is_not_written_by_a_backfill(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    three_months(database)
    refresh(instance, settings)
    right = contents(settings.reports_dir)
    database["events"].update_one({"position": 2}, {"$set": {"eventData.amountMinor": 4_001}})
    found = months(instance, settings, "2011-11")
    assert not found.success
    assert "log 3 events, 147.01, lake 3 events, 147.00" in (failure(found).description or "")
    assert contents(settings.reports_dir) == right


def test_the_command_line_backfills_a_range_in_one_run(
    database: Any,
    settings: Settings,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    require: Callable[[object, str], None],
) -> None:
    require(DG.exists(), "dg (pip install dagster-dg-cli)")
    three_months(database)
    monkeypatch.setenv("LEDGERLAKE_HOME", str(settings.home))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT))) as instance:
        refresh(instance, settings)
        draft = settings.reports_dir / "2011-11" / "draft"
        right = contents(draft)
        for path in draft.rglob("*.parquet"):
            path.write_bytes(b"")
        launch(["--assets", MONTHS, "--partition-range", "2011-11...2011-12"], environ)
        assert contents(draft) == right
        [run] = instance.get_runs(limit=1)
        assert run.status is dg.DagsterRunStatus.SUCCESS
        done = instance.get_materialized_partitions(dg.AssetKey(MONTHS))
        assert done == {"2011-10", "2011-11", "2011-12"}


def launch(arguments: Sequence[str], environ: dict[str, str]) -> None:
    env = {**environ, "DAGSTER_HOME": str(ROOT), "LEDGERLAKE_SEGMENT_SIZE": "50", "COLUMNS": "120"}
    env["PATH"] = os.pathsep.join([str(DG.parent), os.environ.get("PATH", "")])
    done = subprocess.run([str(DG), "launch", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
