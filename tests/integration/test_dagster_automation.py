"""What runs by itself: monthly close, nightly verification, pruning, alerts, freshness."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ledgerlake import alerts
from ledgerlake.application import LedgerLake
from ledgerlake.cli.follow import _Alerts as Alerts
from ledgerlake.projections import PROJECTIONS
from ledgerlake.reconciliation import Check, record
from ledgerlake.reports.books import Books
from ledgerlake.reports.due import due_period
from ledgerlake.settings import Settings
from pipelines import checks, sensors
from pipelines.definitions import build
from pipelines.history import Pruned, prune
from pipelines.jobs import OURS
from pipelines.positions import LAKE_PAGES, REPORT_PAGES
from pipelines.resources import Ledger
from pipelines.schedules import monthly_close, nightly_verify, weekly_pruning
from tests.builders import event, insert_events, payment_history
from tests.unit.test_alerts import receiver

NIGHT = datetime(2026, 4, 6, 1, 17, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, notebook_minutes=None, close_after_days=5)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Dagster's history in SQLite files, as `dagster dev` keeps it."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("history"))) as instance:
        yield instance


def asked(
    schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, settings: Settings, at: datetime = NIGHT
) -> Any:
    """What a schedule does: a RunRequest, or the text of why it skips."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, resources={"ledger": Ledger(settings)}
    ) as context:
        found = schedule(context)
    return found.skip_message if isinstance(found, dg.SkipReason) else found


def test_months_are_closed_in_order_after_their_grace(
    database: Any, settings: Settings, history: dg.DagsterInstance
) -> None:
    assert asked(monthly_close, history, replace(settings, close_after_days=None)) == (
        "Months are closed by hand: LEDGERLAKE_CLOSE_AFTER_DAYS is not set."
    )
    nothing = "No month that ended 5 days ago or earlier is open."
    assert asked(monthly_close, history, settings) == nothing
    insert_events(database, payment_history(1, 200))  # January to March 2026
    assert asked(monthly_close, history, settings, NIGHT - timedelta(days=1)).run_config == {
        "ops": {"close_period": {"config": {"period": "2026-02", "through": True, "by": "monthly_close"}}}
    }
    request = asked(monthly_close, history, settings)
    job = build(Ledger(settings)).resolve_job_def("close_period")
    done = job.execute_in_process(run_config=request.run_config, instance=history)
    assert done.success
    with LedgerLake.open(settings) as ledger:
        closed = ledger.periods.books().closed()
    assert [(entry.period, entry.by) for entry in closed] == [
        (month, "monthly_close") for month in ("2026-01", "2026-02", "2026-03")
    ]
    assert asked(monthly_close, history, settings) == nothing
    assert (
        asked(monthly_close, history, settings, datetime(2026, 5, 6, tzinfo=UTC)).run_config["ops"][
            "close_period"
        ]["config"]["period"]
        == "2026-04"
    )


def test_a_month_that_was_reopened_is_left_to_whoever_did(
    database: Any, settings: Settings, history: dg.DagsterInstance
) -> None:
    insert_events(database, payment_history(1, 200))  # January to March 2026
    with LedgerLake.open(settings) as ledger:
        ledger.close_period("2026-03", by="ann", through=True)
        ledger.periods.reopen("2026-02", by="ann", reason="credit notes were missing", through=True)
        assert due_period(database, ledger.periods.books(), NIGHT, 5) is None
        assert "2026-02 was reopened" in asked(monthly_close, history, settings)
        assert "2026-02 was reopened" in asked(monthly_close, history, settings, NIGHT + timedelta(days=90))
        ledger.close_period("2026-02", by="ann")
        assert "2026-03 was reopened" in asked(monthly_close, history, settings)
        # Nor by the job that closes what is due.
        job = build(Ledger(settings)).resolve_job_def("close_period")
        config = {"ops": {"close_period": {"config": {"period": "due", "by": "job"}}}}
        assert job.execute_in_process(run_config=config, instance=history).success
        assert [entry.period for entry in ledger.periods.books().closed()] == ["2026-01", "2026-02"]
        ledger.close_period("2026-03", by="ann")
    assert (
        asked(monthly_close, history, settings, NIGHT + timedelta(days=30)).run_config["ops"]["close_period"][
            "config"
        ]["period"]
        == "2026-04"
    )


