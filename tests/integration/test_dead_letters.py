"""Events that can not be folded, set aside with what follows in their streams, and put back in order."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from bson import Int64
from pymongo.database import Database
from pymongo.errors import OperationFailure
from typer.testing import CliRunner

from ledgerlake.eventstore import columnar
from ledgerlake.eventstore.archived import ArchiveError
from ledgerlake.mongo.steps import run
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.projections import (
    PROJECTIONS,
    OnPoison,
    ProjectionError,
    ProjectionStopped,
    advance,
    checkpoint,
    dead_letters,
    engine,
    retry,
    retrying,
    split,
    transaction,
)
from ledgerlake.projections.dead_letters import counts, described, listed
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
PAYMENTS = PROJECTIONS["payment_read_models"]
STATISTICS = PROJECTIONS["payment_statistics"]
SET_ASIDE = OnPoison.SET_ASIDE


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSES", (0.0, 0.0))


class Poison:
    """One event of a log that can not be folded, until it is mended."""

    def __init__(self, db: Db, position: int, field: str = "eventData.currency", value: Any = "???") -> None:
        self._events = db["events"]
        self.good = self._events.find_one({"position": position}) or {}
        self.position, self.stream = position, str(self.good["aggregateId"])
        self._events.update_one({"position": position}, {"$set": {field: value}})

    def mend(self) -> None:
        self._events.replace_one({"position": self.position}, self.good)

    def behind(self) -> list[int]:
        """Positions of its stream from its own on."""
        found = self._events.find({"aggregateId": self.stream, "position": {"$gte": self.position}})
        return sorted(int(each["position"]) for each in found)


def poisoned(db: Db, seed: int, events: int, payments: int = 12) -> Poison:
    """A log with a poison event in it whose stream has an event before it, and some behind it."""
    history = payment_history(seed, events, payments=payments)
    insert_events(db, history)
    by_stream: dict[str, list[int]] = {}
    for each in history:
        by_stream.setdefault(each["aggregateId"], []).append(int(each["position"]))
    position = max(by_stream.values(), key=len)[2]
    return Poison(db, position)


@pytest.mark.parametrize("projection", [PAYMENTS, STATISTICS], ids=lambda p: p.name)
def test_an_event_is_set_aside_with_its_stream_and_put_back_when_it_is_mended(
    database: Db, projection: Any
) -> None:
    poison = poisoned(database, 21, 200)
    moved = advance(database, projection, batch=64, on_poison=SET_ASIDE)
    assert moved.to_position == 200
    letters = listed(database, projection.name)
    assert [each.position for each in letters] == poison.behind()
    assert len(letters) > 2
    assert moved.set_aside == len(letters)
    assert {each.stream_id for each in letters} == {poison.stream}
    first, *others = letters
    assert "???" in first.error
    assert (first.attempts, {each.attempts for each in others}) == (3, {0})
    assert checkpoint(database, projection.name).status == "live"
    # All else is as the log without that stretch of the stream.
    assert sum(d["count"] for d in stored(database, STATISTICS)[STATISTICS.name].values()) in (
        0,
        200 - len(letters),
    )

    assert retry(database, projection).left == len(letters)  # not mended yet
    assert listed(database, projection.name)[0].attempts == 4

    poison.mend()
    assert retry(database, projection).put_back == len(letters)
    assert listed(database) == []
    assert stored(database, projection) == fresh_fold(database, projection)
    insert_events(database, payment_history(22, 40, after=200))
    assert advance(database, projection).set_aside == 0
    assert stored(database, projection) == fresh_fold(database, projection)


def test_by_default_and_where_no_event_is_to_blame_the_projection_is_parked(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = poisoned(database, 23, 60)
    with pytest.raises(ProjectionStopped):
        advance(database, PAYMENTS)
    with pytest.raises(ProjectionStopped):  # the projection's own policy goes before the setting
        advance(database, replace(PAYMENTS, on_poison=OnPoison.PARK), on_poison=SET_ASIDE)
    poison.mend()

    def no_archive(*_: Any) -> Any:
        raise ArchiveError("The archive is not there.", "Mount it.")

    monkeypatch.setattr(engine, "prepare", no_archive)
    with pytest.raises(ProjectionStopped, match="archive"):
        advance(database, PAYMENTS, on_poison=SET_ASIDE)
    monkeypatch.undo()
    database["events"].delete_one({"position": 50})
    with pytest.raises(ProjectionStopped, match="position 50"):
        advance(database, PAYMENTS, on_poison=SET_ASIDE)
    assert listed(database) == []


class NoThreads:
    """A pool that can start none, as where the system has no more."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, *_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    def shutdown(self, **_: Any) -> None: ...


