"""Runs of the job on a real MongoDB: all of it catches up, nothing is left behind, nothing wrong gets out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from bson import Int64

from ledgerlake.analyst import Lake
from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines import materialization, runs
from pipelines.checks import NAME
from pipelines.definitions import build
from pipelines.jobs import OURS
from pipelines.positions import Positions, positions
from pipelines.resources import Ledger
from pipelines.schedules import catch_up
from pipelines.sensors import behind_the_log
from pipelines.totals import of_read_model
from tests.builders import insert_events, payment_history

ASSETS = (
    "payment_read_models",
    "payment_statistics",
    "payment_trends",
    "payment_quarters",
    "event_lake",
    "lake_statistics",
    "lake_trends",
    "failure_reasons",
    "billing_reports",
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Without pages: a notebook takes seconds, and adds nothing here."""
    return replace(settings, notebook_minutes=None)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def append(database: Any, events: int, after: int = 0) -> None:
    insert_events(database, payment_history(seed=after + 1, events=events, after=after))


def refresh(instance: dg.DagsterInstance, ledger: Ledger, **how: Any) -> dg.ExecuteInProcessResult:
    job = build(ledger).resolve_job_def("refresh_all")
    return job.execute_in_process(instance=instance, raise_on_error=False, **how)


def standing(settings: Settings) -> Positions:
    with LedgerLake.open(settings) as ledger:
        return positions(ledger)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [found] = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    ]
    return {name: value.value for name, value in found.metadata.items()}


def compared(result: dg.ExecuteInProcessResult) -> set[str]:
    """How the layers were compared with the log in a run."""
    checks = [each for each in result.get_asset_check_evaluations() if each.check_name == NAME]
    return {str(each.metadata["compared"].value) for each in checks}


def look(instance: dg.DagsterInstance, settings: Settings) -> Any:
    """What the sensor does now: a RunRequest, or the text of why it skips."""
    context = dg.build_sensor_context(instance=instance, resources={"ledger": Ledger(settings)})
    found = behind_the_log(context)
    return found.skip_message if isinstance(found, dg.SkipReason) else found


@pytest.mark.slow
def test_a_run_brings_everything_to_the_head_and_the_next_finds_nothing_new(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 900)
    assert isinstance(look(instance, settings), dg.RunRequest)

    first = refresh(instance, Ledger(settings))

    assert first.success
    assert {name: standing(settings).assets[name] for name in ASSETS} == dict.fromkeys(ASSETS, 900)
    for asset in ASSETS:
        shown = metadata(first, asset)
        assert (shown["position_from"], shown["position_to"], shown["events"]) == (0, 900, 900)
        assert shown["lag"] == 0
        assert shown["seconds"] >= 0
    assert all(check.passed for check in first.get_asset_check_evaluations())
    assert len(first.get_asset_check_evaluations()) == 27
    assert compared(first) == {"every event"}
    totals = [metadata(first, asset)["totals"].records for asset in ASSETS[:7]]
    assert all(each == totals[0] for each in totals)
    assert [record.data["currency"] for record in totals[0]] == ["BHD", "EUR", "GBP", "JPY", "USD"]
    assert look(instance, settings) == "Nothing new: everything is at 900, the head of the log."

    # A read model that an older version of the program has filled is behind, wherever it stands.
    database["projections_metadata"].update_one({"_id": "payment_trends"}, {"$set": {"version": 0}})
    assert isinstance(look(instance, settings), dg.RunRequest)

    second = refresh(instance, Ledger(settings))

    assert second.success
    assert metadata(second, "payment_trends")["rebuilt"] == "rebuilt: version 0 to 1"
    assert look(instance, settings) == "Nothing new: everything is at 900, the head of the log."
    for asset in ASSETS:
        shown = metadata(second, asset)
        assert (shown["position_from"], shown["position_to"], shown["events"]) == (900, 900, 0)
    assert all(check.passed for check in second.get_asset_check_evaluations())
    assert compared(second) == {"control sums"}
    told = [entry.user_message for entry in instance.all_logs(second.run_id)]
    for asset in ASSETS:
        assert f"{asset}: nothing new, at position 900 already." in told


def test_the_analysts_payments_are_those_of_the_read_model(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 700)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    found = Lake.open(settings).payments().sort("payment_id").collect()
    stored = list(database["payment_read_models"].find().sort("_id", 1))
    names = {
        "payment_id": "paymentId", "organization_id": "organizationId", "user_id": "userId",
        "currency": "currency", "status": "status", "unreferenced": "unreferenced",
        "amount_minor": "amountMinor", "refunded_minor": "refundedMinor", "net_minor": "netMinor",
        "attempts": "attempts", "failures": "failures", "refunds": "refunds",
        "last_failure_reason": "lastFailureReason", "first_at": "firstAt", "last_at": "lastAt",
        "completed_at": "completedAt",
    }  # fmt: skip
    for column, name in names.items():
        assert found[column].to_list() == [document[name] for document in stored], column


