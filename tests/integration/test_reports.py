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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.columnar import columns_of_documents
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.files import FolderBusyError, exclusive
from ledgerlake.lake.pinned import PinnedLake
from ledgerlake.reports import (
    BillingReport,
    Interval,
    ReportError,
    ReportSpec,
    billing,
    refresh_billing,
)
from ledgerlake.reports.billing_definition import CATEGORIES, LINE_FX, SUMMARY_FX
from ledgerlake.reports.bookings import summaries
from ledgerlake.reports.books import Books, Entry
from ledgerlake.reports.manifest import read_manifest
from ledgerlake.reports.slug import slug
from ledgerlake.reports.writer import LOCK, write_reports
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
        for path in sorted(out.rglob("*.*"))
        if path.suffix in (".parquet", ".json")
    }


def bill(lake: EventLake, period: str, organization: str | None, out: Path, **given: Any) -> BillingReport:
    return billing(lake, ReportSpec(Interval.parse(period), organization), out, **given)


def rows(out: Path, month: str, organization: str, name: str) -> list[dict[str, Any]]:
    return pl.read_parquet(out / month / slug(organization) / f"{name}.parquet").to_dicts()


def month_of(document: dict[str, Any]) -> str:
    return str(document["timestamp"].astimezone(UTC).strftime("%Y-%m"))


def change_of(document: dict[str, Any]) -> int:
    """What a movement does to the balance, in minor units."""
    sign = {"PaymentProcessed": 1, "PaymentFailed": 0, "PaymentRefunded": -1}[document["eventType"]]
    return sign * int(document["eventData"]["amountMinor"])


def in_order(documents: list[dict[str, Any]], organization: str) -> list[dict[str, Any]]:
    mine = [each for each in documents if each["metadata"]["organizationId"] == organization]
    return sorted(mine, key=lambda e: (e["timestamp"], e["position"]))


def expected_lines(documents: list[dict[str, Any]], month: str, organization: str) -> list[dict[str, Any]]:
    """The lines of a report in UTC with nothing closed, written out by hand."""
    lines: list[dict[str, Any]] = []
    balances: dict[str, int] = {}
    charges = {each["aggregateId"]: each for each in documents if each["eventType"] == "PaymentProcessed"}
    for each in in_order(documents, organization):
        data = each["eventData"]
        minor, places = int(data["amountMinor"]), exponent(data["currency"])
        balance = balances[data["currency"]] = balances.get(data["currency"], 0) + change_of(each)
        if month_of(each) != month:
            continue
        category = {
            "PaymentProcessed": "charge",
            "PaymentFailed": "failure",
            "PaymentRefunded": "unreferenced_credit" if data.get("unreferenced") else "refund",
        }[each["eventType"]]
        failed = minor if category == "failure" else None
        original = charges[each["aggregateId"]] if category == "refund" else None
        at = each["timestamp"]
        lines.append(
            {
                "line": len(lines) + 1,
                "line_id": f"{month.replace('-', '')}-{each['position']}",
                "organization_id": organization,
                "event_id": str(each["_id"]),
                "position": each["position"],
                "payment_id": each["aggregateId"],
                "attempt": data.get("attempt"),
                "category": category,
                "movement": category,
                "occurred_at": at,
                "occurred_local": at.replace(tzinfo=None),
                "day": at.date(),
                "booked_at": at,
                "period": month,
                "occurred_period": month,
                "currency": data["currency"],
                "exponent": places,
                "amount_minor": change_of(each),
                "amount": Decimal(change_of(each)).scaleb(-places),
                "failed_minor": failed,
                "failed": None if failed is None else Decimal(failed).scaleb(-places),
                "balance_minor": balance,
                "balance": Decimal(balance).scaleb(-places),
                "reason": data.get("reason"),
                "original_at": None if original is None else original["timestamp"],
                "original_event_id": None if original is None else str(original["_id"]),
                "user_id": each["metadata"]["userId"],
                "correlation_id": each["correlationId"],
                "command_id": each["commandId"],
                **dict.fromkeys(each.name for each in LINE_FX),
            }
        )
    return lines


