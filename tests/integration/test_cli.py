"""The command line as people and scripts use it: one tool, JSON on request, meaningful exit codes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.cli import app
from ledgerlake.errors import LedgerLakeError

Db = Database[dict[str, Any]]
PAY = ["--organization", "acme", "--amount", "12.30", "--currency", "EUR", "--at", "2026-05-31T23:59:59.999Z"]


class Tool:
    """`ledgerlake` in this process, on the test's own ledger."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._runner = CliRunner()

    def __call__(self, *words: str, exit_code: int = 0) -> str:
        result = self._runner.invoke(app, [str(word) for word in words], env=self._environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result.output

    def json(self, *words: str, exit_code: int = 0) -> Any:
        return json.loads(self(*words, "--json", exit_code=exit_code))


@pytest.fixture
def tool(environ: dict[str, str], database: Db) -> Tool:
    return Tool(environ)


def test_a_payment_goes_from_the_command_to_every_figure(tool: Tool, tmp_path: Path) -> None:
    done = tool.json("process", "p1", *PAY, "--command-id", "c1")
    assert (done["position"], done["version"], done["duplicate"]) == (1, 1, False)
    assert tool.json("process", "p1", *PAY, "--command-id", "c1")["duplicate"] is True
    tool("fail", "p2", *PAY, "--reason", "card_expired")
    refund = ["-o", "acme", "-a", "2.30", "-c", "EUR"]
    assert "credit-note/" in tool("refund", *refund, "--reason", "goodwill")
    assert "RefundPayment done" in tool("refund", "p1", *refund)
    status = tool.json("status")
    assert status["head"] == 4
    assert [part["lag"] for part in status["parts"]] == [4] * len(status["parts"])
    refreshed = tool.json("refresh")
    assert {part["name"]: part["events"] for part in refreshed}["payment_read_models"] == 4
    assert "Nothing new" in tool("refresh")
    payment = tool.json("payment", "p1")
    assert (payment["payment"]["amount"], payment["payment"]["refunded"]) == ("12.30", "2.30")
    assert payment["as_of"]["position"] == 4
    listed = tool.json("payments", "-o", "acme", "--limit", "2")
    rest = tool.json("payments", "-o", "acme", "--limit", "2", "--cursor", listed["next_cursor"])
    assert len(listed["payments"]) == 2
    assert [p["payment_id"] for p in rest["payments"]] == ["p1"]
    rows = {r["status"]: (r["count"], r["total"]) for r in tool.json("statistics")["rows"]}
    assert rows == {"completed": (1, "12.30"), "failed": (1, "12.30"), "refunded": (2, "4.60")}
    may = tool.json("statistics", "--from", "2026-05-01", "--to", "2026-06-01")["rows"]
    assert {r["status"] for r in may} == {"completed", "failed"}
    months = tool.json("trends", "--by", "month", "-o", "acme")["rows"]
    assert ("2026-05-01", "completed", "12.30") in [(r["period"], r["status"], r["total"]) for r in months]
    assert tool.json("verify")["ok"] is True
    out = tmp_path / "reports"
    report = tool.json("report", "billing", "--period", "2026-05", "--out", str(out))
    assert report["totals"] == [
        {
            "currency": "EUR",
            "charges": 1,
            "gross": "12.30",
            "refunds": 0,
            "refunded": "0.00",
            "net": "12.30",
            "failures": 1,
            "failed": "12.30",
        }
    ]
    summary = next(out.glob("2026-05/*/summary.parquet"))
    rows = pl.read_parquet(summary)
    assert (rows["net"].sum(), set(rows["closing"])) == (Decimal("12.3000"), {Decimal("12.3000")})


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["refresh"],
        ["payment", "p1"],
        ["payments", "-o", "acme"],
        ["statistics"],
        ["trends"],
        ["verify"],
    ],
)
def test_tables_for_people_show_what_json_shows(tool: Tool, words: list[str]) -> None:
    tool("process", "p1", *PAY)
    if words != ["refresh"]:
        tool("refresh")
    text = tool(*words)
    assert "Traceback" not in text
    assert {"status": "payment_trends", "refresh": "event_lake", "verify": "agrees"}.get(
        words[0], "12.30"
    ) in text


def test_a_projection_is_filled_anew_on_request(tool: Tool, database: Db) -> None:
    tool("process", "p1", *PAY)
    tool("refresh")
    database["payment_statistics"].update_many({}, {"$set": {"count": 99}})
    done = tool.json("rebuild", "payment_statistics")
    assert (done["events"], done["comparisons"][0]["fields"]) == (1, ["count"])
    assert tool.json("statistics")["rows"][0]["count"] == 1
    with pytest.raises(LedgerLakeError, match="payment_trends"):
        tool("rebuild", "everything")


