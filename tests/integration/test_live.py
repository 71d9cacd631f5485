"""Live: what is derived from the log follows it by itself, whatever happens to parts of it meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import polars as pl
import pytest
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.cli.follow import _tick
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance, checkpoint, live
from ledgerlake.projections.live import LiveRunner, OnProgress, Part
from ledgerlake.settings import Settings
from tests import folding
from tests.builders import insert_events, payment_history

Db = Database[dict[str, Any]]
PAYMENTS = "payment_read_models"
OTHERS = tuple(name for name in PROJECTIONS if name != PAYMENTS)
COMMANDS = ("find", "aggregate", "getMore", "update", "insert", "commitTransaction")
APP = "live-runner"  # the client whose commands fail, and nobody else's
DEADLINE = 180.0  # the lake takes what processor time is left over


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.02)


def at(db: Db, position: int, *names: str) -> Callable[[], bool]:
    """Whether the projections (all of them, if none is named) stand at a position."""
    return lambda: all(checkpoint(db, name).position == position for name in names or PROJECTIONS)


def parts(db: Db, batch: int = 20_000) -> list[Part]:
    def bring_up(name: str, on_progress: OnProgress) -> int:
        return advance(db, PROJECTIONS[name], batch=batch, on_progress=on_progress).to_position

    return [Part(name, partial(bring_up, name)) for name in PROJECTIONS]


def is_fresh(db: Db) -> bool:
    """Whether every read model is what the whole log comes to."""
    for projection in PROJECTIONS.values():
        assert folding.stored(db, projection) == folding.fresh_fold(db, projection)
    return True


@pytest.fixture
def faulty(settings: Settings) -> Iterator[Db]:
    """The test's database by a client that the fail points pick out."""
    db = open_database(settings, app_name=APP)
    yield db
    db.client.close()


def fail(db: Db, mode: Any, *commands: str, **how: Any) -> None:
    db.client.admin.command(
        {
            "configureFailPoint": "failCommand",
            "mode": mode,
            "data": {"failCommands": list(commands), "appName": APP, **how},
        }
    )


@pytest.mark.parametrize("change_streams", [True, False], ids=["woken", "by the clock"])
def test_two_runners_at_once_follow_the_log_and_count_every_event_once(
    database: Db, change_streams: bool
) -> None:
    history = payment_history(21, 150)
    with (
        LiveRunner(database, parts(database, batch=15), change_streams=change_streams) as one,
        LiveRunner(database, parts(database, batch=25), change_streams=change_streams) as other,
    ):
        for done in range(0, 150, 50):
            insert_events(database, history[done : done + 50])
            until(at(database, done + 50))
        assert (one.failing, other.failing) == ({}, {})
    assert is_fresh(database)