def expected_summary(documents: list[dict[str, Any]], month: str, organization: str) -> list[dict[str, Any]]:
    """The summary of the same report, from the documents."""
    lines = expected_lines(documents, month, organization)
    before = [each for each in in_order(documents, organization) if month_of(each) < month]
    openings: dict[str, int] = {}
    for each in before:
        currency = each["eventData"]["currency"]
        openings[currency] = openings.get(currency, 0) + change_of(each)
    shown = {line["currency"] for line in lines} | {each for each, minor in openings.items() if minor}
    found = []
    for currency in sorted(shown):
        opening = openings.get(currency, 0)
        closing = opening + sum(line["amount_minor"] for line in lines if line["currency"] == currency)
        for category in CATEGORIES:
            mine = [line for line in lines if (line["currency"], line["category"]) == (currency, category)]
            refunds = [line for line in mine if line["movement"] in ("refund", "unreferenced_credit")]
            failures = [line for line in mine if line["movement"] == "failure"]
            minor = {
                "gross": sum(max(line["amount_minor"], 0) for line in mine),
                "refunded": -sum(line["amount_minor"] for line in refunds),
                "net": sum(line["amount_minor"] for line in mine),
                "failed": sum(line["failed_minor"] for line in failures),
                "opening": opening,
                "closing": closing,
            }
            found.append(
                {
                    "organization_id": organization,
                    "currency": currency,
                    "exponent": exponent(currency),
                    "category": category,
                    "count": len(mine),
                    "refunds": len(refunds),
                    "failures": len(failures),
                    **{f"{name}_minor": value for name, value in minor.items()},
                    **{name: Decimal(value).scaleb(-exponent(currency)) for name, value in minor.items()},
                    **dict.fromkeys(each.name for each in SUMMARY_FX),
                }
            )
    return found


def test_every_movement_of_the_month_is_a_line_and_nothing_else(
    database: Db, lake: EventLake, out: Path
) -> None:
    documents = payment_history(1, 2_000, payments=200)
    insert_events(database, documents)
    lake.refresh(database)
    organizations = {each["metadata"]["organizationId"] for each in documents}
    total = 0
    for month in MONTHS:
        report = bill(lake, month, None, out)
        assert report.position == 2_000
        for organization in organizations:
            lines = expected_lines(documents, month, organization)
            assert rows(out, month, organization, "itemised") == lines
            total += len(lines)
        assert report.lines == sum(month_of(each) == month for each in documents)
    assert total == 2_000


def test_the_summary_is_what_the_lines_come_to_per_currency_and_category(
    database: Db, lake: EventLake, out: Path
) -> None:
    documents = payment_history(2, 2_000, payments=200)
    insert_events(database, documents)
    lake.refresh(database)
    report = bill(lake, "2026-02", None, out)
    summed: dict[str, int] = {}
    for organization in {each["metadata"]["organizationId"] for each in documents}:
        summary = rows(out, "2026-02", organization, "summary")
        assert summary == expected_summary(documents, "2026-02", organization)
        for row in summary:
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
        bill(lake, month, "acme", out)
        found[month] = [line["amount_minor"] for line in rows(out, month, "acme", "itemised")]
    assert found == {"2026-01": [10], "2026-02": [100, 1_000], "2026-03": [10_000]}


def test_the_same_events_give_the_same_bytes(
    database: Db, lake: EventLake, out: Path, tmp_path: Path
) -> None:
    insert_events(database, payment_history(3, 1_500))
    lake.refresh(database)
    bill(lake, "2026-02", None, out)
    whole = contents(out)
    other_lake = EventLake(tmp_path / "other", 90)
    other_lake.refresh(database, up_to=777)
    other_lake.refresh(database)
    bill(other_lake, "2026-02", None, tmp_path / "again")
    assert contents(tmp_path / "again") == whole
    refresh_billing(lake, tmp_path / "all")
    for folder in (out / "2026-02").iterdir():
        draft = read_manifest(tmp_path / "all" / "2026-02" / "draft" / folder.name)
        asked = read_manifest(folder)
        assert (draft.report_id, draft.digest) == (asked.report_id, asked.digest)
    refresh_billing(other_lake, tmp_path / "all again")
    assert contents(tmp_path / "all") == contents(tmp_path / "all again")
    bill(lake, "2026-02", "org 1", tmp_path / "one")
    assert contents(tmp_path / "one").items() <= whole.items()