@dataclass(frozen=True)
class Interrupted(Ledger):
    """Does something right before the ledger is opened for the n-th time."""

    at: int = 0
    act: Callable[[], None] = lambda: None
    opened: list[int] = None  # type: ignore[assignment]

    @contextmanager
    def open(self) -> Iterator[LedgerLake]:
        self.opened.append(1)
        if len(self.opened) == self.at:
            self.act()
        with super().open() as ledger:
            yield ledger


def test_totals_that_64_bits_do_not_hold_are_exact(database: Any) -> None:
    most = 2**63 - 1
    rows = [
        ("EUR", "completed", most),
        ("EUR", "completed", most),
        ("EUR", "refunded", 3),
        ("JPY", "failed", 5),
    ]
    database["payment_statistics"].insert_many(
        [
            {"currency": currency, "status": status, "totalMinor": Int64(minor)}
            for currency, status, minor in rows
        ]
    )
    assert of_read_model(database, "payment_statistics") == {"EUR": (2 * most, 3), "JPY": (0, 0)}


def test_events_that_arrive_during_a_run_are_taken_at_the_next_look(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 300)
    arriving = Interrupted(settings, at=3, act=lambda: append(database, 200, after=300), opened=[])
    assert refresh(instance, arriving).success

    found = standing(settings)
    assert found.head == 500
    # Two were refreshed before the events came.
    assert {at for name, at in found.assets.items() if name in ASSETS} == {300, 500}
    assert isinstance(look(instance, settings), dg.RunRequest)
    with LedgerLake.open(settings) as ledger:
        [closed] = ledger.close_period("2026-01", by="ann")
    kept = {path: path.read_bytes() for path in closed.folder.rglob("*") if path.is_file()}
    append(database, 50, after=500)
    assert refresh(instance, Ledger(settings)).success
    assert not standing(settings).behind
    # What came for a closed month is in the open one.
    assert {path: path.read_bytes() for path in closed.folder.rglob("*") if path.is_file()} == kept
    assert [path.name for path in closed.folder.parent.iterdir()] == ["revision-1"]


def test_a_tampered_read_model_is_named_and_nothing_is_published(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 400)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    append(database, 100, after=400)
    victim = database["payment_statistics"].find_one({"currency": "EUR", "status": "completed"})
    database["payment_statistics"].update_one({"_id": victim["_id"]}, {"$inc": {"totalMinor": 1}})

    result = refresh(instance, Ledger(settings))

    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [check.asset_key.to_user_string() for check in failed] == ["payment_statistics"]
    assert compared(result) == {"every event"}
    assert victim["organizationId"] in failed[0].description
    assert "EUR" in failed[0].description
    published = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert "billing_reports" not in published
    assert standing(settings).assets["billing_reports"] == 400


def test_a_log_whose_chain_is_broken_is_named_and_nothing_is_published(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 100)
    # No sum tells of it, and every layer is made of the log as it is now.
    database["events"].update_one({"position": 42}, {"$set": {"metadata.userId": "somebody else"}})
    result = refresh(instance, Ledger(settings))
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert "log chain" in failed[0].description
    assert "events" in {check.asset_key.to_user_string() for check in failed}
    published = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert "lake_trends" in published
    assert "billing_reports" not in published


