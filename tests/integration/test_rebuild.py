"""A rebuild fills a shadow, compares it with the live read model, and swaps them, whoever reads or writes."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.eventstore.columnar import GapError, read_columns
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.projections import (
    PROJECTIONS,
    OnPoison,
    Projection,
    ProjectionError,
    ProjectionOutdated,
    ProjectionStopped,
    Slot,
    advance,
    checkpoint,
    checkpoints,
    dead_letters,
    engine,
    model,
    split,
    transaction,
)
from ledgerlake.projections import (
    rebuild as rebuilding,
)
from ledgerlake.projections.rebuild import (
    RebuildAbandoned,
    RebuildProgress,
    abandon,
    bring_up,
    drop_replaced,
    rebuild,
    shadow,
)
from ledgerlake.queries import GetStatistics
from ledgerlake.reconciliation import read_side
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history
from tests.folding import fresh_fold, stored

ROOT = Path(__file__).resolve().parents[2]
Db = Database[dict[str, Any]]
STATISTICS = PROJECTIONS["payment_statistics"]
PAYMENTS = PROJECTIONS["payment_read_models"]
ALL = list(PROJECTIONS.values())


def collections(db: Db, projection: Projection) -> set[str]:
    """The generations that there are of a projection's own collection."""
    return {name for name in db.list_collection_names() if name.split("__")[0] == projection.name}


class Halted(Exception):
    """A rebuild that is stopped here, as by a signal."""