def test_a_report_as_of_a_position_is_the_one_that_was_made_there(
    database: Db, lake: EventLake, out: Path, tmp_path: Path
) -> None:
    insert_events(database, payment_history(15, 600))
    lake.refresh(database, up_to=400)
    made = bill(lake, "2026-01-31..2026-02-11", None, out)
    assert (made.position, made.lines > 0) == (400, True)
    lake.refresh(database)
    again = bill(lake, "2026-01-31..2026-02-11", None, tmp_path / "again", as_of="400")
    assert again.position == 400
    assert contents(tmp_path / "again") == contents(out)
    now = bill(lake, "2026-01-31..2026-02-11", None, tmp_path / "now")
    assert now.lines > made.lines
    with pytest.raises(ReportError, match="ends at position 600"):
        bill(lake, "2026-02", None, out, as_of="601")


def test_a_month_without_movements_is_a_report_without_lines(
    database: Db, lake: EventLake, out: Path
) -> None:
    documents = payment_history(4, 200)
    insert_events(database, documents)
    lake.refresh(database)
    report = bill(lake, "1999-12", "org 1", out)
    assert (report.lines, report.totals, len(report.files)) == (0, (), 3)
    assert rows(out, "1999-12", "org 1", "itemised") == []
    assert rows(out, "1999-12", "org 1", "summary") == []
    assert bill(lake, "1999-12", None, out).files == ()
    # Afterwards there is a balance, which is shown.
    later = bill(lake, "2026-07", None, out)
    assert (later.lines, len(later.organizations)) == (0, 4)
    for organization in later.organizations:
        assert rows(out, "2026-07", organization, "itemised") == []
        found = rows(out, "2026-07", organization, "summary")
        assert found == expected_summary(documents, "2026-07", organization)
        assert all(row["opening_minor"] == row["closing_minor"] != 0 for row in found)


def test_reports_that_do_not_add_up_together_never_lie_beside_each_other(
    database: Db, lake: EventLake, out: Path
) -> None:
    at = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    first = [event(1, "p", "PaymentProcessed", 100, at=at), event(2, "q", "PaymentProcessed", 5)]
    insert_events(database, first)
    lake.refresh(database)
    bill(lake, "2026-01", None, out)
    [folder] = [path.parent for path in out.glob("2026-01/*/manifest.json")]
    mine = folder / "notes.xlsx"
    mine.write_text("checked")
    bill(lake, "2026-01", None, out)
    assert mine.read_text() == "checked"
    with pytest.raises(ReportError, match="count movements twice"):
        billing(lake, ReportSpec(Interval.parse("2026-01", "Europe/Berlin")), out)
    # As of an earlier position there is one organization less: its report goes, what is not ours stays.
    insert_events(database, [event(3, "z", "PaymentProcessed", 7, at=at, organization="later")])
    lake.refresh(database)
    bill(lake, "2026-01", None, out)
    assert (out / "2026-01" / "later" / "manifest.json").exists()
    bill(lake, "2026-01", None, out, as_of="2")
    assert not (out / "2026-01" / "later").exists()
    assert mine.exists()
    with pytest.raises(ReportError, match="has not come yet"):
        bill(lake, "2026-01", None, out, as_of="2999-01-01T00:00Z")


