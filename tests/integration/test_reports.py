"""Billing reports: exact, complete up to the boundary, reproducible, organizations never mixed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.reports import ReportError, billing, refresh_billing
from ledgerlake.reports.slug import slug
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
MONTHS = ("2026-01", "2026-02", "2026-03")


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake(tmp_path / "lake", 700)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def contents(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.parquet"))
    }


def rows(out: Path, month: str, organization: str, name: str) -> list[dict[str, Any]]:
    return pl.read_parquet(out / month / slug(organization) / f"{name}.parquet").to_dicts()


def month_of(document: dict[str, Any]) -> str:
    return str(document["timestamp"].astimezone(UTC).strftime("%Y-%m"))


def expected_lines(documents: list[dict[str, Any]], month: str, organization: str) -> list[dict[str, Any]]:
    """The lines of a report, written out by hand."""
    found = [
        each
        for each in documents
        if month_of(each) == month and each["metadata"]["organizationId"] == organization
    ]
    lines = []
    for number, each in enumerate(sorted(found, key=lambda e: (e["timestamp"], e["position"])), 1):
        data = each["eventData"]
        minor = int(data["amountMinor"])
        category, sign = {
            "PaymentProcessed": ("charge", 1),
            "PaymentFailed": ("failure", 0),
            "PaymentRefunded": ("unreferenced_credit" if data.get("unreferenced") else "refund", -1),
        }[each["eventType"]]
        failed = minor if category == "failure" else None
        places = exponent(data["currency"])
        lines.append(
            {
                "line": number,
                "organization_id": organization,
                "event_id": str(each["_id"]),
                "position": each["position"],
                "payment_id": each["aggregateId"],
                "attempt": data.get("attempt"),
                "category": category,
                "occurred_at": each["timestamp"],
                "day": each["timestamp"].astimezone(UTC).date(),
                "currency": data["currency"],
                "exponent": places,
                "amount_minor": sign * minor,
                "amount": Decimal(sign * minor).scaleb(-places),
                "failed_minor": failed,
                "failed": None if failed is None else Decimal(failed).scaleb(-places),
                "user_id": each["metadata"]["userId"],
                "reason": data.get("reason"),
                "correlation_id": each["correlationId"],
                "command_id": each["commandId"],
            }
        )
    return lines


def test_every_movement_of_the_month_is_a_line_and_nothing_else(
    database: Db, lake: EventLake, out: Path
) -> None:
    documents = payment_history(1, 2_000, payments=200)
    insert_events(database, documents)
    lake.refresh(database)
    organizations = {each["metadata"]["organizationId"] for each in documents}
    total = 0
    for month in MONTHS:
        report = billing(lake, month, None, out)
        assert report.position == 2_000
        for organization in organizations:
            lines = expected_lines(documents, month, organization)
            assert rows(out, month, organization, "itemised") == lines
            total += len(lines)
        assert report.lines == sum(month_of(each) == month for each in documents)
    assert total == 2_000


def test_the_summary_is_the_sum_of_the_lines_per_currency(database: Db, lake: EventLake, out: Path) -> None:
    documents = payment_history(2, 2_000, payments=200)
    insert_events(database, documents)
    lake.refresh(database)
    report = billing(lake, "2026-02", None, out)
    summed: dict[str, int] = {}
    for organization in {each["metadata"]["organizationId"] for each in documents}:
        lines = expected_lines(documents, "2026-02", organization)
        summary = rows(out, "2026-02", organization, "summary")
        assert [row["currency"] for row in summary] == sorted({line["currency"] for line in lines})
        for row in summary:
            mine = [line for line in lines if line["currency"] == row["currency"]]

            def minor(*categories: str, mine: list[dict[str, Any]] = mine) -> int:
                return abs(sum(line["amount_minor"] for line in mine if line["category"] in categories))

            def count(*categories: str, mine: list[dict[str, Any]] = mine) -> int:
                return sum(line["category"] in categories for line in mine)

            failed = sum(line["failed_minor"] or 0 for line in mine)
            expected: dict[str, Any] = {
                "organization_id": organization,
                "currency": row["currency"],
                "exponent": exponent(row["currency"]),
                "charges": count("charge"),
                "gross_minor": minor("charge"),
                "refunds": count("refund", "unreferenced_credit"),
                "refunded_minor": minor("refund", "unreferenced_credit"),
                "credits": count("unreferenced_credit"),
                "credited_minor": minor("unreferenced_credit"),
                "net_minor": sum(line["amount_minor"] for line in mine),
                "failures": count("failure"),
                "failed_minor": failed,
            }
            for name in ("gross", "refunded", "credited", "net", "failed"):
                expected[name] = Decimal(expected[f"{name}_minor"]).scaleb(-exponent(row["currency"]))
            assert row == expected
            summed[row["currency"]] = summed.get(row["currency"], 0) + row["net_minor"]
    assert {each.currency: each.net_minor for each in report.totals} == summed
    assert all(each.net == each.gross - each.refunded for each in report.totals)


def test_the_first_and_the_last_millisecond_belong_to_the_month(
    database: Db, lake: EventLake, out: Path
) -> None:
    edges = [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)]
    instants = [edge + timedelta(milliseconds=offset) for edge in edges for offset in (-1, 0)]
    insert_events(
        database,
        [event(i, f"p{i}", "PaymentProcessed", 10**i, at=instant) for i, instant in enumerate(instants, 1)],
    )
    lake.refresh(database)
    found = {}
    for month in ("2026-01", "2026-02", "2026-03"):
        billing(lake, month, "acme", out)
        found[month] = [line["amount_minor"] for line in rows(out, month, "acme", "itemised")]
    assert found == {"2026-01": [10], "2026-02": [100, 1_000], "2026-03": [10_000]}


def test_the_same_events_give_the_same_bytes(
    database: Db, lake: EventLake, out: Path, tmp_path: Path
) -> None:
    insert_events(database, payment_history(3, 1_500))
    lake.refresh(database)
    billing(lake, "2026-02", None, out)
    whole = contents(out)
    other_lake = EventLake(tmp_path / "other", 90)
    other_lake.refresh(database, up_to=777)
    other_lake.refresh(database)
    billing(other_lake, "2026-02", None, tmp_path / "again")
    assert contents(tmp_path / "again") == whole
    refresh_billing(lake, tmp_path / "all")
    assert whole.items() <= contents(tmp_path / "all").items()
    billing(lake, "2026-02", "org 1", tmp_path / "one")
    assert contents(tmp_path / "one").items() <= whole.items()


def test_a_month_without_movements_is_a_report_without_lines(
    database: Db, lake: EventLake, out: Path
) -> None:
    insert_events(database, payment_history(4, 200))
    lake.refresh(database)
    report = billing(lake, "1999-12", "org 1", out)
    assert (report.lines, report.totals, len(report.files)) == (0, (), 2)
    assert rows(out, "1999-12", "org 1", "itemised") == []
    assert rows(out, "1999-12", "org 1", "summary") == []
    assert billing(lake, "1999-12", None, out).files == ()


@pytest.mark.parametrize("organization", ["Org 1", "org 1 ", "nobody", ""])
def test_an_organization_that_never_occurs_is_an_error(
    database: Db, lake: EventLake, out: Path, organization: str
) -> None:
    insert_events(database, payment_history(5, 200))
    lake.refresh(database)
    with pytest.raises(ReportError, match="spelling"):
        billing(lake, "2026-02", organization, out)
    assert list(out.rglob("*.parquet")) == []


def test_hostile_organization_names_stay_in_the_folder_and_apart(
    database: Db, lake: EventLake, out: Path
) -> None:
    names = ["../../escape", "/abs", "a/b", "a\\b", "Acme", "acme", "ACME", "con", "..", ".", " ", "é"]
    names += ["e\u0301", "x" * 500, "x" * 500 + "y", "'; DROP TABLE events; --", "日本"]
    insert_events(
        database,
        [event(i, f"p{i}", "PaymentProcessed", i, organization=name) for i, name in enumerate(names, 1)],
    )
    lake.refresh(database)
    report = billing(lake, "2026-01", None, out)
    assert sorted(report.organizations) == sorted(names)
    folders = {path.parent for path in report.files}
    assert len(folders) == len({str(folder).casefold() for folder in folders}) == len(names)
    assert all(folder.resolve().parent == (out / "2026-01").resolve() for folder in folders)
    for i, name in enumerate(names, 1):
        (line,) = rows(out, "2026-01", name, "itemised")
        assert (line["organization_id"], line["amount_minor"]) == (name, i)
        one = billing(lake, "2026-01", name, out)
        assert (one.organizations, one.lines) == ((name,), 1)


def test_files_say_what_they_are_and_as_of_which_position(database: Db, lake: EventLake, out: Path) -> None:
    insert_events(database, payment_history(6, 300))
    lake.refresh(database)
    report = billing(lake, "2026-02", "org 2", out)
    for path in report.files:
        stated = {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}
        assert stated["ledgerlake.position"] == "300"
        assert stated["ledgerlake.organization"] == "org 2"
        assert stated["ledgerlake.from"] == "2026-02-01T00:00:00+00:00"
        assert stated["ledgerlake.before"] == "2026-03-01T00:00:00+00:00"
        assert stated["ledgerlake.time_zone"] == "UTC"
        assert stated["ledgerlake.lines"] == str(report.lines)
        totals = {each["currency"]: each["gross_minor"] for each in json.loads(stated["ledgerlake.totals"])}
        assert totals == {each.currency: each.gross_minor for each in report.totals}


def test_a_refresh_writes_the_months_that_have_new_events_and_no_other(
    database: Db, lake: EventLake, out: Path
) -> None:
    documents = payment_history(7, 1_000)
    insert_events(database, documents)
    lake.refresh(database)
    first = refresh_billing(lake, out)
    assert (first.from_position, first.to_position, first.months) == (0, 1_000, MONTHS)
    assert first.lines == 1_000
    again = refresh_billing(lake, out)
    assert (again.from_position, again.to_position, again.months, again.files) == (1_000, 1_000, (), ())

    before = contents(out)
    late = event(1_001, "late", "PaymentFailed", 5, at=datetime(2026, 2, 3, tzinfo=UTC), organization="org 3")
    insert_events(database, [late])
    lake.refresh(database)
    assert refresh_billing(lake, out).months == ("2026-02",)
    after = contents(out)
    assert {path for path in after if after[path] != before.get(path)} == {
        path for path in after if path.startswith("2026-02/")
    }
    assert rows(out, "2026-02", "org 3", "itemised") == expected_lines([*documents, late], "2026-02", "org 3")


def test_reports_that_were_deleted_come_back(database: Db, lake: EventLake, out: Path) -> None:
    insert_events(database, payment_history(8, 500))
    lake.refresh(database)
    refresh_billing(lake, out)
    whole = contents(out)
    shutil.rmtree(out / "2026-02")
    assert refresh_billing(lake, out).months == ("2026-02",)
    assert contents(out) == whole
    (out / "2026-01" / slug("org 1") / "summary.parquet").unlink()
    assert refresh_billing(lake, out).months == ("2026-01",)
    assert contents(out) == whole
    shutil.rmtree(out)
    assert refresh_billing(lake, out).months == MONTHS
    assert contents(out) == whole
    (out / "checkpoint.json").unlink()
    assert refresh_billing(lake, out).months == MONTHS
    assert contents(out) == whole


def test_reports_of_another_log_are_never_mixed_with(
    database: Db, lake: EventLake, out: Path, tmp_path: Path
) -> None:
    insert_events(database, payment_history(9, 500))
    lake.refresh(database)
    refresh_billing(lake, out)
    before = contents(out)
    behind = EventLake(tmp_path / "behind", 700)
    behind.refresh(database, up_to=100)
    with pytest.raises(ReportError, match="Refresh the lake"):
        refresh_billing(behind, out)
    database["events"].delete_many({})
    insert_events(database, payment_history(10, 500))
    other = EventLake(tmp_path / "other", 700)
    other.refresh(database)
    with pytest.raises(ReportError, match="another log"):
        refresh_billing(other, out)
    assert contents(out) == before


def test_a_damaged_checkpoint_is_an_error_with_the_remedy(lake: EventLake, out: Path) -> None:
    out.mkdir()
    (out / "checkpoint.json").write_text('{"position": ')
    with pytest.raises(ReportError, match="Delete it"):
        refresh_billing(lake, out)


def test_a_damaged_segment_stops_the_report_and_is_named(database: Db, lake: EventLake, out: Path) -> None:
    insert_events(database, payment_history(11, 1_000))
    lake.refresh(database)
    sealed = lake.segments()[0].path
    content = bytearray(sealed.read_bytes())
    for at in range(1_000, len(content) - 20_000, 400):
        content[at] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(CorruptFileError, match=sealed.name):
        billing(lake, "2026-02", None, out)
    assert list(out.rglob("*.parquet")) == []


def test_a_report_larger_than_a_row_group_is_numbered_through(
    database: Db, lake: EventLake, out: Path
) -> None:
    count = 45_000
    start = datetime(2026, 2, 1, tzinfo=UTC)
    insert_events(
        database,
        [
            event(i, f"p{i}", "PaymentProcessed", 1, at=start + timedelta(milliseconds=count - i))
            for i in range(1, count + 1)
        ],
    )
    told: list[tuple[int, int]] = []
    big = EventLake(lake.root, 700)
    big.refresh(database)
    report = billing(big, "2026-02", "acme", out, on_progress=lambda done, total: told.append((done, total)))
    found = pl.read_parquet(report.files[0])
    assert found["line"].to_list() == list(range(1, count + 1))
    assert found["position"].to_list() == list(range(count, 0, -1))
    assert told[-1] == (count, count)


def test_the_command_reports_up_to_the_head_and_prints_its_totals(
    database: Db, lake: EventLake, out: Path, environ: dict[str, str]
) -> None:
    documents = payment_history(12, 300)
    insert_events(database, documents)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from ledgerlake.cli.report import report_app; report_app()"
        return subprocess.run(
            [sys.executable, "-c", code, "billing", "--month", "2026-02", "--out", str(out), *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
        )

    done = run("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["position"] == 300
    assert found["lines"] == sum(month_of(each) == "2026-02" for each in documents)
    assert all(Path(file).is_file() for file in found["files"])
    gross = {each["currency"]: Decimal(each["gross"]) for each in found["totals"]}
    for currency, total in gross.items():
        mine = [
            each["eventData"]["amount"].to_decimal()
            for each in documents
            if month_of(each) == "2026-02"
            and each["eventData"]["currency"] == currency
            and each["eventType"] == "PaymentProcessed"
        ]
        assert total == sum(mine)

    insert_events(database, payment_history(13, 10, after=300))
    unrefreshed = run("--json", "--no-refresh", "--organization", "org 1")
    assert json.loads(unrefreshed.stdout)["position"] == 300
    table = run("--organization", "org 1")
    assert table.returncode == 0
    assert "position 310" in table.stdout
