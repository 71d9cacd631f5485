"""Import: every row once, in any format, however often, by however many; nothing dropped or half done."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.ingest.importer import ImportProgress, ImportSummary
from ledgerlake.ingest.rows import BrokenFile
from ledgerlake.settings import Settings

Db = Database[dict[str, Any]]
COLUMNS = [
    "command",
    "command_id",
    "payment_id",
    "organization_id",
    "user_id",
    "amount",
    "currency",
    "occurred_at",
    "reason",
]


def row(i: int, command: str = "ProcessPayment", payment: str | None = None, **change: Any) -> dict[str, Any]:
    fields = {
        "command": command,
        "command_id": f"c{i}",
        "payment_id": f"p{i}" if payment is None else payment,
        "organization_id": "acme",
        "user_id": "Zoë",
        "amount": "10.00",
        "currency": "EUR",
        "occurred_at": f"2026-06-{i % 28 + 1:02d}T12:00:00Z",
        "reason": "",
    }
    return {**fields, **change}


ROWS = [
    *[row(i) for i in range(40)],
    row(40, "RefundPayment", "p1", amount="4.00", reason="returned, damaged"),
    row(41, "RefundPayment", "p1", amount="7.00"),
    row(42, "RefundPayment", "", amount="3.00"),
    row(43, "FailPayment", reason="card_expired"),
    row(44, "ProcessPayment", "p43"),
    row(45, amount="0.00"),
    row(46, amount="1.234"),
    row(47, occurred_at="yesterday"),
    row(48, command="Pay"),
    row(49, command_id=""),
    row(3),
]
ACCEPTED, REFUSED = 44, 6
CODES = {
    "bad_amount": 1,
    "bad_date": 1,
    "missing_command_id": 1,
    "refund_exceeds_payment": 1,
    "unknown_command": 1,
    "zero_amount": 1,
}


def csv_text(rows: list[dict[str, Any]], columns: list[str] = COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_csv(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text(csv_text(rows))
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.csv": write_csv,
    "bom.csv": lambda path: path.write_text("\ufeff" + csv_text(ROWS)),
    "windows.CSV": lambda path: path.write_bytes(csv_text(ROWS).replace("\n", "\r\n").encode()),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_text(ROWS).encode())),
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(r) + "\n" for r in ROWS)),
    "numbers.jsonl": lambda path: path.write_text(
        "".join(json.dumps(r).replace(f'"{r["amount"]}"', r["amount"]) + "\n\n" for r in ROWS)
    ),
    "rows.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode())
    ),
    "rows.parquet": write_parquet,
}


@pytest.fixture
def ledger(settings: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(settings) as opened:
        yield opened


def content(database: Db) -> list[tuple[Any, ...]]:
    return [
        (
            e["position"],
            e["aggregateId"],
            e["eventType"],
            e["eventData"]["amountMinor"],
            e["timestamp"],
            e["metadata"]["userId"],
        )
        for e in database["events"].find().sort("position", 1)
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_leads_to_the_same_ledger(
    ledger: LedgerLake, database: Db, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    summary = ledger.import_file(path)
    assert (summary.rows, summary.accepted, summary.duplicates, summary.rejected) == (
        51,
        ACCEPTED,
        1,
        REFUSED,
    )
    assert summary.rejected_by_code == CODES
    assert (summary.first_position, summary.last_position) == (1, ACCEPTED)
    events = content(database)
    assert [e[0] for e in events] == list(range(1, ACCEPTED + 1))
    assert {e[5] for e in events} == {"Zoë"}
    assert sum(e[3] for e in events if e[2] == "PaymentProcessed") == 41 * 1000
    assert [e[1] for e in events if e[2] == "PaymentRefunded"] == ["p1", "credit-note/c42"]


def test_a_second_import_changes_nothing(ledger: LedgerLake, database: Db, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv")
    ledger.import_file(path)
    before = (list(database["events"].find()), list(database["command_rejections"].find()))
    again = ledger.import_file(path)
    assert (again.accepted, again.duplicates, again.rejected) == (0, ACCEPTED + 1, REFUSED)
    assert (again.first_position, again.last_position) == (None, None)
    assert (list(database["events"].find()), list(database["command_rejections"].find())) == before


def test_every_refused_row_is_kept_with_its_reason_line_and_fields(
    ledger: LedgerLake, database: Db, tmp_path: Path
) -> None:
    summary = ledger.import_file(write_csv(tmp_path / "rows.csv"))
    kept = {r["source"]["line"]: r for r in database["command_rejections"].find()}
    assert {line: r["reasonCode"] for line, r in kept.items()} == {
        43: "refund_exceeds_payment",
        47: "zero_amount",
        48: "bad_amount",
        49: "bad_date",
        50: "unknown_command",
        51: "missing_command_id",
    }
    assert kept[48]["amount"] == "1.234"
    assert kept[49]["occurredAt"] == "yesterday"
    assert kept[51]["_id"].startswith(f"{summary.digest}:51#")
    file = pl.read_parquet(summary.rejections_file)
    assert dict(file.select("line", "reason_code").rows()) == {
        line: r["reasonCode"] for line, r in kept.items()
    }
    assert file.filter(line=48).select("amount", "command_id", "organization_id").row(0) == (
        "1.234",
        "c46",
        "acme",
    )
    assert json.loads(Path(summary.summary_file).read_text())["rejected_by_code"] == CODES


def test_a_file_without_refused_rows_has_an_empty_rejections_file(ledger: LedgerLake, tmp_path: Path) -> None:
    summary = ledger.import_file(write_csv(tmp_path / "good.csv", ROWS[:3]))
    assert pl.read_parquet(summary.rejections_file).height == 0


def test_a_refund_that_came_before_its_payment_is_accepted_on_a_second_run(
    ledger: LedgerLake, database: Db, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "late.csv", [row(1, "RefundPayment", "p2", amount="1.00"), row(2)])
    assert ledger.import_file(path).rejected_by_code == {"unknown_payment": 1}
    again = ledger.import_file(path)
    assert (again.accepted, again.duplicates, again.rejected) == (1, 1, 0)
    assert (database["command_rejections"].find_one() or {})["resolvedAt"] is not None


def test_extra_columns_are_ignored_with_a_note(ledger: LedgerLake, tmp_path: Path) -> None:
    path = tmp_path / "extra.csv"
    path.write_text(csv_text([{**ROWS[0], "seq": 1, "note": "x"}], ["seq", *COLUMNS, "note"]))
    assert ledger.import_file(path).ignored_columns == ["seq", "note"]


def test_progress_is_told_and_ends_at_the_end(ledger: LedgerLake, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [row(i) for i in range(1200)])
    told: list[ImportProgress] = []
    ledger.import_file(path, told.append)
    assert [p.rows for p in told] == [500, 1000, 1200]
    assert told[-1].done == told[-1].total == path.stat().st_size


MANY = [row(i) for i in range(1300)]


def broken(path: Path) -> list[tuple[str, bytes, str]]:
    text = csv_text(MANY)
    lines = text.splitlines(keepends=True)
    zipped = gzip.compress(text.encode())
    jsonl = [json.dumps(r) + "\n" for r in MANY]
    return [
        (
            "missing.csv",
            text.replace("occurred_at", "date", 1).encode(),
            "line 1: the column occurred_at is missing",
        ),
        (
            "latin1.csv",
            "".join(lines[:1200]).encode() + lines[1200].encode("latin-1") + lines[1201].encode(),
            "line 1201: the bytes are not UTF-8",
        ),
        (
            "short.csv",
            "".join([*lines[:1100], "ProcessPayment,c\n"]).encode(),
            "line 1101: the row has 2 fields",
        ),
        (
            "quote.csv",
            "".join([*lines[:1100], '"Process"Payment,c\n']).encode(),
            "line 1101: this is not CSV",
        ),
        ("cut.csv.gz", zipped[: len(zipped) * 95 // 100], "compressed file is damaged or ends too early"),
        ("flipped.csv.gz", zipped[:-8] + bytes([zipped[-8] ^ 1]) + zipped[-7:], "compressed file is damaged"),
        ("plain.csv.gz", text.encode(), "line 1: the compressed file is damaged"),
        ("bad.jsonl", "".join([*jsonl[:1100], "{oops\n"]).encode(), "line 1101: this is not JSON"),
        (
            "list.jsonl",
            "".join([*jsonl[:1100], "[1]\n"]).encode(),
            "line 1101: the line is not a JSON object",
        ),
        ("bad.parquet", b"PAR1 no", "this is not Parquet"),
        ("empty.csv", b"", "the file is empty"),
        ("rows.xlsx", b"", "the format is not known"),
    ]


@pytest.mark.parametrize("case", range(12))
def test_a_broken_file_is_refused_with_its_line_and_leaves_whole_batches(
    ledger: LedgerLake, database: Db, tmp_path: Path, case: int
) -> None:
    name, data, message = broken(tmp_path)[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BrokenFile) as refused:
        ledger.import_file(tmp_path / name)
    assert message in str(refused.value)
    assert name in str(refused.value)
    assert refused.value.remedy
    stored = database["events"].count_documents({})
    assert stored % 500 == 0
    if "line 1101" in message or "line 1201" in message:
        assert stored == 1000
        summary = json.loads(next(ledger.settings.imports_dir.glob(f"{name}-*/summary.json")).read_text())
        assert (summary["rows"], summary["accepted"]) == (1000, 1000)
        assert message in summary["broken"]
    mended = ledger.import_file(write_csv(tmp_path / "mended.csv", MANY))
    assert (mended.accepted, mended.duplicates, mended.rejected) == (1300 - stored, stored, 0)


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_is_not_there_is_a_clear_error(ledger: LedgerLake, tmp_path: Path, name: str) -> None:
    with pytest.raises(BrokenFile, match="Check the path"):
        ledger.import_file(tmp_path / name)


def test_a_damaged_page_of_a_parquet_file_is_found(ledger: LedgerLake, database: Db, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(MANY), path, row_group_size=600, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenFile, match="damaged"):
        ledger.import_file(path)
    assert database["events"].count_documents({}) % 500 == 0


IMPORT = (
    "import sys; from pathlib import Path; from ledgerlake.application import LedgerLake\n"
    "with LedgerLake.open() as ledger: ledger.import_file(Path(sys.argv[1]))"
)


def test_eight_processes_importing_overlapping_halves_store_every_command_once(
    ledger: LedgerLake, database: Db, environ: dict[str, str], tmp_path: Path
) -> None:
    """Refunds in the second half may meet a payment that the first half has not stored yet: the last import,
    of the whole file, decides those again, and finds nothing else to do."""
    rows = [
        row(i, "RefundPayment", f"p{i - 700}", amount="2.00") if i >= 2400 else row(i) for i in range(3000)
    ]
    halves = [write_csv(tmp_path / "first.csv", rows[:2000]), write_csv(tmp_path / "second.csv", rows[1000:])]
    processes = [
        subprocess.Popen([sys.executable, "-c", IMPORT, str(halves[i % 2])], env=environ) for i in range(8)
    ]
    assert [process.wait(240) for process in processes] == [0] * 8
    done = database["events"].count_documents({})
    early = database["command_rejections"].count_documents({"resolvedAt": None})
    assert done + early == 3000
    whole = ledger.import_file(write_csv(tmp_path / "whole.csv", rows))
    assert (whole.accepted, whole.duplicates, whole.rejected) == (early, done, 0)
    positions = [e["position"] for e in database["events"].find().sort("position", 1)]
    assert positions == list(range(1, 3001))
    assert len(database["events"].distinct("commandId")) == 3000
    assert database["command_rejections"].count_documents({"resolvedAt": None}) == 0


def test_the_summary_adds_up(ledger: LedgerLake, tmp_path: Path) -> None:
    summary: ImportSummary = ledger.import_file(write_csv(tmp_path / "rows.csv"))
    assert summary.rows == summary.accepted + summary.duplicates + summary.rejected
    assert summary.events == summary.accepted


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"user_id": "\ud800"}, "bad_user_id"),
        ({"amount": "9" * 5_000}, "bad_amount"),
        ({"amount": "10000000000000.01"}, "amount_too_large"),
        ({"reason": "x" * 1_000_000}, "bad_reason"),
        ({"occurred_at": "9999-12-31"}, "bad_date"),
        ({"command": "\udfff"}, "unknown_command"),
    ],
    ids=lambda value: str(value)[:30].encode("ascii", "replace").decode(),
)
def test_a_poisonous_row_is_refused_and_the_rows_after_it_are_imported(
    ledger: LedgerLake, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    rows = [row(1), row(2, **change), row(3)]
    summary = ledger.import_file(jsonl(tmp_path / "rows.jsonl", rows))
    assert (summary.accepted, summary.rejected_by_code) == (2, {code: 1})
    assert pl.read_parquet(summary.rejections_file)["line"].to_list() == [2]
    ledger.refresh()


def test_a_mistyped_key_does_not_make_a_credit_note_of_a_refund(ledger: LedgerLake, tmp_path: Path) -> None:
    mistyped = row(2, "RefundPayment", amount="4.00")
    mistyped["paymentId"] = mistyped.pop("payment_id")
    credit = row(3, "RefundPayment", amount="1.00", payment_id=None)
    summary = ledger.import_file(jsonl(tmp_path / "rows.jsonl", [row(1), mistyped, credit]))
    assert (summary.accepted, summary.rejected_by_code) == (2, {"missing_payment_id": 1})
    assert summary.ignored_columns == ["paymentId"]


def test_instants_of_parquet_are_kept_in_milliseconds(
    ledger: LedgerLake, database: Db, tmp_path: Path
) -> None:
    from datetime import UTC, datetime

    table = pa.Table.from_pylist([row(1)])
    at = pa.array([1_780_000_000_123_456_789], pa.timestamp("ns", tz="UTC"))
    index = table.schema.get_field_index("occurred_at")
    pq.write_table(table.set_column(index, "occurred_at", at), tmp_path / "rows.parquet")
    assert ledger.import_file(tmp_path / "rows.parquet").accepted == 1
    stored = database["events"].find_one() or {}
    assert stored["timestamp"] == datetime.fromtimestamp(1_780_000_000.123, UTC)


def test_different_refusals_under_one_command_id_are_kept_beside_each_other(
    ledger: LedgerLake, database: Db, tmp_path: Path
) -> None:
    rows = [
        row(1, command_id="X"),
        row(2, "RefundPayment", "p99", command_id="X"),
        row(3, command_id="X", amount="x"),
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    for _ in range(2):
        ledger.import_file(path)
        kept = sorted(
            (r["source"]["line"], r["reasonCode"], r["resolvedAt"])
            for r in database["command_rejections"].find()
        )
        assert kept == [(2, "command_id_reused", None), (3, "bad_amount", None)]


def test_a_row_that_was_mended_settles_its_refusal(ledger: LedgerLake, database: Db, tmp_path: Path) -> None:
    ledger.import_file(jsonl(tmp_path / "a.jsonl", [row(1, command_id=" P1 ", occurred_at="soon")]))
    ledger.import_file(jsonl(tmp_path / "b.jsonl", [row(1, command_id="P1")]))
    assert [r["resolvedAt"] is None for r in database["command_rejections"].find()] == [False]


def test_a_refusal_is_settled_by_the_next_run_where_the_first_was_killed_before(
    ledger: LedgerLake, database: Db, tmp_path: Path
) -> None:
    """Killed between commit and note: the command is in the log, and must not be called refused for ever."""
    path = jsonl(tmp_path / "late.jsonl", [row(1, "RefundPayment", "p2", amount="1.00"), row(2)])
    ledger.import_file(path)
    ledger.import_file(path)
    database["command_rejections"].update_many({}, {"$set": {"resolvedAt": None}})
    assert ledger.import_file(path).duplicates == 2
    assert database["command_rejections"].count_documents({"resolvedAt": None}) == 0