def test_the_books_are_read_when_nobody_else_writes_any_more(
    database: Db, lake: EventLake, out: Path
) -> None:
    """A close that comes while a refresh waits counts: else its late line would be in a draft."""
    january, february = datetime(2026, 1, 9, tzinfo=UTC), datetime(2026, 2, 9, tzinfo=UTC)
    insert_events(
        database,
        [
            event(n, str(n), "PaymentProcessed", 5, at=at)
            for n, at in enumerate([january, january, february], 1)
        ],
    )
    lake.refresh(database)
    month = Interval.parse("2026-01")
    entry = Entry(1, "close", "2026-01", "UTC", month.start, month.end, 1, 1, february, "ann")
    (out / entry.folder).mkdir(parents=True)
    seen: list[Books] = []

    def books() -> Books:
        lock = (out if not seen else out / "mine") / LOCK
        with pytest.raises(FolderBusyError), exclusive(lock, timeout=0):
            pass
        seen.append(Books("UTC", (entry,)))
        return seen[-1]

    assert refresh_billing(lake, out, books).months == ("2026-02",)
    report = billing(lake, ReportSpec(month), out / "mine", books=books)
    assert (report.lines, len(seen)) == (1, 2)
    # Negative control: with the books of before the close, the late line is in January's draft.
    assert refresh_billing(lake, out).months == ("2026-01", "2026-02")


@pytest.mark.parametrize("organization", ["Org 1", "org 1 ", "nobody", ""])
def test_an_organization_that_never_occurs_is_an_error(
    database: Db, lake: EventLake, out: Path, organization: str
) -> None:
    insert_events(database, payment_history(5, 200))
    lake.refresh(database)
    with pytest.raises(ReportError, match="spelling"):
        bill(lake, "2026-02", organization, out)
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
    report = bill(lake, "2026-01", None, out)
    assert sorted(report.organizations) == sorted(names)
    folders = {path.parent for path in report.files}
    assert len(folders) == len({str(folder).casefold() for folder in folders}) == len(names)
    assert all(folder.resolve().parent == (out / "2026-01").resolve() for folder in folders)
    for i, name in enumerate(names, 1):
        (line,) = rows(out, "2026-01", name, "itemised")
        assert (line["organization_id"], line["amount_minor"]) == (name, i)
        one = bill(lake, "2026-01", name, out)
        assert (one.organizations, one.lines) == ((name,), 1)


def test_files_say_what_they_are_and_as_of_which_position(database: Db, lake: EventLake, out: Path) -> None:
    insert_events(database, payment_history(6, 300))
    lake.refresh(database)
    report = bill(lake, "2026-02", "org 2", out)
    manifest = read_manifest(report.files[0].parent)
    for path in report.files[:2]:
        stated = {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}
        assert stated["ledgerlake.report_id"] == manifest.report_id
        assert stated["ledgerlake.position"] == "300"
        assert stated["ledgerlake.organization"] == "org 2"
        assert json.loads(stated["ledgerlake.interval"]) == {
            "label": "2026-02",
            "start": "2026-02-01T00:00:00+00:00",
            "end": "2026-03-01T00:00:00+00:00",
            "zone": "UTC",
        }
        assert stated["ledgerlake.lines"] == str(report.lines)
        charged = {
            each["currency"]: each["gross_minor"]
            for each in json.loads(stated["ledgerlake.totals"])
            if each["category"] == "charge"
        }
        assert charged == {each.currency: each.gross_minor for each in report.totals}


