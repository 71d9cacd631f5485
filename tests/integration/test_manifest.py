"""Manifests: every bit of a report is vouched for, and the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bson import Int64
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.reports import ReportError
from ledgerlake.reports.books import EMPTY_BOOKS, Books
from ledgerlake.reports.close import Revision
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import (
    MANIFEST,
    TABLES,
    generator,
    read_manifest,
    report_id,
    write_json,
    write_manifest,
)
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.verify import verify_reports
from ledgerlake.reports.writer import write_reports
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history

Db = Database[dict[str, Any]]
FORMATS = ("parquet", "csv", "xlsx", "html")
FEW = ("parquet", "csv")


@pytest.fixture
def ledger(settings: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(replace(settings, segment_size=50)) as opened:
        insert_events(database, payment_history(3, 120))
        opened.lake.refresh(database)
        yield opened


@pytest.fixture
def reports(ledger: LedgerLake, tmp_path: Path) -> Path:
    """February's reports of everybody."""
    write(ledger, tmp_path / "mine")
    return tmp_path / "mine"


def write(
    ledger: LedgerLake,
    out: Path,
    organization: str | None = None,
    formats: Sequence[str] = FEW,
    position: int | None = None,
    books: Books = EMPTY_BOOKS,
) -> None:
    pinned = ledger.lake.pin(position)
    spec = ReportSpec(Interval.parse("2026-02"), organization, books)
    with pinned.duckdb() as connection:
        write_reports(pinned, connection, spec, out, formats)


def close(ledger: LedgerLake, period: str, formats: Sequence[str]) -> list[Revision]:
    """Close without a look at every layer, which costs most."""
    ledger.gate._agreed.add(120)
    ledger.gate.everything = lambda *_: None  # type: ignore[method-assign]
    return ledger.periods.close(period, 120, by="ann", formats=formats, through=True)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_report_is_in_order_and_its_files_say_what_the_manifest_says(
    ledger: LedgerLake, reports: Path
) -> None:
    found = ledger.verify_reports(reports)
    assert (found.ok, found.notes, found.position) == (True, (), 120), found
    assert found.reports == len(list(reports.iterdir())) >= 4
    assert found.files == len(files(reports))
    for folder in reports.iterdir():
        manifest = read_manifest(folder)
        assert set(manifest.files) == {path.name for path in folder.iterdir()} - {MANIFEST}
        assert report_id(manifest.facts) == manifest.report_id
        for name in TABLES:
            told = manifest.content["tables"][name]
            parquet = pq.ParquetFile(folder / name)
            metadata = parquet.metadata.metadata
            assert metadata[b"ledgerlake.report_id"].decode() == manifest.report_id
            assert json.loads(metadata[b"ledgerlake.books"]) == manifest.facts["books"]
            assert json.loads(metadata[b"ledgerlake.totals"]) == manifest.content["totals"]
            assert (told["rows"], [each["name"] for each in told["columns"]]) == (
                parquet.metadata.num_rows,
                parquet.schema_arrow.names,
            )
        for name, told in manifest.files.items():
            content = (folder / name).read_bytes()
            assert told == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_id_is_of_what_the_report_is_a_function_of() -> None:
    facts: dict[str, Any] = {
        "interval": {"label": "2011-11", "start": "a", "end": "b", "zone": "UTC"},
        "position": 5,
    }
    same = {"position": 5, "interval": {**facts["interval"], "label": "2011-11-01..2011-11-30"}}
    assert report_id(facts) == report_id(same)
    others = [{**facts, "position": 6}, {**facts, "interval": {**facts["interval"], "zone": "Asia/Tokyo"}}]
    assert len({report_id(each) for each in (facts, *others)}) == 3


