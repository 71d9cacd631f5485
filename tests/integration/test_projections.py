"""Projections on a real server: every event once, in order, or a stop that says why."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from bson import Int64
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ledgerlake.eventstore.columnar import read_columns
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.projections import (
    PROJECTIONS,
    Projection,
    ProjectionError,
    ProjectionStopped,
    advance,
    checkpoint,
    emptying,
    engine,
    reset,
    transaction,
)
from ledgerlake.projections.transaction import TooLarge
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
    with ThreadPoolExecutor(3) as pool:
        acts = [pool.submit(advance, database, projection, batch=25) for _ in range(3)]
    assert sum(act.result().events for act in acts) == 600
    assert checkpoint(database, projection.name).position == 600
    assert model(database, projection) == fresh_fold(database, projection)


def test_a_stale_runner_can_not_write(database: Db) -> None:
    """It prepared a batch, slept, and another runner has taken the events meanwhile: its batch is dropped."""
    insert_events(database, payment_history(7, 100))
    engine.checkpoints.create(database, PAYMENTS)
    stale = engine._prepare(partial(read_columns, database), PAYMENTS, 0, 100)
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
    assert (found.position, found.status) == (60, "stopped")
    assert "position 61" in (found.last_error or "")
    insert_events(database, [history[60]])
    assert advance(database, projection).to_position == 100
    assert checkpoint(database, projection.name).status == "live"
    assert model(database, projection) == fresh_fold(database, projection)


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eventType", "PaymentLost"),
        ("eventData.amountMinor", None),
        ("eventData.currency", "???"),
        ("schemaVersion", 2),
    ],
)
def test_a_poison_event_parks_the_projection_before_its_batch(
    database: Db, projection: Projection, field: str, value: Any
) -> None:
    insert_events(database, payment_history(9, 50))
    good = database["events"].find_one({"position": 33}) or {}
    database["events"].update_one({"position": 33}, {"$set": {field: value}})
    advance(database, projection, up_to=20)
    with pytest.raises(ProjectionStopped, match="stopped at position 33"):
        advance(database, projection)
    found = checkpoint(database, projection.name)
    assert (found.position, found.status) == (32, "stopped")
    assert sum(d["count"] for d in database["payment_statistics"].find()) in (0, 32)
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


def test_a_transaction_that_takes_too_long_is_tried_again_in_halves_that_grow_again(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(11, 3_000))
    sizes: list[int] = []
    write = engine._write

    def slow(db: Db, projection: Projection, prepared: Any, session: Any) -> bool:
        sizes.append(prepared.up_to - prepared.after)
        done = write(db, projection, prepared, session)
        if len(sizes) == 1:
            time.sleep(4.5)  # the server allows 3 s, and looks once a second
        return done

    monkeypatch.setattr(engine, "_write", slow)
    assert advance(database, PAYMENTS, batch=100).to_position == 3_000
    assert sizes[:2] == [100, 50]
    assert set(sizes[2:10]) == {50}
    assert max(sizes[10:]) == 100
    monkeypatch.undo()
    assert model(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_one_event_that_takes_too_long_is_an_error_and_not_tried_for_ever(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> bool:
        raise OperationFailure("too large", 257)

    insert_events(database, payment_history(11, 8))
    monkeypatch.setattr(engine, "_write", too_large)
    with pytest.raises(TooLarge, match="transactionLifetimeLimitSeconds"):
        advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).position == 0


def test_a_batch_of_no_events_is_refused(database: Db) -> None:
    insert_events(database, payment_history(11, 8))
    with pytest.raises(ValueError, match="at least one event"):
        advance(database, PAYMENTS, batch=0)


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


@pytest.mark.parametrize("harm", ["lost", "behind", "ahead", "kept"])
def test_a_read_model_that_is_not_in_step_with_its_checkpoint_stops_its_projection(
    database: Db, harm: str
) -> None:
    payments = database[PAYMENTS.name]
    insert_events(
        database,
        [
            event(1, "p", "PaymentFailed", 100),
            event(2, "p", "PaymentProcessed", 100, version=2),
            event(3, "p", "PaymentRefunded", 30, version=3),
        ],
    )
    if harm == "behind":
        advance(database, PAYMENTS, up_to=1)
        old = payments.find_one({"_id": "p"}) or {}
        advance(database, PAYMENTS, up_to=2)
        payments.replace_one({"_id": "p"}, old)
    else:
        advance(database, PAYMENTS, up_to=2)
    match harm:
        case "lost":
            payments.delete_one({"_id": "p"})
        case "ahead":
            database["projections_metadata"].update_one({"_id": PAYMENTS.name}, {"$set": {"position": 1}})
        case "kept":
            database["projections_metadata"].update_one({"_id": PAYMENTS.name}, {"$set": {"position": 0}})
    with pytest.raises(ProjectionStopped, match="not in step.*--rebuild payment_read_models"):
        advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).status == "stopped"
    reset(database, PAYMENTS)
    assert advance(database, PAYMENTS).events == 3
    assert [d["refundedMinor"] for d in payments.find()] == [30]


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_a_reset_that_was_cut_short_is_finished_by_the_next_advance(
    database: Db, projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(14, 300))
    advance(database, projection)
    expected = model(database, projection)
    monkeypatch.setattr(emptying, "_CHUNK", 3)
    holds = emptying.checkpoints.holds
    chunks: list[int] = []

    def crash(*arguments: Any) -> bool:
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(1)
        return holds(*arguments)

    monkeypatch.setattr(emptying.checkpoints, "holds", crash)
    with pytest.raises(KeyboardInterrupt):
        reset(database, projection)
    monkeypatch.setattr(emptying.checkpoints, "holds", holds)
    assert checkpoint(database, projection.name).status == "rebuilding"
    assert 0 < len(model(database, projection)) < len(expected)
    assert advance(database, projection).events == 300
    assert model(database, projection) == expected
    assert "fence" not in (database["projections_metadata"].find_one({"_id": projection.name}) or {})


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_resets_and_runners_at_once_leave_every_event_counted_once(
    database: Db, projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emptying, "_CHUNK", 10)
    insert_events(database, payment_history(15, 400))
    with ThreadPoolExecutor(4) as pool:
        acts = [
            pool.submit(advance, database, projection, batch=40),
            pool.submit(reset, database, projection),
            pool.submit(advance, database, projection, batch=70),
            pool.submit(reset, database, projection),
        ]
    for act in acts:
        act.result()
    advance(database, projection)
    monkeypatch.undo()
    assert model(database, projection) == fresh_fold(database, projection)


def test_an_unknown_commit_does_not_park_the_projection(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise UnknownCommit("no answer")

    insert_events(database, payment_history(16, 20))
    monkeypatch.setattr(transaction, "commit_until_known", unknown)
    with pytest.raises(ProjectionError, match="did not say") as raised:
        advance(database, PAYMENTS)
    assert not isinstance(raised.value, ProjectionStopped)
    assert checkpoint(database, PAYMENTS.name).status == "live"
    monkeypatch.undo()
    assert advance(database, PAYMENTS).events == 20


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
    prepared = engine._prepare(partial(read_columns, database), statistics, 0, 60)
    engine._commit(database, statistics, prepared)
    # A crash here, with the checkpoint apart, leaves the model at 60 and the checkpoint at 0.
    database["projections_metadata"].update_one({"_id": statistics.name}, {"$set": {"position": Int64(0)}})
    advance(database, statistics)
    counted = sum(d["count"] for d in model(database, statistics).values())
    assert counted == 120
    assert sum(d["count"] for d in fresh_fold(database, statistics).values()) == 60
