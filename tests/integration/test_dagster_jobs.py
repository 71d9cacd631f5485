"""The jobs that somebody starts for a purpose: rebuild, close a month, verify, export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from pipelines.definitions import build
from pipelines.resources import Ledger
from tests.builders import insert_events, payment_history


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(autouse=True)
def _three_months(settings: Settings, database: Any) -> None:
    """A ledger of 300 events, from January to March 2026, with everything at its head."""
    insert_events(database, payment_history(seed=1, events=300))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()


def run(
    instance: dg.DagsterInstance, settings: Settings, job: str, op: str | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    return build(Ledger(settings)).resolve_job_def(job).execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {op or job: {"config": config}}} if config else None,
    )  # fmt: skip


def failures(result: dg.ExecuteInProcessResult) -> dict[str, dg.Failure]:
    return {
        str(each.step_key): each.step_failure_data.user_failure_data  # type: ignore[misc]
        for each in result.all_events
        if each.is_step_failure
    }


def logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def tamper(database: Any, model: str = "payment_statistics") -> dict[str, Any]:
    """Change one sum of a read model; which document."""
    victim: dict[str, Any] = database[model].find_one({"currency": "EUR", "status": "completed"})
    database[model].update_one({"_id": victim["_id"]}, {"$inc": {"totalMinor": 1}})
    return victim


def test_rebuild_mends_a_read_model_and_tells_its_page(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    victim = tamper(database)
    done = run(instance, settings, "rebuild", projection="payment_statistics", drop_old=True)
    assert done.success
    [told] = done.get_asset_materialization_events()
    assert told.asset_key == dg.AssetKey("payment_statistics")
    shown = {name: each.value for name, each in told.materialization.metadata.items()}
    assert (shown["position_to"], shown["events"], shown["lag"], shown["generation"]) == (300, 300, 0, 2)
    assert shown["documents_that_were_different"] == 1
    assert shown["dropped"] == [1]
    assert database["payment_statistics__2"].find_one({"_id": victim["_id"]}) == victim
    assert "payment_statistics" not in database.list_collection_names()


def test_rebuild_of_what_is_no_projection_says_which_there_are(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    failed = failures(run(instance, settings, "rebuild", projection="payments"))["rebuild"]
    assert "There is no projection 'payments'" in str(failed.description)
    assert "payment_statistics" in str(failed.metadata["remedy"].value)


def test_a_month_is_closed_and_told_on_its_partition(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    early = run(instance, settings, "close_period", period="2026-02")
    assert "2026-01 is the next month to close" in str(failures(early)["close_period"].description)
    assert database["billing_periods"].count_documents({}) == 0

    done = run(
        instance,
        settings,
        "close_period",
        period="2026-02",
        through=True,
        by="ann",
        formats=["parquet", "csv"],
    )
    assert done.success
    assert [(each["period"], each["by"]) for each in database["billing_periods"].find(sort=[("_id", 1)])] == [
        ("2026-01", "ann"),
        ("2026-02", "ann"),
    ]
    assert instance.get_dynamic_partitions("billing_month") == ["2026-01", "2026-02"]
    told = {
        str(each.partition): each.materialization.metadata for each in done.get_asset_materialization_events()
    }
    assert {month: (shown["state"].value, shown["revision"].value) for month, shown in told.items()} == {
        "2026-01": ("closed", 1),
        "2026-02": ("closed", 1),
    }
    folder = settings.reports_dir / "2026-02" / "revision-1"
    assert told["2026-02"]["folder"].value == str(folder)
    assert len(list(folder.glob("*/itemised.csv"))) == told["2026-02"]["organizations"].value

    again = run(instance, settings, "close_period", period="2026-02", by="bob")
    assert again.success
    assert again.get_asset_materialization_events() == []
    assert "2026-02 was closed already: revision 1 as of position 300, by ann" in logged(instance, again)


def test_what_is_due_is_closed_and_nothing_else(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    unset = failures(run(instance, settings, "close_period"))["close_period"]
    assert "LEDGERLAKE_CLOSE_AFTER_DAYS is not set" in str(unset.description)
    on = replace(settings, close_after_days=5)
    done = run(instance, on, "close_period", by="schedule")
    assert done.success
    closed = [each["period"] for each in database["billing_periods"].find(sort=[("_id", 1)])]
    assert closed[:3] == ["2026-01", "2026-02", "2026-03"]
    again = run(instance, on, "close_period", by="schedule")
    assert again.success
    assert "Nothing is due" in logged(instance, again)
    assert database["billing_periods"].count_documents({}) == len(closed)


def test_a_month_that_is_not_what_the_log_says_stays_open(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    victim = tamper(database)
    failed = failures(run(instance, settings, "close_period", period="2026-01"))["close_period"]
    assert victim["organizationId"] in str(failed.description)
    assert "ledgerlake verify" in str(failed.metadata["remedy"].value)
    assert database["billing_periods"].count_documents({}) == 0
    assert not list(settings.reports_dir.glob("*/revision-*"))


def test_verify_tells_of_every_layer_at_once(
    database: Any, settings: Settings, instance: dg.DagsterInstance
) -> None:
    sound = run(instance, settings, "verify")
    assert sound.success
    told = logged(instance, sound)
    assert "payment statistics" in told
    assert "billing reports" in told

    victim = tamper(database)
    [segment] = (settings.lake_dir / "events").rglob("*.parquet")
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)
    [report, *_] = settings.reports_dir.rglob("summary.parquet")
    report.write_bytes(report.read_bytes() + b" ")

    found = failures(run(instance, settings, "verify"))
    assert set(found) == {"verify_layers", "verify_lake", "verify_reports"}
    assert victim["organizationId"] in str(found["verify_layers"].metadata["differences"].value)
    assert segment.name in str(found["verify_lake"].metadata["differences"].value)
    assert "ledgerlake lake rebuild" in str(found["verify_lake"].metadata["remedy"].value)
    assert str(report.parent) in str(found["verify_reports"].metadata["differences"].value)


def test_an_export_is_what_the_command_line_writes(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    wanted = {"period": "2026-02-03..2026-02-10", "zone": "Asia/Kathmandu", "formats": ["parquet", "csv"]}
    done = run(instance, settings, "export", out=str(tmp_path), organization="org 1", as_of="250", **wanted)
    assert done.success
    [folder] = (tmp_path / "2026-02-03..2026-02-10").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"itemised.csv", "summary.parquet", "manifest.json"}
    lines = pl.read_parquet(folder / "itemised.parquet")
    assert lines["position"].max() <= 250  # type: ignore[operator]
    assert lines["organization_id"].unique().to_list() == ["org 1"]
    [told] = [each for each in done.all_events if each.is_successful_output]
    shown = told.step_output_data.metadata
    assert (shown["position"].value, shown["lines"].value) == (250, lines.height)
    net = lines.group_by("currency").agg(pl.col("amount_minor").sum()).sort("currency")
    assert {name: value.value for name, value in shown.items() if name.startswith("net_minor/")} == {
        f"net_minor/{currency}": minor for currency, minor in net.iter_rows()
    }


def test_an_export_that_can_not_be_made_says_why(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for config, named in (
        ({"period": "2026-13"}, "2026-13"),
        ({"period": "2026-02", "organization": "nobody"}, "nobody"),
        ({"period": "2026-02", "formats": ["docx"]}, "docx"),
        ({"period": "2026-02", "unconverted": True}, "currency: EUR"),
        ({"period": "2026-02", "zone": "Mars/Phobos"}, "Mars/Phobos"),
    ):
        failed = failures(run(instance, settings, "export", out=str(out), **config))["export"]
        assert named in str(failed.description)
        assert failed.metadata["remedy"].value
        assert not list(out.rglob("*.parquet"))