def test_one_flipped_bit_in_any_file_of_a_report_is_found(ledger: LedgerLake, reports: Path) -> None:
    organization = min(reports.iterdir())
    write(ledger, reports, read_manifest(organization).facts["organization"], FORMATS)
    assert len(files(organization)) == 7
    for path in files(organization):
        good = path.read_bytes()
        offsets = {0, 1, 4, len(good) // 3, len(good) // 2, len(good) - 9, len(good) - 2, len(good) - 1}
        for number, offset in enumerate(sorted(offsets)):
            bad = bytearray(good)
            bad[offset] ^= 1 << (number % 8)
            path.write_bytes(bad)
            found = verify_reports(organization)
            assert not found.ok, (path.name, offset)
            assert path.name in "".join(found.differences), (path.name, offset)
        path.write_bytes(good)
    assert verify_reports(organization).ok


def test_a_file_that_is_missing_too_many_or_of_another_report_is_found(
    ledger: LedgerLake, reports: Path
) -> None:
    one, other = sorted(reports.iterdir())[:2]
    for change, told in (
        ((one / "summary.csv").unlink, "summary.csv can not be read"),
        ((one / MANIFEST).unlink, f"{MANIFEST} is missing"),
        (lambda: (one / "itemised (1).csv").write_text("x"), "itemised (1).csv is no file of this report"),
        (lambda: shutil.copy(other / "itemised.parquet", one), "itemised.parquet has "),
    ):
        kept = shutil.copytree(one, one.parent.parent / "kept")
        change()
        found = verify_reports(reports)
        assert [told in each for each in found.differences] == [True], found
        shutil.rmtree(one)
        kept.rename(one)
    with pytest.raises(ReportError, match="no reports"):
        verify_reports(ledger.settings.home)
    with pytest.raises(ReportError, match="is no folder"):
        verify_reports(reports / "no such")


def test_a_report_that_was_made_up_consistently_is_not_what_the_lake_says(
    ledger: LedgerLake, reports: Path
) -> None:
    """Who changes rows, and then every hash and total of them, is found by the lake."""
    folder = min(reports.iterdir())
    facts = dict(read_manifest(folder).facts)
    good = files(folder), {path: path.read_bytes() for path in files(folder)}
    # Another position's lines under this one's name.
    write(ledger, reports, facts["organization"], position=119)
    assert verify_reports(folder).ok
    earlier = ledger.verify_reports(folder)
    assert earlier.ok
    write_manifest(folder, facts, [path.name for path in good[0] if path.name != MANIFEST])
    assert not verify_reports(folder).ok  # the Parquet files say whose they are
    for path, content in good[1].items():
        path.write_bytes(content)
    (folder / "summary.csv").write_bytes(b"organization_id\r\n")
    write_manifest(folder, facts, [path.name for path in good[0] if path.name != MANIFEST])
    assert verify_reports(folder).ok
    found = ledger.verify_reports(folder)
    assert found.differences == (f"{folder}: summary.csv is not what the lines and the summary give",)


def test_reports_of_a_lake_that_is_not_the_logs_are_found(ledger: LedgerLake, reports: Path) -> None:
    db = ledger.db
    db["events"].update_one({"position": 7}, {"$inc": {"eventData.amountMinor": Int64(1)}})
    found = ledger.verify_reports(reports)
    assert [each.partition(":")[0] for each in found.differences] == ["lake events"], found


def test_a_closed_revision_is_the_one_that_was_closed(ledger: LedgerLake) -> None:
    [closed] = close(ledger, "2026-01", FEW)
    root = ledger.settings.reports_dir
    found = ledger.verify_reports(root)
    assert found.ok, found
    content = json.loads((closed.folder / MANIFEST).read_text())
    assert content["digest"] == closed.entry.digest
    assert sorted(content["reports"]) == sorted(
        path.name for path in closed.folder.iterdir() if path.is_dir()
    )
    gone = sorted(closed.folder.iterdir())[1]
    del content["reports"][gone.name], content["sha256"]
    shutil.rmtree(gone)
    path = closed.folder / MANIFEST
    path.unlink()
    write_json(path, content)
    told = "".join(ledger.verify_reports(root).differences)
    assert "the reports are not those that were closed" in told
    assert "the list of closed periods says otherwise" not in told  # its digest was left as it was
    content["digest"] = "0" * 64
    write_json(path, content)
    assert "the list of closed periods says otherwise" in "".join(ledger.verify_reports(root).differences)


def test_a_report_by_books_that_never_were_is_found(ledger: LedgerLake, tmp_path: Path) -> None:
    """Before a close, after it, and after a reopening are sound; what the list never said is not."""
    before, after, again, never = (tmp_path / name for name in ("before", "after", "again", "never"))
    write(ledger, before, position=119, books=ledger.periods.books())
    ledger.gate.everything = lambda *_: None  # type: ignore[method-assign]
    ledger.gate._agreed.add(100)
    ledger.periods.close("2026-01", 100, by="ann", through=True)
    closed = ledger.periods.books()
    write(ledger, after, books=closed)
    ledger.periods.reopen("2026-01", reason="a credit was forgotten", by="bob")
    write(ledger, again, books=ledger.periods.books())
    for folder in (before, after, again):
        found = ledger.verify_reports(folder)
        assert found.ok, found
    # Negative control: the same close, one position earlier.
    [entry] = closed.entries
    write(ledger, never, books=replace(closed, entries=(replace(entry, position=99),)))
    found = ledger.verify_reports(never)
    assert len(found.differences) == found.reports >= 4
    assert "with 2026-01 closed before position 120: this ledger's never said so" in found.differences[0]
    assert verify_reports(never, ledger.lake).ok  # by the lake alone it can not be told


def test_a_revision_whose_manifest_or_folder_is_gone_is_told(ledger: LedgerLake, tmp_path: Path) -> None:
    [closed] = close(ledger, "2026-01", FEW)
    root, books = ledger.settings.reports_dir, ledger.periods.books()
    kept = shutil.copytree(closed.folder, tmp_path / "kept")

    def told(folder: Path) -> str:
        return "\n".join(verify_reports(folder, None, books, home=root).differences)

    assert [told(each) for each in (root, root / "2026-01", closed.folder)] == [""] * 3
    reports = sorted(path for path in closed.folder.iterdir() if path.is_dir())
    assert told(reports[0]) == ""
    (closed.folder / MANIFEST).unlink()
    shutil.rmtree(reports[1])
    for folder in (root, root / "2026-01", closed.folder):
        assert f"{closed.folder / MANIFEST}: " in told(folder)
    assert "it says that it was closed, and" in told(reports[0])
    for report in reports[:1] + reports[2:]:
        shutil.rmtree(report)
    assert f"{closed.folder / MANIFEST}: " in told(root)
    closed.folder.rmdir()
    for folder in (root, root / "2026-01"):
        assert f"{closed.folder} is missing, as which ann closed 2026-01" in told(folder)
    # A folder of somebody's own need not hold what was closed.
    write(ledger, tmp_path / "mine")
    assert told(tmp_path / "mine") == ""
    shutil.copytree(kept, closed.folder)
    assert told(root) == ""


def test_files_that_another_version_wrote_and_nobody_can_make_again_are_named(
    ledger: LedgerLake, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = {**generator(), "polars": "99"}
    monkeypatch.setattr("ledgerlake.reports.verify.generator", lambda: newer)
    found = ledger.verify_reports(reports)
    assert found.ok, found
    [note] = found.notes
    said = "itemised.csv, summary.csv were compared with their manifests only, which another version wrote: "
    assert note.startswith(said)
    assert all(str(folder) in note for folder in sorted(reports.iterdir())[:4])


def test_the_same_inputs_give_the_same_bytes_in_any_home_zone_and_locale(
    ledger: LedgerLake, environ: dict[str, str], tmp_path: Path
) -> None:
    [closed] = close(ledger, "2026-01", FORMATS)
    elsewhere = {
        **environ,
        "LEDGERLAKE_HOME": str(tmp_path / "another home"),
        "LEDGERLAKE_SEGMENT_SIZE": "50",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "7",
        "USER": "somebody else",
    }
    # Weeks later, by that process's clock; what is finer than that differs by itself.
    code = (
        "import datetime, time\n"
        "real = time.time\n"
        "time.time = lambda: real() + 40 * 86400\n"
        "from ledgerlake.application import LedgerLake\n"
        "with LedgerLake.open() as ledger:\n"
        "    ledger.lake.refresh(ledger.db)\n"
        "    ledger.periods.complete()\n"
    )
    subprocess.run([sys.executable, "-c", code], env=elsewhere, check=True, capture_output=True)
    there = tmp_path / "another home" / "reports" / closed.entry.folder
    assert [path.name for path in files(there)] == [path.name for path in files(closed.folder)]
    for one, other in zip(files(closed.folder), files(there), strict=True):
        assert one.read_bytes() == other.read_bytes(), one


def test_the_command_verifies_and_ends_with_1_where_something_differs(
    ledger: LedgerLake, reports: Path, environ: dict[str, str]
) -> None:
    environ = {**environ, "LEDGERLAKE_SEGMENT_SIZE": "50"}

    def verified() -> tuple[int, str]:
        done = CliRunner().invoke(app, ["report", "verify", str(reports), "--json"], env=environ)
        return done.exit_code, done.output

    code, told = verified()
    assert (code, json.loads(told)["ok"]) == (0, True)
    path = next(reports.rglob("summary.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    code, told = verified()
    assert (code, str(path.parent) in told) == (1, True)
    done = CliRunner().invoke(app, ["report", "verify", str(reports / "no such")], env=environ)
    assert (done.exit_code, "does not exist" in done.output) == (2, True), done.output
    # Without the database: against the lake only, and it says so.
    environ["LEDGERLAKE_MONGODB_URI"] = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50"
    code, told = verified()
    assert (code, "the lake was not compared with the log" in told) == (1, True)