def test_a_failed_run_is_tried_again_less_and_less_often_until_all_is_well(
    database: Any, settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed_at() -> float:
        [last] = instance.get_run_records(limit=1)
        assert last.end_time is not None
        return last.end_time

    append(database, 100)
    database["events"].delete_one({"position": 50})
    assert not refresh(instance, Ledger(settings)).success
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_FIRST_WAIT", 600.0)  # the look itself may take seconds
        assert look(instance, settings).startswith("The last run failed: trying again in")
    assert runs.seconds_to_wait(instance, failed_at())[0] == pytest.approx(5, abs=0.01)
    assert not refresh(instance, Ledger(settings)).success
    assert runs.seconds_to_wait(instance, failed_at())[0] == pytest.approx(10, abs=0.01)
    assert runs.seconds_to_wait(instance, failed_at() + 11) == (0.0, 2)


def test_while_a_run_is_under_way_no_other_is_asked_for(
    database: Any, settings: Settings, tmp_path: Path
) -> None:
    append(database, 10)
    job = build(Ledger(settings)).resolve_job_def("refresh_all")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(job, tags=OURS)
        assert f"Run {run.run_id[:8]} is at it" in look(instance, settings)
        with dg.build_schedule_context(instance=instance) as context:
            assert isinstance(catch_up(context), dg.SkipReason)

        # Its machine goes down, and nothing is heard of it any more.
        assert runs.run_under_way(instance, now=time.time() + runs.SILENT_SECONDS + 60) is None
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.status is dg.DagsterRunStatus.FAILURE
        with dg.build_schedule_context(instance=instance) as context:
            assert isinstance(catch_up(context), dg.RunRequest)


def test_a_run_that_never_logged_is_taken_for_dead_and_those_of_others_are_left_alone(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    @dg.asset
    def ingot() -> None: ...

    # Of the same name, even.
    job = dg.define_asset_job("close_period", selection=dg.AssetSelection.assets(ingot))
    theirs = dg.Definitions(assets=[ingot], jobs=[job])
    ours = build(Ledger(settings))
    chosen = [dg.AssetKey("event_lake")]
    silent = [
        instance.create_run_for_job(ours.resolve_job_def("close_period"), tags=OURS),
        instance.create_run_for_job(ours.resolve_job_def("__ASSET_JOB"), asset_selection=frozenset(chosen)),
    ]
    alive = [
        instance.create_run_for_job(theirs.resolve_job_def("close_period")),
        instance.create_run_for_job(
            theirs.resolve_job_def("__ASSET_JOB"), asset_selection=frozenset([ingot.key])
        ),
    ]
    found = runs.run_under_way(instance, "close_period")
    assert found is not None
    assert found.run_id == silent[0].run_id
    later = time.time() + runs.SILENT_SECONDS + 60
    assert runs.run_under_way(instance, "close_period", now=later) is None
    failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert {run.run_id for run in failed} == {run.run_id for run in silent}
    assert {run.run_id for run in instance.get_runs()} == {run.run_id for run in (*silent, *alive)}
    # Nor does it count how theirs end.
    assert len(runs.failures(instance, "close_period")) == 1
    instance.report_run_failed(alive[0])
    assert len(runs.failures(instance, "close_period")) == 1


def test_under_celery_a_run_may_wait_for_a_worker_for_long(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = instance.create_run_for_job(build(Ledger(settings)).resolve_job_def("refresh_all"), tags=OURS)
    monkeypatch.setenv("LEDGERLAKE_DAGSTER_EXECUTOR", "celery")
    found = runs.run_under_way(instance, now=time.time() + runs.SILENT_SECONDS + 60)
    assert found is not None
    assert found.run_id == run.run_id
    assert runs.run_under_way(instance, now=time.time() + runs.SILENT_SECONDS_OF_CELERY + 60) is None


def test_a_step_gives_signs_of_life_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert materialization.SECONDS_BETWEEN_SIGNS_OF_LIFE * 4 < runs.SILENT_SECONDS
    monkeypatch.setattr(materialization, "SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.05)

    @dg.asset
    def slow(context) -> None:  # type: ignore[no-untyped-def]  # Dagster takes no text for its type
        deadline = time.monotonic() + 60
        with materialization.at_work(context):
            while signs_of_life() < 3 and time.monotonic() < deadline:
                time.sleep(0.02)

    def signs_of_life() -> int:
        told = [entry.user_message for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
        return sum(text.startswith("At work for") for text in told)

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([slow], instance=instance).success
        assert signs_of_life() >= 3


def test_an_error_is_told_with_its_remedy_and_not_tried_again_in_the_same_run(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    append(database, 100)
    database["events"].delete_one({"position": 50})
    result = refresh(instance, Ledger(settings))
    failures = {
        event.step_key: event.step_failure_data.user_failure_data
        for event in result.all_events
        if event.is_step_failure
    }
    lake = failures["event_lake"]
    assert lake is not None
    assert "position 50" in (lake.description or "")
    assert "restore" in str(lake.metadata["remedy"].value)
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_an_empty_log_is_a_success(database: Any, settings: Settings, instance: dg.DagsterInstance) -> None:
    assert look(instance, settings) == "Nothing new: everything is at 0, the head of the log."
    for _ in range(2):
        result = refresh(instance, Ledger(settings))
        assert result.success, [event.message for event in result.all_events if event.is_failure]


def test_trends_of_the_lake_hold_every_movement_once(database: Any, settings: Settings) -> None:
    append(database, 600)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    lake = Lake.open(settings)
    for granularity in ("day", "week", "month"):
        trends = lake.trends(granularity)  # type: ignore[arg-type]
        assert trends["count"].sum() == 600
        table = lake.sql(f"SELECT * FROM payment_trends_{granularity} ORDER BY ALL")
        same = trends.select("organization_id", "period", "currency", "status", "count", "total_minor")
        assert same.sort(pl.all()).equals(table.select(same.columns).sort(pl.all()))