@pytest.mark.parametrize(
    ("zone", "now", "due"),
    [
        ("UTC", datetime(2026, 4, 5, 23, 59, 59, tzinfo=UTC), "2026-02"),
        ("UTC", datetime(2026, 4, 6, tzinfo=UTC), "2026-03"),
        # In New York March ends four hours later.
        ("America/New_York", datetime(2026, 4, 6, 3, 59, 59, tzinfo=UTC), "2026-02"),
        ("America/New_York", datetime(2026, 4, 6, 4, tzinfo=UTC), "2026-03"),
    ],
)
def test_a_month_is_due_when_it_and_its_grace_are_over(
    database: Any, zone: str, now: datetime, due: str
) -> None:
    insert_events(database, [event(1, "p", "PaymentProcessed", 100)])
    assert due_period(database, Books(zone), now, 5) == due
    assert due_period(database, Books(zone), datetime(2026, 1, 15, tzinfo=UTC), 5) is None, "before it"


def test_a_schedule_asks_for_no_second_run(history: dg.DagsterInstance, settings: Settings) -> None:
    definitions = build(Ledger(settings))
    for schedule in (nightly_verify, weekly_pruning):
        assert isinstance(asked(schedule, history, settings), dg.RunRequest)
        run = history.create_run_for_job(definitions.resolve_job_def(schedule.job_name), tags=OURS)
        assert f"Run {run.run_id[:8]} is at it" in asked(schedule, history, settings)
        other = nightly_verify if schedule is weekly_pruning else weekly_pruning
        assert isinstance(asked(other, history, settings), dg.RunRequest)
        history.report_run_canceled(run)


@dg.asset
def ingot() -> None:
    """An asset of its own, to have a history of."""


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def bar() -> None:
    """One with partitions."""


@dg.asset_check(asset=ingot)
def heavy() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def test_pruning_keeps_what_anything_rests_on(settings: Settings, tmp_path: Path) -> None:
    definitions = dg.Definitions(
        assets=[ingot, bar],
        asset_checks=[heavy],
        jobs=[
            dg.define_asset_job("refresh_all", selection=dg.AssetSelection.assets(ingot), tags=OURS),
            dg.define_asset_job("billing_month", selection=dg.AssetSelection.assets(bar), tags=OURS),
            dg.define_asset_job("of_somebody_else", selection=dg.AssetSelection.assets(ingot)),
        ],
    )
    names = ("refresh_all", "billing_month", "of_somebody_else", "__ASSET_JOB")
    whole, bars, foreign, chosen = (definitions.resolve_job_def(name) for name in names)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def run(job: dg.JobDefinition, **how: Any) -> str:
            done = job.execute_in_process(instance=instance, **how).run_id
            # As a run that is started in a process of its own has them.
            logs = tmp_path / "storage" / done / "compute_logs"
            logs.mkdir(parents=True, exist_ok=True)
            (logs / "step.out").write_text("x")
            return done

        # Others share the instance: their runs are theirs, also those of assets that somebody chose.
        theirs = {run(foreign), run(foreign)}
        for _ in range(2):
            theirs.add(run(chosen, asset_selection=[ingot.key]))
        old = [run(whole) for _ in range(3)]
        of_a, of_b = run(bars, partition_key="a"), run(bars, partition_key="b")
        waiting = instance.create_run_for_job(whole, tags=OURS).run_id
        horizon = datetime.now(UTC) + timedelta(seconds=1)

        assert prune(instance, datetime.now(UTC) - timedelta(days=1)).removed == 0
        done = prune(instance, horizon)

        assert (done.removed, done.kept) == (2, 3)
        left = {each.run_id for each in instance.get_runs()}
        assert left == {old[2], of_a, of_b, waiting} | theirs
        # Nothing is left behind of those that went, in no table and no folder.
        remains = [path for path in tmp_path.rglob("*") for gone in old[:2] if gone in path.name]
        assert remains == []
        with instance.event_log_storage.index_connection() as connection:
            for table in ("event_logs", "asset_check_executions"):
                runs = {row[0] for row in connection.exec_driver_sql(f"SELECT run_id FROM {table}")}
                assert old[2] in runs
                assert runs <= left
        assert instance.get_materialized_partitions(bar.key) == {"a", "b"}
        latest = instance.get_latest_materialization_event(ingot.key)
        assert latest is not None
        assert latest.run_id == old[2]
        assert (tmp_path / "storage" / old[2] / "compute_logs" / "step.out").exists()
        # With a younger run nothing rests on the old ones any more.
        newest = run(whole)
        assert prune(instance, horizon).removed == 1
        assert {each.run_id for each in instance.get_runs()} == {newest, of_a, of_b, waiting} | theirs


