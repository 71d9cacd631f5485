"""`ledgerlake status`: how far each part is, for people and for monitors."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect
from rich.console import Console
from typer.testing import CliRunner

from ledgerlake.application import Lag, LedgerLake, LedgerStatus
from ledgerlake.cli import app
from ledgerlake.cli.status import exit_code, shown
from ledgerlake.mongo.connection import MongoUnreachable
from ledgerlake.projections import PROJECTIONS, OnPoison, advance
from ledgerlake.projections.rebuild import rebuild
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
Status = Callable[..., str]
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
TRENDS = "payment_trends"


@pytest.fixture
def status(environ: dict[str, str], settings: Settings, database: Db) -> Status:
    """`ledgerlake status` of a ledger that is at the head of 20 events: its output, given its exit code."""
    insert_events(database, payment_history(1, 20))
    for projection in PROJECTIONS.values():
        advance(database, projection)
    LedgerLake(settings, database).lake.refresh(database)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["status", *words], env=environ)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return run


def fall_behind(db: Db, to: int, ago: float) -> None:
    """Let trends stand at a position, and the event after it have been stored so many seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    db["events"].update_one({"position": to + 1}, {"$set": {"recordedAt": at}})
    db["events"].update_one({"position": to + 2}, {"$set": {"recordedAt": at - timedelta(days=1)}})
    db["projections_metadata"].update_one({"_id": TRENDS}, {"$set": {"position": to}})


def test_lag_is_in_events_and_in_seconds_since_the_first_of_them_was_stored(
    database: Db, status: Status
) -> None:
    fall_behind(database, 12, ago=90)
    found = json.loads(status("--json"))
    parts = {part["name"]: part for part in found["parts"]}
    assert found["head"] == 20
    assert {name: part["lag"] for name, part in parts.items() if part["lag"]} == {TRENDS: 8}
    assert 90 <= parts[TRENDS]["lag_seconds"] < 86_400
    assert parts["payment_statistics"]["lag_seconds"] == 0
    assert parts["payment_statistics"]["rate"] is None


def test_the_exit_code_says_whether_a_part_has_stopped_or_is_late(database: Db, status: Status) -> None:
    status("--late-after", "0")
    fall_behind(database, 12, ago=90)
    assert "late" in status("--late-after", "60", code=2)
    status("--late-after", "86400")
    status()  # nothing is late where nobody has said what late is
    database["projections_metadata"].update_one(
        {"_id": TRENDS}, {"$set": {"status": "stopped", "lastError": "There is no event PaymentLost."}}
    )
    assert f"{TRENDS}: There is no event PaymentLost." in status("--late-after", "60", code=1)


def test_events_set_aside_and_a_rebuild_under_way_are_shown_and_are_no_fault(
    database: Db, status: Status
) -> None:
    insert_events(database, [event(21, "lost", "PaymentLost", 1)])
    advance(database, PROJECTIONS[TRENDS], on_poison=OnPoison.SET_ASIDE)
    rebuild(database, PROJECTIONS["payment_statistics"], swap=False, on_poison=OnPoison.SET_ASIDE)
    parts = {part["name"]: part for part in json.loads(status("--json"))["parts"]}
    assert (parts[TRENDS]["dead_letters"], parts[TRENDS]["status"]) == (1, "live")
    assert parts["payment_statistics#shadow"]["status"] == "rebuilding"
    assert f"{TRENDS}: 1 set aside" in status()


def test_a_rebuild_to_another_version_that_has_stopped_is_a_stop(database: Db, status: Status) -> None:
    metadata = database["projections_metadata"]
    rebuild(database, PROJECTIONS[TRENDS], swap=False)
    shadow = {"_id": f"{TRENDS}#shadow"}
    metadata.update_one(shadow, {"$set": {"status": "stopped", "lastError": "There is no PaymentLost."}})
    status()  # whoever started it hears of it, and the live one goes on
    metadata.update_one({"_id": TRENDS}, {"$set": {"version": 0}})
    assert "There is no PaymentLost." in status(code=1)


def test_a_read_model_of_another_version_is_shown_with_what_to_do(database: Db, status: Status) -> None:
    for version, state, todo in ((0, "outdated", "ledgerlake refresh"), (99, "newer", "Upgrade")):
        database["projections_metadata"].update_one({"_id": TRENDS}, {"$set": {"version": version}})
        parts = {part["name"]: part for part in json.loads(status("--json"))["parts"]}
        assert (parts[TRENDS]["status"], parts[TRENDS]["version"]) == (state, version)
        assert f"Filled by version {version}" in parts[TRENDS]["last_error"]
        assert todo in parts[TRENDS]["last_error"]
        assert {part["status"] for name, part in parts.items() if name != TRENDS} == {"live"}


