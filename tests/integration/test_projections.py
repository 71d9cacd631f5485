"""Projections on a real server: every event once, in order, or a stop that says why."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from bson import Int64
from pymongo.database import Database

from ledgerlake.projections import (
    PROJECTIONS,
    Projection,
    ProjectionError,
    ProjectionStopped,
    advance,
    checkpoint,
    engine,
    reset,
)
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
PAYMENTS = PROJECTIONS["payment_read_models"]
ALL = list(PROJECTIONS.values())


def model(db: Db, projection: Projection) -> dict[str, dict[str, Any]]:
    return {document["_id"]: document for document in db[projection.name].find()}


def fresh_fold(db: Db, projection: Projection) -> dict[str, dict[str, Any]]:
    """The model as one batch from the start of the log makes it."""
    reset(db, projection)
    advance(db, projection, batch=1_000_000)
    return model(db, projection)


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_batches_of_any_size_come_to_the_fold_of_the_whole_log(database: Db, projection: Projection) -> None:
    history = payment_history(3, 900)
    chance = random.Random(3)
    done = 0
    while done < len(history):
        size = chance.randrange(1, 200)
        insert_events(database, history[done : done + size])
        done += size
        moved = advance(database, projection, batch=chance.randrange(1, 90))
        assert moved.to_position == min(done, 900)
    incremental = model(database, projection)
    assert advance(database, projection).events == 0
    assert incremental == fresh_fold(database, projection)
    assert len(incremental) > 20


def test_the_checkpoint_has_exactly_the_fields_of_the_contract(database: Db) -> None:
    history = payment_history(4, 50)
    insert_events(database, history)
    advance(database, PAYMENTS)
    document = database["projections_metadata"].find_one({"_id": "payment_read_models"}) or {}
    assert set(document) == {
        "_id",
        "projectionName",
        "lastProcessedEventId",
        "lastProcessedTimestamp",
        "version",
        "position",
        "status",
        "updatedAt",
        "lastError",
    }
    found = checkpoint(database, "payment_read_models")
    assert (found.position, found.status, found.version, found.last_error) == (50, "live", 1, None)
    assert found.last_event_id == str(history[-1]["_id"])
    assert found.last_timestamp == history[-1]["timestamp"].replace(
        microsecond=history[-1]["timestamp"].microsecond // 1000 * 1000
    )


def test_an_advance_goes_no_further_than_asked(database: Db) -> None:
    insert_events(database, payment_history(5, 100))
    assert advance(database, PAYMENTS, up_to=30).to_position == 30
    assert advance(database, PAYMENTS, up_to=20).events == 0
    assert advance(database, PAYMENTS, up_to=1_000).to_position == 100


def test_progress_is_told_up_to_the_end(database: Db) -> None:
    insert_events(database, payment_history(5, 100))
    told: list[tuple[int, int]] = []
    advance(database, PAYMENTS, batch=40, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(40, 100), (80, 100), (100, 100)]


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_two_runners_at_once_count_every_event_once(database: Db, projection: Projection) -> None:
    insert_events(database, payment_history(6, 600))
    moved = []
    threads = [
        threading.Thread(target=lambda: moved.append(advance(database, projection, batch=25)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(m.events for m in moved) == 600
    assert checkpoint(database, projection.name).position == 600
    assert model(database, projection) == fresh_fold(database, projection)


def test_a_stale_runner_can_not_write(database: Db) -> None:
    """It prepared a batch, slept, and another runner has taken the events meanwhile: its batch is dropped."""
    insert_events(database, payment_history(7, 100))
    engine.checkpoints.create(database, PAYMENTS)
    stale = engine._prepare(database, PAYMENTS, 0, 100)
    advance(database, PAYMENTS, batch=30)
    before = model(database, PAYMENTS)
    assert engine._commit(database, PAYMENTS, stale) is False
    assert model(database, PAYMENTS) == before


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_a_gap_in_the_log_stops_a_projection_before_it(database: Db, projection: Projection) -> None:
    history = payment_history(8, 100)
    insert_events(database, history[:60] + history[61:])
    advance(database, projection, up_to=40)
    with pytest.raises(ProjectionStopped, match="position 61") as stopped:
        advance(database, projection)
    assert stopped.value.remedy
    found = checkpoint(database, projection.name)
    assert (found.position, found.status) == (40, "stopped")
    assert "position 61" in (found.last_error or "")
    insert_events(database, [history[60]])
    assert advance(database, projection).to_position == 100
    assert checkpoint(database, projection.name).status == "live"
    assert model(database, projection) == fresh_fold(database, projection)


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("field", "value"),
    [("eventType", "PaymentLost"), ("eventData.amountMinor", None), ("eventData.currency", "???")],
)
def test_a_poison_event_parks_the_projection_before_its_batch(
    database: Db, projection: Projection, field: str, value: Any
) -> None:
    insert_events(database, payment_history(9, 50))
    good = database["events"].find_one({"position": 33}) or {}
    database["events"].update_one({"position": 33}, {"$set": {field: value}})
    advance(database, projection, up_to=20)
    with pytest.raises(ProjectionStopped):
        advance(database, projection, batch=10)
    found = checkpoint(database, projection.name)
    assert (found.position, found.status) == (30, "stopped")
    database["events"].replace_one({"position": 33}, good)
    assert advance(database, projection).to_position == 50
    assert model(database, projection) == fresh_fold(database, projection)


def test_another_version_of_the_definition_is_not_continued(database: Db) -> None:
    insert_events(database, payment_history(10, 20))
    advance(database, PAYMENTS)
    database["projections_metadata"].update_one({"_id": PAYMENTS.name}, {"$set": {"version": 99}})
    with pytest.raises(ProjectionError, match="version 99.*--rebuild payment_read_models"):
        advance(database, PAYMENTS)
    reset(database, PAYMENTS)
    assert advance(database, PAYMENTS).events == 20


def test_a_transaction_that_takes_too_long_is_tried_again_in_halves(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(11, 200))
    sizes: list[int] = []
    write = engine._write

    def slow(db: Db, projection: Projection, prepared: Any, session: Any) -> bool:
        size = prepared.up_to - prepared.after
        sizes.append(size)
        done = write(db, projection, prepared, session)
        if size > 50:
            time.sleep(4.5)  # the server allows 3 s, and looks once a second
        return done

    monkeypatch.setattr(engine, "_write", slow)
    assert advance(database, PAYMENTS, batch=100).to_position == 200
    assert sizes[0] == 100
    assert set(sizes[1:]) <= {50, 100}
    monkeypatch.undo()
    assert model(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_late_and_out_of_order_business_dates_land_in_the_right_day(database: Db) -> None:
    from datetime import UTC, datetime

    moments = [
        datetime(2026, 3, 1, 0, 0, 0, 0, UTC),
        datetime(2026, 2, 28, 23, 59, 59, 999000, UTC),
        datetime(2025, 12, 31, 23, 59, 59, 999000, UTC),
        datetime(2026, 2, 28, 0, 0, 0, 0, UTC),
    ]
    for i, at in enumerate(moments, start=1):
        insert_events(database, [event(i, f"p{i}", "PaymentProcessed", 100 * i, at=at)])
        advance(database, PROJECTIONS["payment_trends"])
    days = {d["day"].date().isoformat(): d["totalMinor"] for d in database["payment_trends"].find()}
    assert days == {"2026-03-01": 100, "2026-02-28": 600, "2025-12-31": 300}


RUNNER = """
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.settings import Settings
db = open_database(Settings.from_env())
print("ready", flush=True)
for projection in PROJECTIONS.values():
    advance(db, projection, batch=20)