def test_the_job_prunes_by_the_setting(
    history: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[datetime] = []

    def noted(_: Any, before: datetime, __: Any) -> Pruned:
        asked_for.append(before)
        return Pruned(0, 0)

    monkeypatch.setattr("pipelines.history.prune", noted)
    job = build(Ledger(replace(settings, history_days=30))).resolve_job_def("prune_history")
    assert job.execute_in_process(instance=history).success
    assert abs(datetime.now(UTC) - timedelta(days=30) - asked_for[0]) < timedelta(minutes=5)


def alerted(instance: dg.DagsterInstance, settings: Settings, cursor: str | None) -> tuple[str, str]:
    """The sensor's cursor after a look, and what it says."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"ledger": Ledger(settings)}
    )
    found = sensors.alerts(context)
    assert isinstance(found, dg.SkipReason)
    assert context.cursor is not None
    return context.cursor, str(found.skip_message)


def test_the_sensor_tells_once_what_is_wrong_and_that_it_is_over(
    database: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    caplog.set_level(logging.INFO)
    insert_events(database, payment_history(1, 60))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
        ledger.verify()
    with receiver() as server, dg.DagsterInstance.ephemeral() as instance:
        settings = replace(settings, alert_webhook=server.url)

        def told() -> list[tuple[str, str]]:
            found = [(body["event"], body["key"]) for _, _, body in server.posts]
            server.posts.clear()
            return sorted(found)

        cursor, said = alerted(instance, settings, None)
        assert (told(), said) == ([], "All is well.")

        # A projection stops, a verification fails, and a job.
        broken = {"$set": {"status": "stopped", "lastError": "at Alice's"}}
        database["projections_metadata"].update_one({"_id": "payment_trends"}, broken)
        database["payment_statistics"].delete_one({})
        with LedgerLake.open(settings) as ledger:
            assert not ledger.verify().ok
        run = instance.create_run_for_job(build(Ledger(settings)).resolve_job_def("verify"), tags=OURS)
        instance.report_run_failed(run)
        cursor, said = alerted(instance, settings, cursor)
        assert told() == [
            ("raised", "check/payment statistics"),
            ("raised", "run/verify"),
            ("raised", "stopped/payment_trends"),
        ]
        assert "Alice" not in json.dumps(said)
        cursor, _ = alerted(instance, settings, cursor)
        assert told() == []
        assert caplog.text.count("Alert raised: payment_trends has stopped") == 1

        # The ledger can not be looked at: what was wrong is not over.
        away = replace(settings, mongodb_uri="mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200")
        cursor, _ = alerted(instance, away, cursor)
        assert told() == [("raised", "ledger")]

        mended = {"$set": {"status": "live", "lastError": None}}
        database["projections_metadata"].update_one({"_id": "payment_trends"}, mended)
        with LedgerLake.open(settings) as ledger:
            ledger.rebuild_projection("payment_statistics")
            assert ledger.verify().ok
        cursor, said = alerted(instance, settings, cursor)
        assert told() == [
            ("resolved", key) for key in ("check/payment statistics", "ledger", "stopped/payment_trends")
        ]
        assert "verify fails" in said


def test_a_refresh_that_fails_once_is_tried_again_before_anybody_is_told(settings: Settings) -> None:
    job = build(Ledger(settings)).resolve_job_def("refresh_all")
    with dg.DagsterInstance.ephemeral() as instance:
        told = []
        for _ in range(3):
            instance.report_run_failed(instance.create_run_for_job(job, tags=OURS))
            found = sensors._failing(instance, "refresh_all")
            told.append(found.key if found is not None else None)
        assert told == [None, "run/refresh_all", "run/refresh_all"]
        instance.report_run_canceled(instance.create_run_for_job(job, tags=OURS))
        assert sensors._failing(instance, "refresh_all") is None, "somebody knows"


def test_every_asset_that_a_refresh_makes_has_a_freshness_policy() -> None:
    graph = build().resolve_asset_graph()
    without = {
        key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy is None
    }
    pages = {f"{name}_notebook" for name in (*LAKE_PAGES, *REPORT_PAGES)}
    assert without == {"events", "billing_months"} | pages, "these may rest"


def test_what_waits_too_long_is_late_and_blocks_nothing(database: Any, settings: Settings) -> None:
    insert_events(database, payment_history(1, 30))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
        insert_events(database, payment_history(2, 10, after=30))  # dated of next year
        database["events"].update_many(
            {"position": {"$gt": 30}}, {"$set": {"recordedAt": datetime.now(UTC) - timedelta(seconds=70)}}
        )
        status = ledger.status()
    key = dg.AssetCheckKey(dg.AssetKey("payment_trends"), checks.FRESH)
    late = checks._freshness(key, status, 60)
    assert (late.passed, late.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert late.metadata["lag"].value == 10
    assert checks._freshness(key, status, 900).passed
    blocking = {spec.name for spec in checks._specs() if spec.blocking}
    assert blocking == {checks.NAME, checks.BALANCES, checks.SCHEMA}


def test_following_without_dagster_tells_what_is_wrong(
    database: Any, settings: Settings, environ: dict[str, str], tmp_path: Path
) -> None:
    insert_events(database, payment_history(1, 30))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    # An event that no projection can fold: each stops before it.
    insert_events(database, [{**event(31, "p", "PaymentProcessed", 100), "eventType": "Nonsense"}])
    # Projections stop; the lake's tables can not be made, which the process that follows the lake tells.
    wanted = {("raised", "stopped/payment_trends"), ("raised", "failing/event_lake")}
    with receiver() as server:

        def told() -> list[tuple[str, str]]:
            return [(body["event"], body["key"]) for _, _, body in server.posts]

        environ |= {"LEDGERLAKE_ALERT_WEBHOOK": server.url, "no_proxy": "127.0.0.1"}
        # Imported by the process of the lake, too.
        (tmp_path / "often.py").write_text(
            "import sys\nfrom ledgerlake import alerts\nfrom ledgerlake.cli import main\n"
            "alerts.LOOK_SECONDS = 0.2\n"
            "if __name__ == '__main__':\n    sys.exit(main())\n"
        )
        command = [sys.executable, str(tmp_path / "often.py"), "refresh", "--follow"]
        process = subprocess.Popen(command, env=environ)
        try:
            deadline = time.monotonic() + 300
            while not wanted <= set(told()) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        assert wanted <= set(told())
        assert len(told()) == len(set(told())), "each once"


def test_who_follows_next_tells_nothing_again(
    database: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(alerts, "LOOK_SECONDS", 0.02)
    insert_events(database, [{**event(1, "p", "PaymentProcessed", 100), "eventType": "Nonsense"}])
    with receiver() as server:
        settings = replace(settings, alert_webhook=server.url, alert_lag_seconds=10**9)

        def follow_until(*wanted: str) -> set[str]:
            server.posts.clear()
            with LedgerLake.open(settings) as ledger, ledger.follow() as runner, Alerts(ledger, runner):
                deadline = time.monotonic() + 120
                while not set(wanted) <= {body["key"] for _, _, body in server.posts}:
                    assert time.monotonic() < deadline, server.posts
                    time.sleep(0.02)
            return {f"{body['event']} {body['key']}" for _, _, body in server.posts}

        # The other one looks at failed attempts only.
        stopped = [f"stopped/{name}" for name in PROJECTIONS if name != "failure_reasons"]
        assert follow_until(*stopped) == {f"raised {key}" for key in stopped}
        # Something new comes up while nobody follows: that alone is told.
        record(database, "everything", 1, [Check("log chain", ok=False, detail="")], 0.0)
        assert follow_until("check/log chain") == {"raised check/log chain"}
        # Which is due to what was kept.
        (settings.home / "alerts" / "follow.json").unlink()
        assert follow_until(*stopped) >= {f"raised {key}" for key in stopped}
        # What is mended meanwhile is over.
        database["events"].update_one({}, {"$set": {"eventType": "PaymentProcessed"}})
        assert follow_until(*stopped) == {f"resolved {key}" for key in stopped}
