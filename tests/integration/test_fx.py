"""Reports in a reporting currency: line by line, in the files, from the command line, and re-checked."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.cli import app
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.reports import Interval, ReportError, ReportSpec, billing
from ledgerlake.reports.books import Books
from ledgerlake.reports.manifest import read_manifest
from ledgerlake.reports.rates import Rates
from ledgerlake.reports.verify import verify_reports
from ledgerlake.settings import Settings
from tests.builders import event, insert_events

Db = Database[dict[str, Any]]
Row = dict[str, Any]

# Friday, and the Monday after; the dinar is pegged to the dollar, and no central bank of ours quotes it.
RATES = """date,currency,rate
2024-03-22,USD,1.0823
2024-03-22,JPY,163.48
2024-03-22,GBP,0.85943
2024-03-22,BHD,0.4069
2024-03-25,USD,1.0835
2024-03-25,JPY,163.97
2024-03-25,GBP,0.85743
2024-03-25,BHD,0.4074
"""
SATURDAY, MONDAY = datetime(2024, 3, 23, 23, 30, tzinfo=UTC), datetime(2024, 3, 25, 9, tzinfo=UTC)
IN_AUCKLAND_MONDAY = datetime(2024, 3, 24, 13, 30, tzinfo=UTC)
TOO_EARLY = datetime(2024, 3, 4, 12, tzinfo=UTC)


def documents() -> list[Row]:
    return [
        event(1, "p1", "PaymentProcessed", 10_001, currency="GBP", at=SATURDAY),
        event(2, "p2", "PaymentProcessed", 1_999, currency="JPY", at=SATURDAY),
        event(3, "p3", "PaymentProcessed", 12_345_678, currency="BHD", at=MONDAY),
        event(4, "p4", "PaymentFailed", 500, currency="GBP", at=MONDAY),
        event(5, "p1", "PaymentRefunded", 5_000, currency="GBP", at=MONDAY, version=2),
        event(6, "p5", "PaymentProcessed", 777, currency="EUR", at=TOO_EARLY),
        event(7, "p6", "PaymentProcessed", 1_000, currency="GBP", at=IN_AUCKLAND_MONDAY),
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "treasury.csv"
    path.write_text(RATES)
    return path


@pytest.fixture
def lake(database: Db, settings: Settings) -> EventLake:
    insert_events(database, documents())
    lake = EventLake(settings.lake_dir, 100)
    lake.refresh(database)
    return lake


def bill(lake: EventLake, out: Path, **spec: Any) -> tuple[dict[int, Row], list[Row]]:
    """The lines by position, and the summary."""
    report = billing(lake, ReportSpec(Interval.parse("2024-03"), **spec), out)
    [lines] = [path for path in report.files if path.name == "itemised.parquet"]
    rows = {row["position"]: row for row in pl.read_parquet(lines).to_dicts()}
    return rows, pl.read_parquet(lines.with_name("summary.parquet")).to_dicts()


def test_every_line_states_its_rate_and_the_summary_adds_up_the_lines(
    lake: EventLake, tmp_path: Path, file: Path
) -> None:
    rates = Rates.load(file)
    plain, _ = bill(lake, tmp_path / "plain")
    lines, summary = bill(lake, tmp_path / "euros", currency="EUR", rates=rates)
    assert [
        (lines[n]["fx_amount"], lines[n]["fx_amount_minor"], lines[n]["fx_rate_date"]) for n in sorted(lines)
    ] == [
        (Decimal("116.37"), 11_637, date(2024, 3, 22)),  # 100.01 / 0.85943
        (Decimal("12.23"), 1_223, date(2024, 3, 22)),  # 1999 / 163.48 = 12.2278...
        (Decimal("30303.58"), 3_030_358, date(2024, 3, 25)),  # 12345.678 / 0.4074 = 30303.5788...
        (Decimal(0), 0, date(2024, 3, 25)),
        (Decimal("-58.31"), -5_831, date(2024, 3, 25)),  # its own day's rate, not its payment's
        (Decimal("7.77"), 777, date(2024, 3, 4)),
        (Decimal("11.64"), 1_164, date(2024, 3, 22)),
    ]
    assert lines[1]["fx_source"] == "treasury.csv: 1 EUR = 0.85943 GBP"
    assert {row["fx_currency"] for row in [*lines.values(), *summary]} == {"EUR"}
    # The other columns are those of the report without.
    for position, row in plain.items():
        assert {name: value for name, value in row.items() if not name.startswith("fx_")} == {
            name: value for name, value in lines[position].items() if not name.startswith("fx_")
        }
        assert {value for name, value in row.items() if name.startswith("fx_")} == {None}
    for row in summary:
        of = [
            each
            for each in lines.values()
            if [each[n] for n in ("currency", "category")] == [row["currency"], row["category"]]
        ]
        assert row["fx_net_minor"] == sum(each["fx_amount_minor"] for each in of)
        assert row["fx_oldest_rate_date"] == min((each["fx_rate_date"] for each in of), default=None)
        assert row["unconverted"] == 0
    yen, _ = bill(lake, tmp_path / "yen", currency="JPY", rates=rates, unconverted=True)
    assert yen[3]["fx_amount_minor"] == 4_968_878  # 12345.678 / 0.4074 * 163.97 = 4968877.81...
    dinars, _ = bill(lake, tmp_path / "dinars", currency="BHD", rates=rates, unconverted=True)
    assert dinars[1]["fx_amount"] == Decimal("47.350")  # 100.01 / 0.85943 * 0.4069 = 47.35006...


def test_the_day_of_a_rate_is_that_of_the_books_and_not_of_the_report(
    lake: EventLake, tmp_path: Path, file: Path
) -> None:
    rates = Rates.load(file)
    found = {}
    for books in ("UTC", "Pacific/Auckland"):
        for zone in ("UTC", "Pacific/Auckland"):
            spec = ReportSpec(Interval.parse("2024-03", zone), None, Books(books), "EUR", rates)
            report = billing(lake, spec, tmp_path / books / zone)
            [lines] = [path for path in report.files if path.name == "itemised.parquet"]
            row = pl.read_parquet(lines).filter(pl.col("position") == 7).row(0, named=True)
            found[books, zone] = (row["day"].day, row["fx_rate_date"].day)
    assert found == {
        ("UTC", "UTC"): (24, 22),
        ("UTC", "Pacific/Auckland"): (25, 22),
        ("Pacific/Auckland", "UTC"): (24, 25),
        ("Pacific/Auckland", "Pacific/Auckland"): (25, 25),
    }


def test_a_day_without_a_rate_stops_the_report_or_leaves_its_lines_unconverted_and_counted(
    lake: EventLake, tmp_path: Path, file: Path
) -> None:
    rates = Rates.load(file)
    with pytest.raises(ReportError, match="no rate for USD on 2024-03-04, nor on a day before it"):
        bill(lake, tmp_path / "stopped", currency="USD", rates=rates)
    assert not [*(tmp_path / "stopped").rglob("*.parquet"), *(tmp_path / "stopped").rglob("*.json")]
    lines, summary = bill(lake, tmp_path / "counted", currency="USD", rates=rates, unconverted=True)
    left = {name: lines[6][name] for name in lines[6] if name.startswith("fx_")}
    assert left == dict.fromkeys(left) | {"fx_currency": "USD"}
    assert {(r["currency"], r["category"]): r["unconverted"] for r in summary if r["unconverted"]} == {
        ("EUR", "charge"): 1
    }
    assert sum(row["fx_net_minor"] for row in summary) == sum(
        row["fx_amount_minor"] or 0 for row in lines.values()
    )


def test_a_converted_report_is_known_by_its_rates_and_checked_with_them(
    database: Db, lake: EventLake, tmp_path: Path, file: Path
) -> None:
    rates = Rates.load(file)
    newer = tmp_path / "newer" / "treasury.csv"
    newer.parent.mkdir()
    newer.write_text(RATES.replace("0.85743", "0.85744"))
    ids = {}
    for name, given in (("plain", {}), ("one", {"rates": rates}), ("other", {"rates": Rates.load(newer)})):
        currency = {"currency": "EUR"} if given else {}
        bill(lake, tmp_path / name, **currency, **given)
        [manifest] = (tmp_path / name).rglob("manifest.json")
        ids[name] = read_manifest(manifest.parent).report_id
    assert len(set(ids.values())) == 3
    again = tmp_path / "again"
    bill(lake, again, currency="EUR", rates=Rates.load(file))
    for path in (tmp_path / "one").rglob("*.*"):
        if path.suffix in (".parquet", ".json"):
            assert (again / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()
    sound = verify_reports(tmp_path / "one", lake, rates=rates)
    assert (sound.ok, sound.notes) == (True, ())
    # Without the right rates the converted amounts can not be made again, which is told, and no difference.
    for wrong in (Rates.load(newer), None):
        found = verify_reports(tmp_path / "one", lake, rates=wrong)
        assert (found.ok, len(found.notes)) == (True, 1), found
        assert "in EUR were not computed again: give the rates of treasury.csv" in found.notes[0]
    # Negative control: what was not converted is compared all the same.
    data = event(6, "p5", "PaymentProcessed", 778, currency="EUR", at=TOO_EARLY)["eventData"]
    database["events"].update_one({"position": 6}, {"$set": {"eventData": data}})
    other = EventLake(tmp_path / "other lake", 100)
    other.refresh(database)
    told = "".join(verify_reports(tmp_path / "one", other).differences)
    assert "amount_minor is 777, the lake gives 778" in told
    assert "fx_" not in told


def test_reports_of_some_are_compared_whatever_others_have_no_rate_for(
    database: Db, settings: Settings, tmp_path: Path, file: Path
) -> None:
    insert_events(
        database,
        [
            event(1, "p1", "PaymentProcessed", 100, currency="GBP", at=MONDAY, organization="acme"),
            event(2, "p2", "PaymentProcessed", 200, currency="GBP", at=MONDAY, organization="beta"),
            event(3, "p3", "PaymentProcessed", 300, currency="BHD", at=TOO_EARLY, organization="gulf"),
        ],
    )
    lake = EventLake(settings.lake_dir, 100)
    lake.refresh(database)
    rates = Rates.load(file)
    for name in ("acme", "beta"):
        bill(lake, tmp_path / "some", organization=name, currency="EUR", rates=rates)
    found = verify_reports(tmp_path / "some", lake, rates=rates)
    assert (found.ok, found.reports, found.notes) == (True, 2, ()), found
    with pytest.raises(ReportError, match="no rate for BHD"):
        bill(lake, tmp_path / "all", currency="EUR", rates=rates)
    # Nor was anything written of those that come before, and have rates.
    assert [path.name for path in (tmp_path / "all").rglob("*") if path.is_file()] == [".reports.lock"]


def test_from_the_command_line(
    lake: EventLake, environ: dict[str, str], tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> tuple[int, str]:
        command = ["report", "billing", "--period", "2024-03", "--out", str(tmp_path / "out"), *words]
        result = CliRunner().invoke(app, command, env={**environ, "LEDGERLAKE_SEGMENT_SIZE": "100"})
        return result.exit_code, result.output + ("" if result.exit_code == 0 else str(result.exception))

    code, said = run("--currency", "USD", "--rates", str(file), "--json")
    assert (code, "USD on 2024-03-04" in said) == (1, True), said
    code, said = run("--currency", "USD", "--rates", str(file), "--unconverted", "--json")
    assert code == 0, said
    converted = json.loads(said)["converted"]
    assert (converted["currency"], converted["unconverted"]) == ("USD", 1)
    code, said = run("--currency", "USD", "--rates", str(file), "--unconverted")
    assert (code, "1 line without a rate is not in it" in " ".join(said.split())) == (0, True), said
    code, said = run("--currency", "XXX", "--rates", str(file))
    assert (code, "XXX" in said) == (1, True), said
    code, said = run("--rates", str(file))
    assert code != 0
    assert "--currency" in said
    # Verified with the rates, with others (those of the package), and with none at all.
    command, env = ["report", "verify", str(tmp_path / "out")], {**environ, "LEDGERLAKE_SEGMENT_SIZE": "100"}
    for words, notes in ((["--rates", str(file)], 0), ([], 1), ([], 1)):
        result = CliRunner().invoke(app, [*command, *words], env=env)
        assert (result.exit_code, result.output.count("note: ")) == (0, notes), result.output
        if notes:
            monkeypatch.setattr("ledgerlake.reports.rates.find_spec", lambda _: None)
    with pytest.raises(ReportError, match="No exchange rates are at hand"):
        Rates.load()