"""


def kill_often(database: Db, environ: dict[str, str], kills: int, seed: int) -> int:
    """Start runners and SIGKILL them in mid-work until the kills are done; the number that hit."""
    chance = random.Random(seed)
    hits = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", RUNNER], env=environ, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
        process.stdout.close()
    return hits


def test_runners_killed_at_random_moments_leave_every_event_counted_once(
    database: Db, environ: dict[str, str]
) -> None:
    insert_events(database, payment_history(12, 3_000, payments=200))
    hits = kill_often(database, environ, kills=10, seed=12)
    assert hits >= 5
    for projection in ALL:
        advance(database, projection)
        assert model(database, projection) == fresh_fold(database, projection)


def test_negative_control_a_checkpoint_outside_the_transaction_counts_twice(database: Db) -> None:
    """The same kill, at the moment that matters: after the read model's commit, before the checkpoint."""
    statistics = PROJECTIONS["payment_statistics"]
    insert_events(database, payment_history(13, 60))
    engine.checkpoints.create(database, statistics)
    prepared = engine._prepare(database, statistics, 0, 60)
    engine._commit(database, statistics, prepared)
    # A crash here, with the checkpoint apart, leaves the model at 60 and the checkpoint at 0.
    database["projections_metadata"].update_one({"_id": statistics.name}, {"$set": {"position": Int64(0)}})
    advance(database, statistics)
    counted = sum(d["count"] for d in model(database, statistics).values())
    assert counted == 120
    assert sum(d["count"] for d in fresh_fold(database, statistics).values()) == 60