def test_what_stops_holds_up_no_other_and_goes_on_by_itself_once_it_is_mended(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(live, "LONGEST_PAUSE", 0.1)
    insert_events(database, payment_history(22, 100))
    good = database["events"].find_one({"position": 51}) or {}
    # A version out of step is nothing to those that sum up movements.
    database["events"].update_one({"position": 51}, {"$set": {"version": 99}})
    with LiveRunner(database, parts(database)) as runner:
        until(at(database, 100, *OTHERS))
        until(lambda: set(runner.failing) == {PAYMENTS})
        insert_events(database, payment_history(23, 20, after=100))
        until(at(database, 120, *OTHERS))
        stopped = checkpoint(database, PAYMENTS)
        assert (stopped.position, stopped.status) == (50, "stopped")
        database["events"].replace_one({"position": 51}, good)
        until(at(database, 120))
        until(lambda: not runner.failing)
    assert checkpoint(database, PAYMENTS).status == "live"
    assert is_fresh(database)


def test_a_server_that_is_away_for_a_while_only_delays(database: Db, faulty: Db) -> None:
    insert_events(database, payment_history(24, 40))
    with LiveRunner(faulty, parts(faulty)) as runner:
        until(at(database, 40))
        fail(database, "alwaysOn", *COMMANDS, closeConnection=True)
        try:
            insert_events(database, payment_history(25, 40, after=40))
            until(lambda: set(runner.failing) == set(PROJECTIONS))
        finally:
            fail(database, "off")
        until(at(database, 80))
        until(lambda: not runner.failing)
    assert is_fresh(database)


def test_a_change_stream_that_is_refused_costs_nothing_but_time(database: Db, faulty: Db) -> None:
    fail(database, "alwaysOn", "aggregate", errorCode=13)
    try:
        with LiveRunner(faulty, parts(faulty)) as runner:
            for done in range(0, 60, 20):
                insert_events(database, payment_history(26 + done, 20, after=done))
                until(at(database, done + 20))
            assert runner.failing == {}
    finally:
        fail(database, "off")


def test_no_part_ever_vanishes_whatever_it_raises(database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.01)
    raised = [pl.exceptions.PanicException("no"), SystemExit(1)]
    told = []

    def bring_up(on_progress: OnProgress) -> int:
        told.append(dict(runner.failing))
        if raised:
            raise raised.pop(0)
        return advance(database, PROJECTIONS[PAYMENTS]).to_position

    insert_events(database, payment_history(33, 10))
    runner = LiveRunner(database, [Part(PAYMENTS, bring_up)])
    with runner:
        until(at(database, 10, PAYMENTS))
        until(lambda: not runner.failing)
    assert told[:3] == [{}, {PAYMENTS: "PanicException: no"}, {PAYMENTS: "SystemExit: 1"}]


def test_closing_ends_after_the_batch_in_hand(database: Db) -> None:
    insert_events(database, payment_history(27, 400))
    taken: list[int] = []

    def bring_up(on_progress: OnProgress) -> int:
        def told(done: int, total: int) -> None:
            taken.append(done)
            if done == 60:
                runner.close()
            on_progress(done, total)

        return advance(database, PROJECTIONS[PAYMENTS], batch=20, on_progress=told).to_position

    runner = LiveRunner(database, [Part(PAYMENTS, bring_up)])
    with runner:
        while runner.wait(DEADLINE):
            pass
    assert taken == [20, 40, 60]
    assert checkpoint(database, PAYMENTS).position == 60
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("live-")]


def test_a_terminal_is_told_how_far_it_is_and_what_fails(database: Db, settings: Settings) -> None:
    insert_events(database, payment_history(30, 20))

    def broken(on_progress: OnProgress) -> int:
        raise ValueError("no")

    ledger = LedgerLake(settings, database)
    with LiveRunner(database, [*parts(database), Part("broken", broken)]) as runner:
        until(at(database, 20))
        until(lambda: "broken" in runner.failing)
        status, told = _tick(ledger, runner, None)
        assert told.endswith("Z  head 20; behind: event_lake 20\nbroken: ValueError: no")
        assert "head 20, 0 ev/s" in _tick(ledger, runner, status)[1]
    ledger.store.close()


@pytest.fixture
def service(environ: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `ledgerlake refresh --follow`."""
    command = [sys.executable, "-c", "from ledgerlake.cli import main; main()"]
    options = ["refresh", "--follow", "--lake-every", "0.2"]
    with ExitStack() as started:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command + options,
                env={**environ, "LEDGERLAKE_LOG": "text"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            return process

        yield start


def test_refresh_follow_is_a_service_that_a_signal_ends_in_order(
    database: Db, settings: Settings, service: Callable[[], subprocess.Popen[str]]
) -> None:
    insert_events(database, payment_history(28, 100))
    running = service()
    until(at(database, 100))
    insert_events(database, payment_history(29, 50, after=100))
    until(at(database, 150))
    until(lambda: LedgerLake(settings, database).lake.position() == 150)
    until((settings.reports_dir / "checkpoint.json").exists)
    running.send_signal(signal.SIGTERM)
    out, errors = running.communicate(timeout=DEADLINE)
    assert (running.returncode, out, errors) == (0, "", "")
    assert is_fresh(database)


def test_a_service_that_is_killed_takes_the_process_of_its_lake_along(
    database: Db, settings: Settings, service: Callable[[], subprocess.Popen[str]]
) -> None:
    insert_events(database, payment_history(31, 20))
    running = service()
    until(lambda: LedgerLake(settings, database).lake.position() == 20)
    running.kill()
    # Both processes have this pipe: it ends when the last of them does.
    out, _ = running.communicate(timeout=DEADLINE)
    assert (running.returncode, out) == (-signal.SIGKILL, "")
