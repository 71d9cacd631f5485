"""One projection over several workers: each event once, whatever their number, and while it is changed."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bson import Int64
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.projections import (
    PROJECTIONS,
    Part,
    ProjectionError,
    ProjectionStopped,
    Slot,
    SlotGone,
    advance,
    checkpoint,
    part_slot,
    split,
)
from ledgerlake.projections import parts as splitting
from ledgerlake.queries import (
    GetOrganization,
    GetRefundLatency,
    GetRetryRecovery,
    GetStatistics,
    QueryBus,
)
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
PAYMENTS = PROJECTIONS["payment_read_models"]
TOTALS = [derived.name for derived in PAYMENTS.derived]


def test_however_often_it_is_split_anew_it_comes_to_the_fold_of_the_whole_log(database: Db) -> None:
    history = payment_history(31, 600, payments=40)
    chance = random.Random(31)
    done = 0
    for parts in (1, 2, 3, 2, 1):
        insert_events(database, history[done : done + 120])
        done += 120
        assert split(database, PAYMENTS, parts) <= done
        assert checkpoint(database, PAYMENTS.name).parts == parts
        moved = advance(database, PAYMENTS, batch=chance.randrange(20, 90))
        assert moved.to_position == checkpoint(database, PAYMENTS.name).position == done
        assert moved.events == 120
        if parts > 1:
            kept_by = {document.get("part") for document in database["payment_states"].find()}
            assert kept_by == set(range(parts))
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)
    # Split over none any more, it is document by document what it would be had it never been.
    for name in TOTALS:
        assert database[name].count_documents({"part": {"$exists": True}}) == 0
        assert database[name].count_documents({}) == len(fresh_fold(database, PAYMENTS)[name])


def test_answers_of_a_split_projection_are_those_of_an_unsplit_one(database: Db) -> None:
    history = payment_history(31, 400, payments=40)
    insert_events(database, history[:150])
    advance(database, PAYMENTS)
    split(database, PAYMENTS, 2)
    insert_events(database, history[150:])
    advance(database, PAYMENTS)
    bus = QueryBus(database)
    organizations = {each["metadata"]["organizationId"] for each in history}

    def answers() -> list[Any]:
        statistics = bus.ask(GetStatistics())
        return [
            statistics.payment_states,
            bus.ask(GetRefundLatency()).rows,
            bus.ask(GetRetryRecovery()).rows,
            *(bus.ask(GetOrganization(each)).volumes for each in sorted(organizations)),
        ]

    over_two = answers()
    # The case: of some state the one worker has what another has taken out.
    by = ("organizationId", "status", "unreferenced", "currency")
    sums = [
        {"$group": {"_id": [f"${name}" for name in by], "count": {"$sum": "$count"}}},
        {"$match": {"count": 0}},
    ]
    assert list(database["payment_states"].aggregate(sums))
    split(database, PAYMENTS, 1)
    assert over_two == answers()


def test_every_stream_falls_to_one_worker(database: Db) -> None:
    streams = [f"payment-{n}" for n in range(200)]
    for of in (1, 2, 5):
        takers = [[Part(number, of).takes(stream) for number in range(of)] for stream in streams]
        assert {sum(each) for each in takers} == {1}
        assert all(any(each[number] for each in takers) for number in range(of))


def test_workers_have_checkpoints_of_their_own_and_the_least_is_what_holds(database: Db) -> None:
    insert_events(database, payment_history(32, 100))
    split(database, PAYMENTS, 2)
    advance(database, PAYMENTS, up_to=80, slot=part_slot(database, PAYMENTS, 1))
    assert checkpoint(database, PAYMENTS.name).position == 0
    advance(database, PAYMENTS, up_to=30, slot=part_slot(database, PAYMENTS, 0))
    found = checkpoint(database, PAYMENTS.name)
    assert (found.position, found.parts, found.status) == (30, 2, "live")
    assert {each["_id"] for each in database["projections_metadata"].find()} == {
        "payment_read_models/0-of-2",
        "payment_read_models/1-of-2",
    }
    database["events"].update_one({"position": 90}, {"$set": {"eventData.currency": "???"}})
    with pytest.raises(ProjectionStopped):
        advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).status == "stopped"


def test_a_worker_of_before_can_not_write_any_more(database: Db) -> None:
    insert_events(database, payment_history(33, 100))
    split(database, PAYMENTS, 2)
    old = part_slot(database, PAYMENTS, 0)
    split(database, PAYMENTS, 3)
    for gone in (old, Slot(PAYMENTS.name)):
        with pytest.raises(SlotGone):
            advance(database, PAYMENTS, slot=gone)
    with pytest.raises(ProjectionError, match="no worker 3"):
        part_slot(database, PAYMENTS, 3)
    assert advance(database, PAYMENTS).events == 100
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_it_is_split_anew_while_its_workers_are_at_work(database: Db) -> None:
    insert_events(database, payment_history(34, 400, payments=30))
    split(database, PAYMENTS, 2)
    with ThreadPoolExecutor(3) as pool:
        acts = [pool.submit(advance, database, PAYMENTS, batch=40) for _ in range(2)]
        pool.submit(split, database, PAYMENTS, 3, 30).result()
        for act in acts:
            act.result()
    advance(database, PAYMENTS)
    assert checkpoint(database, PAYMENTS.name).position == 400
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_a_gathering_of_totals_that_was_cut_short_is_finished_by_the_next_split(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(35, 200, payments=40))
    split(database, PAYMENTS, 2)
    advance(database, PAYMENTS)
    monkeypatch.setattr(splitting, "_CHUNK", 4)
    run, chunks = splitting.in_transaction, []

    def crash(*arguments: Any) -> Any:
        chunks.append(1)
        if len(chunks) == 4:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(splitting, "in_transaction", crash)
    with pytest.raises(KeyboardInterrupt):
        split(database, PAYMENTS, 1)
    assert database["payment_states"].count_documents({"part": {"$exists": True}}) > 0
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)  # the sums hold all the while
    split(database, PAYMENTS, 1)
    assert database["payment_states"].count_documents({"part": {"$exists": True}}) == 0
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_negative_control_parts_that_stand_at_different_positions_must_not_be_joined(database: Db) -> None:
    insert_events(database, payment_history(36, 100, payments=30))
    split(database, PAYMENTS, 2)
    advance(database, PAYMENTS, slot=part_slot(database, PAYMENTS, 0))
    metadata = database["projections_metadata"]
    [ahead] = metadata.find({"_id": "payment_read_models/0-of-2"})
    metadata.delete_many({})
    ahead.pop("parts")
    metadata.insert_one({**ahead, "_id": PAYMENTS.name, "position": Int64(100)})
    advance(database, PAYMENTS)
    assert stored(database, PAYMENTS) != fresh_fold(database, PAYMENTS)


def test_what_can_not_be_split_is_refused(database: Db) -> None:
    with pytest.raises(ProjectionError, match="several streams meet"):
        split(database, PROJECTIONS["payment_statistics"], 2)
    for parts in (0, 65):
        with pytest.raises(ValueError, match="1 to 64"):
            split(database, PAYMENTS, parts)


def test_a_projection_is_split_and_its_workers_run_from_the_command_line(
    settings: Settings, database: Db, environ: dict[str, str]
) -> None:
    from ledgerlake.cli import app

    runner = CliRunner(env=environ)
    insert_events(database, payment_history(37, 80))
    assert "2 workers" in runner.invoke(app, ["split", PAYMENTS.name, "2"]).stdout
    done = [
        json.loads(runner.invoke(app, ["advance", PAYMENTS.name, "--worker", str(k), "--json"]).stdout)
        for k in (0, 1)
    ]
    assert sum(each["events"] for each in done) == 80
    status = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    [part] = [part for part in status["parts"] if part["name"] == PAYMENTS.name]
    assert (part["position"], part["status"]) == (80, "live")
    assert isinstance(runner.invoke(app, ["advance", "payment_read"]).exception, ProjectionError)
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)