@pytest.mark.parametrize("error", [AutoReconnect("u:secret@h gone"), MongoUnreachable("h is away.")])
@pytest.mark.parametrize("words", [[], ["--watch", "--looks", "1"]], ids=["once", "watch"])
def test_a_server_that_does_not_answer_is_no_delay(
    status: Status, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    def away(ledger: LedgerLake, earlier: LedgerStatus | None = None) -> LedgerStatus:
        raise error

    monkeypatch.setattr(LedgerLake, "status", away)
    told = status(*words, "--late-after", "60", code=1)
    assert "does not answer" in told or "h is away" in told
    assert "secret" not in told
    monkeypatch.setattr(LedgerLake, "open", away)
    status(*words, code=1)


def test_watching_for_machines_is_one_line_of_json_a_look_with_rates(status: Status) -> None:
    lines = status("--watch", "--json", "--looks", "3", "--every", "0.1").splitlines()
    looks = [json.loads(line) for line in lines]
    assert [look["head"] for look in looks] == [20, 20, 20]
    assert [look["rate"] for look in looks] == [None, 0, 0]


def test_a_watch_outlives_a_server_that_does_not_answer_for_a_while(
    status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = LedgerLake.status, iter([True, False, True])

    def unsteady(ledger: LedgerLake, earlier: LedgerStatus | None = None) -> LedgerStatus:
        if not next(looks):
            raise AutoReconnect("mongodb://u:secret@h gone")
        return look(ledger, earlier)

    monkeypatch.setattr(LedgerLake, "status", unsteady)
    lines = status("--watch", "--json", "--looks", "3", "--every", "0.1").splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["head", "error", "head"]
    assert "secret" not in lines[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_a_watch_with_the_exit_code_of_the_last_look(
    database: Db, status: Status, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    fall_behind(database, 12, ago=90)
    before = signal.getsignal(number)
    look, looks = LedgerLake.status, iter(range(5))

    def interrupted(ledger: LedgerLake, earlier: LedgerStatus | None = None) -> LedgerStatus:
        if next(looks) == 1:
            os.kill(os.getpid(), number)
        return look(ledger, earlier)

    monkeypatch.setattr(LedgerLake, "status", interrupted)
    shown_once = status("--watch", "--late-after", "60", "--every", "0.1", code=2)
    assert shown_once.count("Head of the log") == 1
    assert signal.getsignal(number) is before


def part(name: str, position: int, lag: int, **more: Any) -> Lag:
    return Lag(name, position, lag, more.pop("status", "live"), None, more.pop("last_error", None), **more)


AT_WORK = LedgerStatus(
    123_456_789,
    (
        part("payment_read_models", 123_456_700, 89, lag_seconds=0.081),
        part("payment_statistics", 122_222_222, 1_234_567, lag_seconds=7_300.5, dead_letters=1_234),
        part(
            TRENDS,
            99,
            123_456_690,
            lag_seconds=700_000.0,
            status="stopped",
            last_error="ProjectionStopped: " + "There is no event PaymentLost of schema version 2. " * 4,
        ),
        part("event_lake", 123_456_789, 0),
    ),
    NOON,
)


def test_rates_are_events_a_second_between_two_looks() -> None:
    earlier = LedgerStatus(
        123_446_789,
        (part("payment_read_models", 123_446_700, 89), part("event_lake", 123_456_790, 0)),
        NOON - timedelta(seconds=10),
    )
    now = AT_WORK.since(earlier)
    assert now.rate == 1_000
    # What was not there before, or has gone back since, has no rate.
    assert [each.rate for each in now.parts] == [1_000, None, None, None]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(width: int) -> None:
    out = StringIO()
    Console(file=out, width=width).print(shown(AT_WORK.since(AT_WORK), late_after=60), crop=False)
    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in ("123,456,789", "1,234,567", "2 h", "8 d", "stopped", "1,234 set aside"):
        assert figure in text
    assert text.count("PaymentLost") == 4


def test_the_exit_code_of_a_stop_outweighs_that_of_a_delay() -> None:
    assert exit_code(AT_WORK, late_after=60) == 1
    running = LedgerStatus(9, tuple(each for each in AT_WORK.parts if each.status == "live"), NOON)
    assert [exit_code(running, after) for after in (None, 7_300.0, 7_301.0)] == [0, 2, 0]