def test_a_log_that_can_not_be_read_is_no_events_fault(database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_events(database, payment_history(24, 6))

    def unreadable(*_: Any) -> Any:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(columnar, "_read_range", unreadable)
        with pytest.raises(ProjectionStopped, match=r"could not be read \(RuntimeError"):
            advance(database, PAYMENTS, on_poison=SET_ASIDE)
    assert listed(database) == []
    with monkeypatch.context() as patch:  # it reads and folds each batch when its turn comes
        patch.setattr(engine.ThreadPoolExecutor, "submit", NoThreads.submit)
        assert advance(database, PAYMENTS, batch=2, on_poison=SET_ASIDE).events == 6
    assert listed(database) == []
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


@pytest.mark.parametrize("poison", [pl.exceptions.PanicException("no"), RuntimeError("no")], ids=repr)
def test_whatever_a_fold_raises_is_of_its_event(database: Db, poison: BaseException) -> None:
    def fold(events: pl.DataFrame) -> pl.DataFrame:
        if 2 in events["position"]:
            raise poison
        return STATISTICS.fold(events)

    insert_events(database, [event(i, f"p{i}", "PaymentProcessed", 100) for i in range(1, 4)])
    panicking = replace(STATISTICS, fold=fold, columns=(*STATISTICS.columns, "position"))
    assert advance(database, panicking, on_poison=SET_ASIDE).to_position == 3
    assert [each.position for each in listed(database)] == [2]


def test_a_retry_names_the_event_that_fails_and_not_the_first_of_its_stream(database: Db) -> None:
    poison = poisoned(database, 30, 60)
    advance(database, STATISTICS, on_poison=SET_ASIDE)
    poison.mend()
    third = Poison(database, poison.behind()[2], "eventType", "PaymentLost")
    before = {each.position: each for each in listed(database)}
    assert retry(database, STATISTICS).left == len(before)
    after = {each.position: each for each in listed(database)}
    changed = [position for position in after if after[position] != before[position]]
    assert changed == [third.position]
    assert (after[third.position].attempts, "PaymentLost" in after[third.position].error) == (1, True)
    third.mend()
    assert retry(database, STATISTICS).left == 0
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


@pytest.mark.parametrize("harm", [UnknownCommit("no answer"), OperationFailure("too large", 257)], ids=repr)
def test_a_retry_that_fails_for_no_events_fault_leaves_their_errors_as_they_are(
    database: Db, monkeypatch: pytest.MonkeyPatch, harm: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise harm

    poison = poisoned(database, 31, 60)
    advance(database, STATISTICS, on_poison=SET_ASIDE)
    poison.mend()
    before = listed(database)
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "commit_until_known", fail)
        with pytest.raises((ProjectionError, transaction.TooLarge), match=r"did not say|too large"):
            retry(database, STATISTICS)
    assert listed(database) == before
    assert retry(database, STATISTICS).left == 0


def test_a_failure_that_passes_is_tried_again_and_sets_nothing_aside(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(24, 3))
    prepare, calls = engine.prepare, []

    def flaky(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) < 4:
            raise ValueError("not now")
        return prepare(*arguments)

    monkeypatch.setattr(engine, "prepare", flaky)
    assert advance(database, PAYMENTS, on_poison=SET_ASIDE).set_aside == 0
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_an_event_that_can_not_even_be_read_is_set_aside_by_the_worker_whose_stream_it_is(
    database: Db,
) -> None:
    insert_events(database, payment_history(25, 90, payments=12))
    advance(database, PAYMENTS, up_to=10)
    split(database, PAYMENTS, 3)
    poison = Poison(database, 40, "eventData.amountMinor", "ten")
    advance(database, PAYMENTS, on_poison=SET_ASIDE)
    assert [each.position for each in listed(database)] == poison.behind()
    assert checkpoint(database, PAYMENTS.name).position == 90
    split(database, PAYMENTS, 2)  # what is set aside goes along
    insert_events(database, payment_history(26, 30, after=90))
    advance(database, PAYMENTS, on_poison=SET_ASIDE)
    poison.mend()
    assert retry(database, PAYMENTS).left == 0
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_a_batch_prepared_before_a_stream_was_set_aside_does_not_get_in(database: Db) -> None:
    """Runners at once, with a poison event here and there: no stream is folded past its own."""
    insert_events(database, payment_history(27, 150, payments=25))
    poisons = [Poison(database, position) for position in range(20, 150, 40)]
    with ThreadPoolExecutor(2) as pool:
        acts = [
            pool.submit(advance, database, PAYMENTS, batch=size, on_poison=SET_ASIDE) for size in (16, 50)
        ]
    assert {act.result().to_position for act in acts} == {150}
    first = {}
    for poison in poisons:
        first.setdefault(poison.stream, poison)
    expected = sorted(position for poison in first.values() for position in poison.behind())
    assert [each.position for each in listed(database)] == expected
    for poison in poisons:
        poison.mend()
    retry(database, PAYMENTS)
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_a_runner_meanwhile_and_a_retry_get_in_one_after_the_other(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the dead letters and writing, a runner adds one more: it is put back too, in order."""
    poison = poisoned(database, 28, 100)
    advance(database, PAYMENTS, up_to=poison.behind()[1], on_poison=SET_ASIDE)
    poison.mend()
    folded, moved = retrying._folded, []

    def meanwhile(*arguments: Any) -> Any:
        if not moved:
            moved.append(advance(database, PAYMENTS, on_poison=SET_ASIDE))
        return folded(*arguments)

    monkeypatch.setattr(retrying, "_folded", meanwhile)
    done = retry(database, PAYMENTS)
    assert moved[0].set_aside > 0
    assert (done.put_back, done.left) == (len(poison.behind()), 0)
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_negative_control_without_the_count_of_changes_a_stream_would_lose_an_event(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same race, at the moment that matters, with a compare-and-set on the position alone."""
    insert_events(
        database,
        [
            event(1, "p", "PaymentProcessed", 100),
            event(2, "p", "PaymentRefunded", 10, version=2),
            event(3, "p", "PaymentRefunded", 20, version=3),
        ],
    )
    advance(database, STATISTICS, up_to=1)
    poison = Poison(database, 2)
    advance(database, STATISTICS, up_to=2, on_poison=SET_ASIDE)
    [(slot, at)] = engine.live_slots(database, STATISTICS)
    aside = run(dead_letters.set_aside(database, slot, at))
    table = engine.read_columns(database, 2, 3, engine.columns_of(STATISTICS, slot, aside))
    late = engine.prepare(STATISTICS, slot, table, 2, 3, aside)
    assert [each.position for each in late.letters] == [3]
    poison.mend()
    retry(database, STATISTICS)
    assert engine._commit(database, STATISTICS, slot, late) is False
    # Without the count the batch gets in, and an event lies among the dead letters of a mended stream.
    now = checkpoint(database, STATISTICS.name).set_aside
    assert engine._commit(database, STATISTICS, slot, replace(late, set_aside=now)) is True
    assert [each.position for each in listed(database)] == [3]


def test_too_many_streams_set_aside_stop_the_projection(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, [event(i, f"p{i}", "PaymentProcessed", 100) for i in range(1, 9)])
    database["events"].update_many({}, {"$set": {"eventData.currency": "???"}})
    monkeypatch.setattr(engine, "MOST_STREAMS", 3)
    with pytest.raises(ProjectionStopped, match="position 4"):
        advance(database, PAYMENTS, on_poison=SET_ASIDE)
    assert counts(database) == {PAYMENTS.name: 3}
    assert checkpoint(database, PAYMENTS.name).status == "stopped"


def test_dead_letters_are_listed_told_and_put_back_from_the_command_line(
    settings: Settings, database: Db, environ: dict[str, str]
) -> None:
    from ledgerlake.cli import app

    runner = CliRunner(env={**environ, "LEDGERLAKE_ON_POISON": "set_aside"})
    poison = poisoned(database, 29, 60)
    advanced = runner.invoke(app, ["advance", STATISTICS.name, "--json"])
    assert advanced.exit_code == 0, advanced.output
    set_aside = json.loads(advanced.stdout)["set_aside"]
    assert set_aside == len(poison.behind())

    found = runner.invoke(app, ["dead-letters", "list", "--json"])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["total"] == set_aside
    assert json.loads(found.stdout)["dead_letters"][0]["position"] == poison.position
    told = described(database, STATISTICS.name, most=1)
    assert "position" in told[0]
    assert f"{set_aside - 1} more" in told[1]
    verified = json.loads(runner.invoke(app, ["verify", "--json"]).stdout)
    [check] = [check for check in verified["checks"] if check["name"] == "dead letters"]
    assert not check["ok"]
    assert f"position {poison.position}" in check["differences"][0]
    status = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    [part] = [part for part in status["parts"] if part["name"] == STATISTICS.name]
    assert part["dead_letters"] == set_aside

    again = runner.invoke(app, ["dead-letters", "retry"])
    assert again.exit_code == 1
    poison.mend()
    done = runner.invoke(app, ["dead-letters", "retry", "--projection", STATISTICS.name, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["put_back"] == set_aside
    assert runner.invoke(app, ["dead-letters", "list"]).exit_code == 0
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)
    document = database["projections_metadata"].find_one({"_id": STATISTICS.name}) or {}
    assert document["position"] == Int64(60)
