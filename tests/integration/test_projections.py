"""Projections on a real server: every event once, in order, or a stop that says why."""

from __future__ import annotations

import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from ledgerlake.application import LedgerLake
from ledgerlake.eventstore.columnar import read_columns
from ledgerlake.mongo.indexes import Index
from ledgerlake.mongo.steps import Steps
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.projections import (
    PROJECTIONS,
    Projection,
    ProjectionError,
    ProjectionStopped,
    Slot,
    advance,
    checkpoint,
    columns_of,
    derived,
    engine,
    misfits,
    open_slot,
    prepare,
    transaction,
)
from ledgerlake.projections import (
    rebuild as rebuilding,
)
from ledgerlake.projections.model import NotInStep
from ledgerlake.projections.rebuild import rebuild
from ledgerlake.projections.transaction import TooLarge
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
PAYMENTS = PROJECTIONS["payment_read_models"]
ALL = list(PROJECTIONS.values())


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_batches_of_any_size_come_to_the_fold_of_the_whole_log(database: Db, projection: Projection) -> None:
    history = payment_history(3, 500)
    chance = random.Random(3)
    done = 0
    while done < len(history):
        size = chance.randrange(1, 200)
        insert_events(database, history[done : done + size])
        done += size
        moved = advance(database, projection, batch=chance.randrange(5, 90))
        assert moved.to_position == min(done, 500)
    incremental = stored(database, projection)
    assert advance(database, projection).events == 0
    assert incremental == fresh_fold(database, projection)
    assert all(len(found) > 5 for found in incremental.values())
    # What is stored is what the schema says, field by field.
    for model in (projection, *projection.derived):
        assert all(field.meaning for field in model.schema)
        for document in database[model.name].find():
            assert misfits(model.schema, document) == []


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
    assert (found.position, found.status, found.version, found.last_error) == (
        50,
        "live",
        PAYMENTS.version,
        None,
    )
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
    assert stored(database, projection) == fresh_fold(database, projection)


def test_a_stale_runner_can_not_write(database: Db) -> None:
    """It prepared a batch, slept, and another runner has taken the events meanwhile: its batch is dropped."""
    insert_events(database, payment_history(7, 100))
    slot = Slot(PAYMENTS.name)
    open_slot(database, PAYMENTS, slot)
    stale = prepare(PAYMENTS, slot, read_columns(database, 0, 100, columns_of(PAYMENTS, slot)), 0, 100)
    advance(database, PAYMENTS, batch=30)
    before = stored(database, PAYMENTS)
    assert engine._commit(database, PAYMENTS, slot, stale) is False
    assert stored(database, PAYMENTS) == before


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
    assert stored(database, projection) == fresh_fold(database, projection)