def test_a_refresh_writes_what_new_events_change_and_nothing_else(
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
    late = event(
        1_001, "late", "PaymentProcessed", 5, at=datetime(2026, 2, 3, tzinfo=UTC), organization="org 3"
    )
    new = event(
        1_002, "new", "PaymentFailed", 5, at=datetime(2026, 2, 4, tzinfo=UTC), organization="newcomer"
    )
    insert_events(database, [late, new])
    lake.refresh(database)
    # The late charge is in the opening balance of the month after, too.
    assert refresh_billing(lake, out).months == ("2026-02", "2026-03")
    after = contents(out)
    assert {str(Path(path).parent) for path in after if after[path] != before.get(path)} == {
        ".",
        *(f"{month}/draft/{slug('org 3')}" for month in ("2026-02", "2026-03")),
        "2026-02/draft/newcomer",
    }
    documents += [late, new]
    for month in MONTHS:
        for organization in {each["metadata"]["organizationId"] for each in documents}:
            if not (out / month / "draft" / slug(organization)).exists():
                assert (month, organization) != ("2026-02", "newcomer")
                assert expected_summary(documents, month, organization) == []
                continue
            for name, expected in (("itemised", expected_lines), ("summary", expected_summary)):
                found = rows(out, f"{month}/draft", organization, name)
                assert found == expected(documents, month, organization)


def test_a_report_of_nothing_but_a_balance_goes_when_the_balance_does(
    database: Db, lake: EventLake, out: Path
) -> None:
    may, june = datetime(2026, 5, 9, tzinfo=UTC), datetime(2026, 6, 9, tzinfo=UTC)
    insert_events(
        database,
        [
            event(1, "p1", "PaymentProcessed", 70, at=may),
            event(2, "p2", "PaymentProcessed", 5, at=june, organization="b"),
        ],
    )
    lake.refresh(database)
    refresh_billing(lake, out)
    assert [path.name for path in sorted((out / "2026-06" / "draft").iterdir())] == ["acme", "b"]
    insert_events(database, [event(3, "p1", "PaymentRefunded", 70, at=may + timedelta(days=1), version=2)])
    lake.refresh(database)
    refresh_billing(lake, out)
    assert [path.name for path in (out / "2026-06" / "draft").iterdir()] == ["b"]
    refresh_billing(lake, out.with_name("anew"))
    drafts = {path: digest for path, digest in contents(out).items() if "/acme/" in path}
    assert drafts.items() <= contents(out.with_name("anew")).items()


def test_reports_that_were_deleted_come_back(database: Db, lake: EventLake, out: Path) -> None:
    insert_events(database, payment_history(8, 500))
    lake.refresh(database)
    refresh_billing(lake, out)
    whole = contents(out)
    shutil.rmtree(out / "2026-02" / "draft")
    assert refresh_billing(lake, out).months == ("2026-02",)
    assert contents(out) == whole
    (out / "2026-01" / "draft" / slug("org 1") / "summary.parquet").unlink()
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
        bill(lake, "2026-02", None, out)
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
    report = bill(big, "2026-02", "acme", out, on_progress=lambda done, total: told.append((done, total)))
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
            [sys.executable, "-c", code, "billing", "--period", "2026-02", "--out", str(out), *arguments],
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


@pytest.mark.parametrize(
    ("column", "category"),
    [
        ("count", "charge"),
        ("gross_minor", "charge"),
        ("refunded_minor", "refund"),
        ("failures", "failure"),
        ("net_minor", "correction"),
        ("opening_minor", None),
        ("closing_minor", None),
        (None, "charge"),
    ],
)
def test_lines_that_are_not_those_of_their_summary_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str | None, category: str | None
) -> None:
    documents = [RawBSONDocument(encode(each)) for each in payment_history(14, 60)]
    pinned = PinnedLake(tmp_path, 60, (), columns_of_documents(documents, 0))

    def one_figure_is_wrong(*arguments: Any) -> list[pa.Table]:
        [table] = summaries(*arguments)
        found = table.to_pylist()
        row = next(row for row in found if category in (None, row["category"]))
        if column is None:
            found.remove(row)
        for each in found:
            if column is not None and (each is row or category is None):
                each[column] += 1
        return [pa.Table.from_pylist(found, table.schema)]

    spec = ReportSpec(Interval.parse("2026-02"))
    with pinned.duckdb() as connection:
        write_reports(pinned, connection, spec, tmp_path / "right")
        monkeypatch.setattr("ledgerlake.reports.writer.summaries", one_figure_is_wrong)
        with pytest.raises(ReportError, match="are not their summary's"):
            write_reports(pinned, connection, spec, tmp_path / "wrong")
    first = min(path.name for path in (tmp_path / "right").iterdir())
    assert list((tmp_path / "wrong" / first).iterdir()) == []