def test_a_refused_command_exits_1_and_says_why(tool: Tool, database: Db) -> None:
    refused = tool.json("refund", "nobody", *PAY[:6], exit_code=1)
    assert refused["rejected"] == "unknown_payment"
    kept = database["command_rejections"].find_one({"commandId": refused["command_id"]}) or {}
    assert kept["reasonCode"] == "unknown_payment"
    bad = tool.json("process", "p", *PAY[:3], "1.234", *PAY[4:6], exit_code=1)
    assert bad["rejected"] == "bad_amount"
    kept = database["command_rejections"].find_one({"commandId": bad["command_id"]}) or {}
    assert (kept["reasonCode"], kept["amount"]) == ("bad_amount", "1.234")


def test_the_same_id_again_does_nothing_also_without_a_time(tool: Tool) -> None:
    words = ["refund", "-o", "acme", "-a", "5", "-c", "EUR", "--command-id", "K1"]
    first = tool.json(*words)
    again = tool.json(*words)
    assert (first["duplicate"], again["duplicate"], again["position"]) == (False, True, first["position"])
    other = ["refund", "-o", "acme", "-a", "6", "-c", "EUR", "--command-id", "K1"]
    assert tool.json(*other, exit_code=1)["rejected"] == "command_id_reused"


def test_a_command_without_an_answer_says_under_which_id_to_repeat_it(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ledgerlake.commands.bus import CommandBus
    from ledgerlake.eventstore.model import StoreUnavailable

    def no_answer(bus: Any, command: Any) -> Any:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(CommandBus, "dispatch", no_answer)
    result = CliRunner().invoke(app, ["refund", "-o", "a", "-a", "5", "-c", "EUR"], env=tool._environ)
    assert isinstance(result.exception, StoreUnavailable)
    assert "--command-id cli-" in result.output


def test_an_unknown_payment_exits_1_and_says_what_to_do(tool: Tool) -> None:
    assert "ledgerlake refresh" in tool("payment", "nobody", exit_code=1)


def test_a_difference_makes_verify_exit_1_and_name_it(tool: Tool, database: Db) -> None:
    tool("process", "p1", *PAY)
    tool("refresh")
    database["payment_read_models"].update_one({"_id": "p1"}, {"$inc": {"amountMinor": 1}})
    found = tool.json("verify", exit_code=1)
    assert found["ok"] is False
    assert "p1" in json.dumps(found)
    assert "FAILED" in tool("verify", exit_code=1)


def test_an_import_says_what_it_did_and_where_the_rest_lies(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        writer = csv.writer(file)
        columns = (
            "command,command_id,payment_id,organization_id,user_id,amount,currency,occurred_at,reason,seq"
        )
        writer.writerow(columns.split(","))
        for i in range(3):
            amount = "0.00" if i == 2 else "5.00"
            writer.writerow(
                ["ProcessPayment", f"c{i}", f"p{i}", "acme", "", amount, "EUR", "2026-01-01", "", i]
            )
    text = tool("import", str(path))
    assert "zero_amount" in text
    assert "Ignored columns: seq" in text
    summary = tool.json("import", str(path))
    assert (summary["accepted"], summary["duplicates"], summary["rejected"]) == (0, 2, 1)
    assert Path(summary["rejections_file"]).exists()


def test_a_broken_file_is_an_error_that_names_the_line(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("command,amount\n")
    with pytest.raises(LedgerLakeError, match=r"rows.csv, line 1: the columns command_id"):
        tool("import", str(path))


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from ledgerlake.cli import main; main()", *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_bad_input_is_one_message_and_exit_2_without_a_traceback(environ: dict[str, str]) -> None:
    done = run(environ, "import", "no-such-file.csv")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("ledgerlake: no-such-file.csv")
    assert "Traceback" not in done.stderr
    bad = run({**environ, "LEDGERLAKE_SEGMENT_SIZE": "many"}, "statistics")
    assert bad.returncode == 2
    assert "LEDGERLAKE_SEGMENT_SIZE" in bad.stderr


def test_help_imports_nothing_heavy(environ: dict[str, str]) -> None:
    code = (
        "import sys\nfrom ledgerlake.cli import main\nsys.argv = ['ledgerlake', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'polars', 'pyarrow', 'duckdb', 'dagster', 'pandas', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_server_that_goes_away_is_one_message_and_exit_2(environ: dict[str, str]) -> None:
    code = (
        "from ledgerlake.cli import main\nfrom ledgerlake.queries import QueryBus\n"
        "from pymongo.errors import AutoReconnect\n"
        "def gone(bus, query): raise AutoReconnect('mongodb://u:secret@h gone')\n"
        "QueryBus.ask = gone\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "statistics"], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "MongoDB could not answer" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