@pytest.mark.parametrize(
    ("projection", "field", "value"),
    [
        *((each, "eventType", "PaymentLost") for each in ALL if each.events is None),
        *((each, "schemaVersion", 2) for each in ALL if each.events is not None),
        (PAYMENTS, "eventData.amountMinor", None),
        (PAYMENTS, "eventData.currency", "???"),
    ],
    ids=lambda p: p.name if isinstance(p, Projection) else None,
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
    database["events"].replace_one({"position": 33}, good)
    assert advance(database, projection).to_position == 50
    assert stored(database, projection) == fresh_fold(database, projection)


def test_another_version_of_the_definition_is_not_continued(database: Db) -> None:
    insert_events(database, payment_history(10, 20))
    advance(database, PAYMENTS)
    database["projections_metadata"].update_one({"_id": PAYMENTS.name}, {"$set": {"version": 99}})
    with pytest.raises(ProjectionError, match="version 99.*rebuild payment_read_models"):
        advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).status == "live"  # readers go on with what there is
    rebuild(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).version == PAYMENTS.version
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_a_transaction_that_takes_too_long_is_tried_again_in_halves_that_grow_again(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(11, 3_000))
    sizes: list[int] = []
    write = engine.write

    def slow(db: Db, projection: Projection, slot: Slot, prepared: Any, session: Any) -> Steps[bool]:
        sizes.append(prepared.up_to - prepared.after)
        done = yield from write(db, projection, slot, prepared, session)
        if len(sizes) == 1:
            wait_until_it_is_ended(session)
        return done

    def wait_until_it_is_ended(session: ClientSession) -> None:
        """The server allows 3 s, and looks now and then."""
        admin = database.client.get_database("admin", read_concern=ReadConcern("local"))
        its = {"lsid.id": session.session_id["id"], "transaction": {"$exists": True}}
        look = [{"$currentOp": {"allUsers": True, "idleSessions": True}}, {"$match": its}]
        deadline = time.monotonic() + 120
        while list(admin.aggregate(look)):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    monkeypatch.setattr(engine, "write", slow)
    assert advance(database, PAYMENTS, batch=100).to_position == 3_000
    assert sizes[:2] == [100, 50]
    assert set(sizes[2:10]) == {50}
    assert max(sizes[10:]) == 100
    monkeypatch.undo()
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_one_event_that_takes_too_long_is_an_error_and_not_tried_for_ever(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> bool:
        raise OperationFailure("too large", 257)

    insert_events(database, payment_history(11, 8))
    monkeypatch.setattr(engine, "write", too_large)
    with pytest.raises(ProjectionStopped, match="transactionLifetimeLimitSeconds"):
        advance(database, PAYMENTS)
    found = checkpoint(database, PAYMENTS.name)
    assert (found.position, found.status) == (0, "stopped")
    monkeypatch.undo()
    assert advance(database, PAYMENTS).to_position == 8


def test_a_part_of_a_refresh_that_fails_holds_up_no_other(
    database: Db, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bring_up = rebuilding.bring_up

    def failing(db: Db, projection: Projection, **options: Any) -> Any:
        if projection is PAYMENTS:
            raise TooLarge("It is too large.")
        return bring_up(db, projection, **options)

    insert_events(database, payment_history(12, 30))
    ledger = LedgerLake(settings, database)
    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "bring_up", failing)
        with pytest.raises(TooLarge):
            ledger.refresh()
        assert {checkpoint(database, each.name).position for each in ALL if each is not PAYMENTS} == {30}
        assert ledger.lake.position() == 30
        insert_events(database, payment_history(13, 2, after=31))  # a gap, which the lake meets as it is
        with caplog.at_level(logging.WARNING), pytest.raises(TooLarge):
            ledger.refresh()
    assert "more than one reason (GapError)" in caplog.text


def test_a_unique_index_of_its_own_that_events_break_is_named(database: Db) -> None:
    insert_events(database, [event(i, f"p{i}", "PaymentProcessed", 100) for i in (1, 2)])
    unique = Index(PAYMENTS.name, "one_an_organization", (("organizationId", 1),), "a test", unique=True)
    with pytest.raises(ProjectionStopped, match="organizationId") as stopped:
        advance(database, replace(PAYMENTS, indexes=(*PAYMENTS.indexes, unique)))
    assert "one_an_organization" in str(stopped.value)
    assert not isinstance(stopped.value.__cause__, NotInStep)
    assert checkpoint(database, PAYMENTS.name).position == 1


def test_a_batch_of_no_events_is_refused(database: Db) -> None:
    insert_events(database, payment_history(11, 8))
    with pytest.raises(ValueError, match="at least one event"):
        advance(database, PAYMENTS, batch=0)


def test_negative_control_totals_that_are_not_taken_out_count_a_payment_in_every_state_it_was_in(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = derived.change
    monkeypatch.setattr(derived, "change", lambda each, now, before: change(each, now, []))
    insert_events(database, payment_history(17, 100, payments=12))
    advance(database, PAYMENTS, batch=20)
    found, expected = stored(database, PAYMENTS), fresh_fold(database, PAYMENTS)
    assert found[PAYMENTS.name] == expected[PAYMENTS.name]
    counted = [sum(d["count"] for d in each["payment_states"].values()) for each in (found, expected)]
    assert counted[0] > counted[1] == len(expected[PAYMENTS.name])


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
    with pytest.raises(ProjectionStopped, match="not in step.*rebuild payment_read_models"):
        advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).status == "stopped"
    rebuild(database, PAYMENTS)
    assert [d["refundedMinor"] for d in stored(database, PAYMENTS)[PAYMENTS.name].values()] == [30]


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


def test_negative_control_a_checkpoint_outside_the_transaction_counts_twice(database: Db) -> None:
    """The same kill, at the moment that matters: after the read model's commit, before the checkpoint."""
    statistics = PROJECTIONS["payment_statistics"]
    insert_events(database, payment_history(13, 60))
    slot = Slot(statistics.name)
    open_slot(database, statistics, slot)
    table = read_columns(database, 0, 60, columns_of(statistics, slot))
    engine._commit(database, statistics, slot, prepare(statistics, slot, table, 0, 60))
    # A crash here, with the checkpoint apart, leaves the model at 60 and the checkpoint at 0.
    database["projections_metadata"].update_one({"_id": statistics.name}, {"$set": {"position": Int64(0)}})
    advance(database, statistics)
    counted = sum(d["count"] for d in stored(database, statistics)[statistics.name].values())
    assert counted == 120
    assert sum(d["count"] for d in fresh_fold(database, statistics)[statistics.name].values()) == 60