@contextmanager
def halted(patch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Within, whoever rebuilds stops where he would call this method of a rebuild."""

    def halt(*_: Any) -> None:
        raise Halted

    with patch.context() as within:
        within.setattr(rebuilding._Rebuild, name, halt)
        with pytest.raises(Halted):
            yield


@pytest.mark.parametrize("projection", ALL, ids=lambda p: p.name)
def test_what_is_swapped_in_is_the_fold_of_the_log_and_the_old_one_stays_until_it_is_dropped(
    database: Db, projection: Projection
) -> None:
    insert_events(database, payment_history(1, 300))
    advance(database, projection, up_to=250)
    before = stored(database, projection)
    done = rebuild(database, projection, batch=70)
    assert (done.swapped, done.generation, done.position, done.events, done.kept) == (True, 2, 300, 300, (1,))
    assert [each.collection for each in done.comparisons] == list(projection.models)
    assert all(each.equal for each in done.comparisons)
    assert done.comparisons[0].documents == len(before[projection.name])
    found = checkpoint(database, projection.name)
    assert (found.position, found.generation, found.status, found.version) == (
        300,
        2,
        "live",
        projection.version,
    )
    assert stored(database, projection) == fresh_fold(database, projection)
    assert model(database, projection.name).name == f"{projection.name}__2"
    # The old one is as it was, and then gone.
    assert {d["_id"]: d for d in database[projection.name].find()} == before[projection.name]
    assert drop_replaced(database, projection, grace_seconds=0) == (1,)
    assert collections(database, projection) == {f"{projection.name}__2"}
    # Whoever advances goes on in the new one.
    insert_events(database, payment_history(2, 50, after=300))
    assert advance(database, projection).from_position == 300
    assert stored(database, projection) == fresh_fold(database, projection)


def test_differences_are_counted_and_named_and_gone_after_the_swap(database: Db) -> None:
    insert_events(database, payment_history(3, 200))
    advance(database, PAYMENTS)
    payments = database[PAYMENTS.name]
    first, second, third = (document["_id"] for document in payments.find(sort=[("_id", 1)], limit=3))
    payments.update_one({"_id": first}, {"$inc": {"refundedMinor": 1}})
    payments.delete_one({"_id": second})
    payments.insert_one({"_id": "nobody's"})
    # Not a difference: the same fields in another order.
    document = payments.find_one({"_id": third}) or {}
    payments.replace_one({"_id": third}, dict(reversed(document.items())))
    found = rebuild(database, PAYMENTS).comparisons[0]
    assert (found.missing, found.extra, found.different) == (1, 1, 1)
    assert found.fields == ("refundedMinor",)
    assert len(found.examples) == 3
    assert f"{first!r}: refundedMinor" in "\n".join(found.examples)
    assert f"{second!r} is new" in found.examples
    assert '"nobody\'s" is missing' in found.examples
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


@pytest.mark.parametrize("place", ["_compared", "_swap"])
def test_a_rebuild_that_was_stopped_goes_on_where_it_stood(
    database: Db, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(4, 100))
    advance(database, STATISTICS)
    with halted(monkeypatch, place):
        rebuild(database, STATISTICS)
    begun = shadow(database, STATISTICS.name)
    assert begun is not None
    assert (begun.generation, begun.position, begun.status) == (
        2,
        0 if place == "_compared" else 100,
        "rebuilding",
    )
    insert_events(database, payment_history(5, 60, after=100))
    advance(database, STATISTICS)
    done = rebuild(database, STATISTICS)
    assert (done.generation, done.events) == (2, 160 - begun.position)
    # Compared once, however often it is begun anew.
    assert [each.equal for each in done.comparisons] == [True]
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)
    assert shadow(database, STATISTICS.name) is None


def test_without_a_swap_the_shadow_waits_compared_for_the_next_run(database: Db) -> None:
    insert_events(database, payment_history(6, 80))
    advance(database, STATISTICS)
    done = rebuild(database, STATISTICS, swap=False)
    assert (done.swapped, done.position, done.kept) == (False, 80, ())
    assert [each.equal for each in done.comparisons] == [True]
    assert checkpoint(database, STATISTICS.name).generation == 1
    assert rebuild(database, STATISTICS).swapped
    assert checkpoint(database, STATISTICS.name).generation == 2


def test_a_rebuild_that_is_given_up_leaves_nothing_and_its_number_is_never_given_again(database: Db) -> None:
    insert_events(database, payment_history(7, 80))
    advance(database, STATISTICS)
    rebuild(database, STATISTICS, swap=False)
    assert collections(database, STATISTICS) == {"payment_statistics", "payment_statistics__2"}
    assert abandon(database, STATISTICS)
    assert not abandon(database, STATISTICS)
    assert collections(database, STATISTICS) == {"payment_statistics"}
    assert rebuild(database, STATISTICS).generation == 3


def test_what_a_killed_one_left_behind_is_dropped_by_the_next(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(7, 80))
    advance(database, STATISTICS)
    rebuild(database, STATISTICS, swap=False)
    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "_sweep", _halt)
        with pytest.raises(Halted):
            abandon(database, STATISTICS)
    assert "payment_statistics__2" in collections(database, STATISTICS)
    rebuild(database, STATISTICS)
    assert collections(database, STATISTICS) == {"payment_statistics", "payment_statistics__3"}


def _halt(*_: Any) -> None:
    raise Halted


def test_a_rebuild_that_is_given_up_while_it_is_at_work_says_so(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(8, 60))
    advance(database, STATISTICS)
    fill = rebuilding._Rebuild._fill

    def given_up(self: Any, up_to: int | None) -> None:
        abandon(database, STATISTICS)
        fill(self, up_to)

    monkeypatch.setattr(rebuilding._Rebuild, "_fill", given_up)
    with pytest.raises(RebuildAbandoned, match="given up"):
        rebuild(database, STATISTICS)
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


@pytest.mark.parametrize("projection", [STATISTICS, PAYMENTS], ids=lambda p: p.name)
def test_rebuilds_and_runners_at_once_count_every_event_once(database: Db, projection: Projection) -> None:
    """Two rebuilds, runners, a log that grows, and a reader who must see all events up to a position."""
    insert_events(database, payment_history(9, 400))
    advance(database, projection, up_to=150)
    over = threading.Event()
    torn: list[Any] = []

    def grow() -> None:
        for after in range(400, 640, 60):
            insert_events(database, payment_history(after, 60, after=after))
            advance(database, projection, batch=20)

    def read() -> None:
        while not over.is_set():
            found, documents = seen(database, projection)
            if projection is STATISTICS and sum(d["count"] for d in documents) != found:
                torn.append((found, documents))

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        rebuilds = [pool.submit(rebuild, database, projection, batch=40) for _ in range(2)]
        acts = [pool.submit(grow), pool.submit(advance, database, projection, batch=70)]
        try:
            for act in (*acts, *rebuilds):
                act.result()
        finally:
            over.set()  # or the pool would wait for its reader for ever
        reader.result()
    assert torn == []
    assert all(act.result().swapped for act in rebuilds)
    advance(database, projection)
    assert checkpoint(database, projection.name).position == 640
    assert stored(database, projection) == fresh_fold(database, projection)


def seen(db: Db, projection: Projection) -> tuple[int, list[dict[str, Any]]]:
    """The position and the documents of a projection, at one moment."""
    with db.client.start_session(snapshot=True) as session:
        position = checkpoint(db, projection.name, session).position
        return position, list(model(db, projection.name, session).find(session=session))


def test_the_live_one_may_move_with_every_append_and_the_swap_gets_in(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an inline projection does: whenever the rebuild has caught up, another event is there, and taken."""
    insert_events(database, payment_history(10, 100))
    advance(database, STATISTICS)
    fill = rebuilding._Rebuild._fill
    appended = []

    def fill_and_append(self: Any, up_to: int | None) -> None:
        fill(self, up_to)
        head = 100 + len(appended)
        appended.append(head)
        insert_events(database, payment_history(head, 1, after=head))
        advance(database, STATISTICS)

    monkeypatch.setattr(rebuilding._Rebuild, "_fill", fill_and_append)
    done = rebuild(database, STATISTICS)
    assert done.swapped
    assert done.position == 100 + len(appended)
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


def live_goes_on(patch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something once, right before the swap: it has caught up by then, for the first time."""
    swap, done = rebuilding._Rebuild._swap, []

    def meanwhile(self: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return swap(self)

    patch.setattr(rebuilding._Rebuild, "_swap", meanwhile)


def test_last_events_that_have_no_majority_yet_are_waited_for(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap's transaction sees where the live one is, and a read outside of it does not see the events."""
    insert_events(database, payment_history(24, 40))
    advance(database, STATISTICS)

    def append() -> None:
        insert_events(database, payment_history(25, 5, after=40))
        advance(database, STATISTICS)
        heads = iter([40, 40])  # from here on: the majority is behind for two looks
        monkeypatch.setattr(rebuilding, "head", lambda db: next(heads, None) or engine.head(db))

    def lagging(db: Db, after: int, up_to: int, *more: Any) -> Any:
        if rebuilding.head(db) < up_to:
            raise GapError(after, up_to, after + 1, "no event")
        return read_columns(db, after, up_to, *more)

    monkeypatch.setattr(rebuilding, "read_columns", lagging)
    live_goes_on(monkeypatch, append)
    done = rebuild(database, STATISTICS)
    assert (done.swapped, done.position) == (True, 45)
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


@pytest.mark.parametrize("harm", ["a gap", "a log that ends before the live one", "poison"])
def test_last_events_that_can_not_be_taken_are_told_as_they_are_when_it_is_filled(
    database: Db, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    insert_events(database, payment_history(26, 40))
    advance(database, STATISTICS)
    monkeypatch.setattr(rebuilding, "GIVE_UP_AFTER_SECONDS", 0.0)

    def append() -> None:
        insert_events(database, payment_history(27, 5, after=40))
        advance(database, STATISTICS)
        match harm:
            case "a gap":
                database["events"].delete_one({"position": 43})
            case "poison":
                database["events"].update_one({"position": 43}, {"$set": {"eventType": "PaymentLost"}})
            case _:
                database["events"].delete_many({"position": {"$gt": 42}})
                database["counters"].update_one({"_id": "events"}, {"$set": {"position": 42}})

    live_goes_on(monkeypatch, append)
    behind = harm.startswith("a log")
    with pytest.raises(GapError if behind else ProjectionStopped, match="position 43"):
        rebuild(database, STATISTICS)
    found = shadow(database, STATISTICS.name)
    assert found is not None
    assert (found.position, found.status) == ((40, "rebuilding") if behind else (42, "stopped"))


def test_the_later_of_two_rebuilds_finds_the_swap_that_has_no_majority_yet(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(28, 40))
    advance(database, STATISTICS)
    old, at, run = checkpoint(database, STATISTICS.name), checkpoints.checkpoint, rebuilding.in_transaction
    lags = []

    def faster() -> None:
        assert rebuild(database, STATISTICS).swapped
        lags.append(True)

    def stale(db: Db, name: str, session: Any = None) -> Any:
        return old if lags and session is None else at(db, name, session)

    def in_transaction(*arguments: Any) -> Any:
        result = run(*arguments)
        if result:
            lags.clear()  # whose commit has a majority, with all that it saw
        return result

    monkeypatch.setattr(checkpoints, "checkpoint", stale)
    monkeypatch.setattr(rebuilding, "in_transaction", in_transaction)
    live_goes_on(monkeypatch, faster)
    done = rebuild(database, STATISTICS)
    assert (done.swapped, done.generation, done.kept) == (True, 2, (1,))


def test_an_unknown_commit_is_told_and_what_was_asked_for_is_done_when_it_is_asked_again(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise UnknownCommit("no answer")

    insert_events(database, payment_history(29, 20))
    advance(database, PAYMENTS)
    rebuild(database, PAYMENTS, swap=False)
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "commit_until_known", unknown)
        for act in (rebuild, abandon, lambda *given: split(*given, 2)):
            with pytest.raises(ProjectionError, match="did not say"):
                act(database, PAYMENTS)
    assert rebuild(database, PAYMENTS).swapped
    assert split(database, PAYMENTS, 2) == 20


def a_late_batch(db: Db) -> Callable[[], bool]:
    """A runner has prepared a batch for the live read model and sleeps, while that is rebuilt and goes on."""
    insert_events(db, payment_history(11, 100))
    advance(db, STATISTICS, up_to=60)
    runner = engine._Runner(db, STATISTICS, Slot(STATISTICS.name), engine.NO_ARCHIVE, engine.OnPoison.PARK)
    runner._standing()
    prepared = runner._prepare(60, 100, runner._aside)
    # Swapped in at the same position: only the generation tells the two apart.
    shadow_at = rebuilding.shadow_slot(STATISTICS.name, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuilding, "head", lambda _: 60)
        patch.setattr(engine, "head", lambda _: 60)
        rebuild(db, STATISTICS)
    assert checkpoints.slot_checkpoint(db, shadow_at) is None
    assert checkpoint(db, STATISTICS.name).position == 60
    return lambda: engine._commit(db, STATISTICS, runner.slot, prepared)


def test_a_runner_of_the_generation_before_can_not_write(database: Db) -> None:
    assert a_late_batch(database)() is False
    assert advance(database, STATISTICS).events == 40
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


def test_negative_control_a_checkpoint_that_ignores_the_generation_loses_what_a_late_runner_took(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late batch goes into the old read model, and the checkpoint says that the new one has it."""
    late = a_late_batch(database)
    monkeypatch.setattr(checkpoints, "_generation", lambda _: {"$exists": True})
    assert late() is True
    monkeypatch.undo()
    assert advance(database, STATISTICS).events == 0
    assert stored(database, STATISTICS) != fresh_fold(database, STATISTICS)


def test_a_rebuild_of_an_abandoned_shadow_can_not_write_into_its_successor(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(12, 90))
    advance(database, STATISTICS)
    with halted(monkeypatch, "_compared"):
        rebuild(database, STATISTICS)
    old = rebuilding.shadow_slot(STATISTICS.name, 2)
    abandon(database, STATISTICS)
    with halted(monkeypatch, "_compared"):
        rebuild(database, STATISTICS)
    with pytest.raises(engine.SlotGone):
        advance(database, STATISTICS, slot=old)
    assert rebuild(database, STATISTICS).generation == 3
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


def _next_version(projection: Projection) -> Projection:
    """The projection as its next version has it: its documents are rendered with a field more."""

    def render(deltas: Any) -> list[dict[str, Any]]:
        return [{**document, "seen": True} for document in projection.render(deltas)]

    return replace(projection, version=projection.version + 1, render=render)


def test_an_outdated_projection_is_rebuilt_by_itself_while_queries_go_on_with_the_old_one(
    database: Db, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    insert_events(database, payment_history(13, 120))
    advance(database, STATISTICS, up_to=100)
    newer = _next_version(STATISTICS)
    with pytest.raises(ProjectionOutdated, match="rebuild payment_statistics"):
        advance(database, newer)
    swap, answers = rebuilding._Rebuild._swap, []

    def asked_before(self: Any) -> Any:
        answers.append(seen(database, STATISTICS))
        return swap(self)

    monkeypatch.setattr(rebuilding._Rebuild, "_swap", asked_before)
    with caplog.at_level(logging.WARNING):
        brought = bring_up(database, newer)
    [(position, documents)] = answers
    assert position == 100 == sum(d["count"] for d in documents)
    assert not any("seen" in d for d in documents)
    assert brought.rebuilt_as == "rebuilt: version 1 to 2"
    assert "filled by version 1" in caplog.text
    assert brought.rebuilt is not None
    [compared] = brought.rebuilt.comparisons
    assert (compared.different, compared.fields) == (compared.documents, ("seen",))
    assert stored(database, newer) == fresh_fold(database, newer)
    assert all(d["seen"] for d in seen(database, newer)[1])
    assert bring_up(database, newer).rebuilt is None


def test_an_older_program_leaves_a_newer_read_model_and_a_newer_rebuild_alone(database: Db) -> None:
    insert_events(database, payment_history(14, 40))
    newer = _next_version(STATISTICS)
    advance(database, STATISTICS)
    rebuild(database, newer, swap=False)
    with pytest.raises(ProjectionOutdated, match="rebuild of payment_statistics to version 2 is under way"):
        rebuild(database, STATISTICS)
    rebuild(database, newer)
    with pytest.raises(ProjectionOutdated, match="filled by version 2"):
        bring_up(database, STATISTICS)
    # Told to, it goes back.
    assert rebuild(database, STATISTICS).from_version == 2
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


def test_two_programs_that_find_an_outdated_projection_rebuild_it_once(database: Db) -> None:
    insert_events(database, payment_history(15, 200))
    advance(database, STATISTICS)
    newer = _next_version(STATISTICS)
    with ThreadPoolExecutor(3) as pool:
        acts = [pool.submit(bring_up, database, newer, batch=30) for _ in range(3)]
    assert all(act.result().moved.to_position == 200 for act in acts)
    assert checkpoint(database, STATISTICS.name).generation == 2
    assert stored(database, newer) == fresh_fold(database, newer)


def test_a_shadow_of_a_version_in_between_is_given_up(database: Db) -> None:
    insert_events(database, payment_history(16, 40))
    advance(database, STATISTICS)
    newer = _next_version(STATISTICS)
    rebuild(database, newer, swap=False)
    newest = replace(newer, version=3)
    assert rebuild(database, newest).generation == 3
    assert stored(database, newest) == fresh_fold(database, newest)


def test_a_poison_event_stops_the_rebuild_and_not_what_is_live(database: Db) -> None:
    insert_events(database, payment_history(17, 50))
    advance(database, STATISTICS)
    good = database["events"].find_one({"position": 30}) or {}
    database["events"].update_one({"position": 30}, {"$set": {"eventType": "PaymentLost"}})
    before = stored(database, STATISTICS)
    with pytest.raises(ProjectionStopped, match="position 30"):
        rebuild(database, STATISTICS)
    stopped = shadow(database, STATISTICS.name)
    assert stopped is not None
    assert (stopped.position, stopped.status) == (29, "stopped")
    found = checkpoint(database, STATISTICS.name)
    assert (found.position, found.status, found.last_error) == (50, "live", None)
    assert stored(database, STATISTICS) == before
    database["events"].replace_one({"position": 30}, good)
    assert rebuild(database, STATISTICS).swapped
    assert stored(database, STATISTICS) == fresh_fold(database, STATISTICS)


def test_a_projection_that_is_split_is_rebuilt_whole_and_stays_split(database: Db) -> None:
    insert_events(database, payment_history(20, 240))
    split(database, PAYMENTS, 3)
    advance(database, PAYMENTS)
    done = rebuild(database, PAYMENTS)
    assert [each.collection for each in done.comparisons] == list(PAYMENTS.models)
    assert all(each.equal for each in done.comparisons)
    found = checkpoints.slots(database, PAYMENTS.name)
    assert [(slot.id, slot.generation, at.position) for slot, at in found] == [
        (f"{PAYMENTS.name}/{number}-of-3", 2, 240) for number in range(3)
    ]
    insert_events(database, payment_history(21, 60, after=240))
    # Its workers stand at different positions now: what is compared is brought to one.
    advance(database, PAYMENTS, slot=found[0][0])
    assert all(each.equal for each in rebuild(database, PAYMENTS).comparisons)
    advance(database, PAYMENTS)
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_no_query_fails_or_sees_a_half_built_read_model_while_projections_are_rebuilt(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark, which does the same with a million events."""
    from benchmarks import rebuild as benchmark
    from benchmarks.measure import Scale

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(benchmark, "GRACE_SECONDS", 0.0, raising=False)
    assert settings.mongodb_uri is not None
    figures = benchmark.run(Scale(tmp_path, settings.mongodb_uri, 1, 3_000, tmp_path, lambda _: None))
    assert [figure.measured for figure in figures] == [
        "rebuild of payment_statistics under load",
        "rebuild of payment_read_models under load",
    ]
    queries = re.search(r"([0-9,]+) queries, .*: none failed, none saw a half-built", figures[0].note)
    assert queries is not None
    assert queries[1] != "0"


def test_verify_reads_what_is_live_and_again_where_that_was_replaced_and_dropped_meanwhile(
    database: Db, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(database, payment_history(22, 90))
    ledger = LedgerLake(settings, database)
    ledger.refresh()
    for projection in ALL:
        rebuild(database, projection)
        # Nobody may read the first generation any more.
        database[projection.name].update_many({}, {"$set": {"currency": "XXX"}})
    assert ledger.verify().ok
    check, replaced = read_side.check_statistics, []

    def replace_and_check(log: Any, position: int) -> Any:
        if not replaced:
            rebuild(database, STATISTICS)
            replaced.append(drop_replaced(database, STATISTICS, grace_seconds=0))
        return check(log, position)

    monkeypatch.setattr(read_side, "check_statistics", replace_and_check)
    found = ledger.verify()
    assert replaced == [(1, 2)]
    assert found.ok, found
    # Which is due to the second look: what was dropped read as empty.
    replaced.clear()
    monkeypatch.setattr(read_side, "dropped", lambda _: False)
    assert [each.name for each in ledger.verify().checks if not each.ok] == ["payment statistics"]


def test_what_a_rebuild_sets_aside_takes_the_place_of_what_was_set_aside_before(database: Db) -> None:
    insert_events(database, payment_history(23, 50))
    good = database["events"].find_one({"position": 30}) or {}
    database["events"].update_one({"position": 30}, {"$set": {"schemaVersion": 99}})

    def aside() -> list[int]:
        return [each.position for each in dead_letters.listed(database, PAYMENTS.name)]

    advance(database, PAYMENTS, on_poison=OnPoison.SET_ASIDE)
    before = aside()
    assert before[0] == 30
    done = rebuild(database, PAYMENTS, on_poison=OnPoison.SET_ASIDE)
    assert done.comparisons[0].equal
    assert aside() == before
    database["events"].replace_one({"position": 30}, good)
    [compared, *_] = rebuild(database, PAYMENTS, on_poison=OnPoison.SET_ASIDE).comparisons
    assert compared.different + compared.extra == 1
    assert aside() == []
    assert stored(database, PAYMENTS) == fresh_fold(database, PAYMENTS)


def test_progress_is_told_with_rate_and_time_left(database: Db) -> None:
    insert_events(database, payment_history(18, 200))
    advance(database, PAYMENTS)
    told: list[RebuildProgress] = []
    rebuild(database, PAYMENTS, batch=50, on_progress=told.append)
    filling = [each for each in told if each.phase == "filling"]
    assert [(each.done, each.total) for each in filling] == [(50, 200), (100, 200), (150, 200), (200, 200)]
    assert all(each.rate is not None and each.rate > 0 for each in filling)
    for each in filling:
        assert each.seconds_left == pytest.approx((each.total - each.done) / (each.rate or 1))


def test_the_command_rebuilds_compares_keeps_drops_and_gives_up(
    database: Db, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ledgerlake.cli import app

    insert_events(database, payment_history(19, 60))
    advance(database, STATISTICS)
    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    monkeypatch.setattr(rebuilding, "GRACE_SECONDS", 0.0)

    def tool(*arguments: str) -> str:
        capsys.readouterr()
        assert app(["rebuild", "payment_statistics", *arguments], standalone_mode=False) in (None, 0)
        return " ".join(capsys.readouterr().out.split())

    assert "Not swapped." in tool("--no-swap")
    assert "Given up." in tool("--abandon")
    shown = tool()
    assert "generation 3, version 1, at position 60" in shown
    assert "Swapped. Kept: generation 1." in shown
    assert "Dropped generation 1." in tool("--drop-old")
    assert "Nothing was kept." in tool("--drop-old")
    told = json.loads(tool("--json"))
    assert (told["swapped"], told["kept"], told["comparisons"][0]["different"]) == (True, [3], 0)
    assert LedgerLake(settings, database).queries.ask(GetStatistics()).as_of.position == 60
