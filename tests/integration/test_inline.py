"""Inline: what an append returns is in the read models already, and whatever happens, it counts once."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import ProcessPayment
from ledgerlake.domain.money import Money
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.expected import after
from ledgerlake.eventstore.model import Append, Appended, EventStoreError, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_async_database, open_database
from ledgerlake.projections import PROJECTIONS, OnPoison, advance, checkpoint, dead_letters, inline
from ledgerlake.projections.inline import InlineBatch, InlineProjections
from ledgerlake.projections.parts import split
from ledgerlake.projections.rebuild import rebuild
from ledgerlake.queries import GetPayment, GetStatistics
from ledgerlake.settings import Settings, SettingsError
from tests import folding
from tests.builders import START, event, insert_events, payment_history
from tests.faults.test_append_faults import APP, COMMIT_FAULTS, fail_point

Db = Database[dict[str, Any]]
PAYMENTS, STATISTICS = PROJECTIONS["payment_read_models"], PROJECTIONS["payment_statistics"]
ALL = list(PROJECTIONS.values())
# The two kinds there are: a document a stream with totals derived from it, and totals of events.
TWO = [PAYMENTS, STATISTICS]


def append_of(document: dict[str, Any]) -> Append:
    """The append that stores such an event."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "requestHash"}
    new = NewEvent(
        document["eventType"],
        document["eventData"],
        document["timestamp"],
        document["correlationId"],
        document["causationId"],
        metadata,
    )
    expected = after(document["version"] - 1)
    return Append(document["aggregateId"], "Payment", [new], expected, document["commandId"], "h")


@contextmanager
def inline_store(db: Db, projections: Sequence[Any] = ALL, **options: Any) -> Iterator[EventStore]:
    with EventStore(db, inline=InlineProjections(db, projections, **options)) as store:
        yield store


def store_all(store: EventStore, documents: Sequence[dict[str, Any]]) -> None:
    outcomes = store.append_many([append_of(document) for document in documents])
    assert all(isinstance(outcome, Appended) for outcome in outcomes), outcomes


def standing(db: Db, projections: Sequence[Any] = ALL) -> list[tuple[int, str]]:
    found = [checkpoint(db, projection.name) for projection in projections]
    return [(each.position, each.status) for each in found]


def is_fresh(db: Db, projections: Sequence[Any] = ALL) -> bool:
    """Whether every read model is what the whole log comes to."""
    for projection in projections:
        assert folding.stored(db, projection) == folding.fresh_fold(db, projection)
    return True


def test_what_an_append_returns_is_in_every_read_model(database: Db) -> None:
    chance = random.Random(31)
    history = payment_history(31, 160)
    done = 0
    with inline_store(database) as store:
        while done < len(history):
            batch = history[done : done + chance.choice([1, 1, 2, 7, 40])]
            done += len(batch)
            store_all(store, batch)
            assert standing(database) == [(done, "live")] * len(ALL)
    assert is_fresh(database)


def test_an_asyncio_store_does_the_same(database: Db, settings: Settings) -> None:
    history = payment_history(32, 60)

    async def work() -> None:
        db = await open_async_database(settings)
        among = InlineProjections(database, ALL, call=asyncio.to_thread)
        async with AsyncEventStore(db, inline=among) as store:
            for done in range(0, 60, 20):
                await store.append_many([append_of(each) for each in history[done : done + 20]])
                assert standing(database) == [(done + 20, "live")] * len(ALL)
        await db.client.close()

    asyncio.run(work())
    assert is_fresh(database)


def test_nobody_ever_sees_events_without_what_they_come_to(database: Db) -> None:
    history = payment_history(33, 20)
    seen: set[tuple[int, int]] = set()
    looks: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            with database.client.start_session(snapshot=True) as session:
                counter = database["counters"].find_one({"_id": "events"}, session=session) or {}
                counted = database["payment_statistics"].find({}, {"count": 1}, session=session)
                seen.add((counter["position"], sum(each["count"] for each in counted)))
            looks.append(len(seen))

    def looked_at() -> None:
        """Wait for a look that began after this."""
        enough, deadline = len(looks) + 2, time.monotonic() + 180
        while len(looks) < enough:
            assert reader.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    with inline_store(database, TWO) as store:
        store_all(store, history[:1])
        reader = threading.Thread(target=look)
        reader.start()
        try:
            for number, document in enumerate(history[1:]):
                store_all(store, [document])
                if number % 4 == 0:
                    looked_at()
        finally:
            ended.set()
            reader.join()
    assert len(seen) > 3
    assert [(stored, counted) for stored, counted in seen if stored != counted] == []


@pytest.mark.parametrize("most", [1_000, 3], ids=["taken along", "caught up with before"])
def test_what_others_store_meanwhile_is_taken_too(
    database: Db, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(inline, "MOST_BEHIND", most)
    insert_events(database, payment_history(34, 30))
    with inline_store(database, TWO) as store, EventStore(database) as other:
        for done in range(30, 90, 20):
            store_all(other, payment_history(34 + done, 15, after=done))
            store_all(store, payment_history(34 + done + 1, 5, after=done + 15))
            assert standing(database, TWO) == [(done + 20, "live")] * 2
    assert is_fresh(database, TWO)


def test_beside_busy_writers_with_and_without_it_every_event_counts_once(database: Db) -> None:
    def write(store: EventStore, seed: int) -> None:
        for document in payment_history(seed, 15, payments=5):
            document["commandId"] = f"{seed}-{document['commandId']}"
            store_all(store, [document])

    with (
        inline_store(database, TWO) as one,
        inline_store(database, TWO) as two,
        EventStore(database) as other,
    ):
        stores = [one, one, two, other, other]
        threads = [
            threading.Thread(target=write, args=[store, 100 + number]) for number, store in enumerate(stores)
        ]
        threads.append(threading.Thread(target=lambda: [advance(database, each) for each in TWO * 3]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store_all(one, payment_history(110, 1, after=75))
    assert standing(database, TWO) == [(76, "live")] * 2
    assert is_fresh(database, TWO)


def test_a_repetition_and_a_refusal_move_nothing(database: Db) -> None:
    history = payment_history(35, 20)
    with inline_store(database, TWO) as store:
        store_all(store, history)
        before = list(database["projections_metadata"].find())
        models = [folding.stored(database, each) for each in TWO]
        again = store.append_many([append_of(document) for document in history])
        assert all(isinstance(outcome, Appended) and outcome.duplicate for outcome in again)
        conflict = {**history[0], "commandId": "new", "version": 99}
        assert not isinstance(store.append_many([append_of(conflict)])[0], Appended)
        assert list(database["projections_metadata"].find()) == before
        assert [folding.stored(database, each) for each in TWO] == models


def lost(db: Db) -> dict[str, Any]:
    """An event that nobody can fold."""
    return event(int(db["counters"].find_one({"_id": "events"})["position"]) + 1, "lost", "PaymentLost", 1)


def test_a_poison_event_is_stored_and_stops_the_projection_until_it_is_mended(database: Db) -> None:
    with inline_store(database, TWO) as store:
        store_all(store, payment_history(36, 10))
        store_all(store, [lost(database), *payment_history(37, 4, after=11)])
        assert standing(database, TWO) == [(10, "stopped")] * 2
        store_all(store, payment_history(38, 5, after=15))
        assert standing(database, TWO) == [(10, "stopped")] * 2
        assert store.head() == 20
        database["events"].update_one({"position": 11}, {"$set": {"eventType": "PaymentFailed"}})
        for projection in TWO:
            advance(database, projection)
        store_all(store, payment_history(39, 5, after=20))
        assert standing(database, TWO) == [(25, "live")] * 2
    assert is_fresh(database, TWO)


def test_a_poison_event_is_set_aside_by_policy_and_the_rest_goes_on_inline(database: Db) -> None:
    with inline_store(database, TWO, on_poison=OnPoison.SET_ASIDE) as store:
        store_all(store, payment_history(36, 10))
        store_all(store, [lost(database), *payment_history(37, 4, after=11)])
        assert standing(database, TWO) == [(15, "live")] * 2
        later = {**event(16, "lost", "PaymentFailed", 1), "version": 2}
        store_all(store, [later, *payment_history(38, 4, after=16)])
        assert standing(database, TWO) == [(20, "live")] * 2
    assert dead_letters.counts(database) == {PAYMENTS.name: 2, STATISTICS.name: 2}
    found = folding.stored(database, STATISTICS)[STATISTICS.name].values()
    assert sum(each["count"] for each in found) == 18


def test_what_is_set_aside_is_read_in_the_snapshot_of_the_append(database: Db) -> None:
    """What is read outside of it may be older: here it is as old as can be, a database without anything."""
    with inline_store(database, TWO, on_poison=OnPoison.SET_ASIDE) as store:
        store_all(store, payment_history(36, 10))
        store_all(store, [lost(database)])
    older = database.client.get_database(f"{database.name}_before")
    with EventStore(database, inline=InlineProjections(older, TWO)) as store:
        later = {**event(12, "lost", "PaymentFailed", 1), "version": 2}
        store_all(store, [later, *payment_history(38, 4, after=12)])
    assert standing(database, TWO) == [(16, "live")] * 2
    assert dead_letters.counts(database) == {PAYMENTS.name: 2, STATISTICS.name: 2}


def test_a_panic_of_a_fold_never_fails_an_append(database: Db) -> None:
    def fold(_: Any) -> Any:
        raise pl.exceptions.PanicException("index out of bounds")

    with inline_store(database, [PAYMENTS, replace(STATISTICS, fold=fold)]) as store:
        store_all(store, payment_history(43, 5))
    assert standing(database, TWO) == [(5, "live"), (0, "stopped")]


def test_a_projection_that_can_not_take_its_events_leaves_the_others_inline(database: Db) -> None:
    with inline_store(database, TWO) as store:
        store_all(store, [event(1, "p", "PaymentProcessed", 100)])
        database[PAYMENTS.name].delete_one({"_id": "p"})
        store_all(store, [event(2, "p", "PaymentRefunded", 30, version=2)])
        assert standing(database, TWO) == [(1, "stopped"), (2, "live")]


def test_one_of_another_version_is_left_alone(database: Db) -> None:
    with inline_store(database, TWO) as store:
        store_all(store, payment_history(40, 5))
        newer = {"$set": {"version": 99}}
        database["projections_metadata"].update_one({"_id": PAYMENTS.name}, newer)
        store_all(store, payment_history(41, 5, after=5))
        assert standing(database, TWO) == [(5, "live"), (10, "live")]


def test_a_projection_is_split_and_rebuilt_while_it_is_written_inline(database: Db) -> None:
    with inline_store(database, [PAYMENTS]) as store:
        done = 0

        def more() -> None:
            nonlocal done
            store_all(store, payment_history(42 + done, 20, after=done))
            done += 20

        more()
        split(database, PAYMENTS, 3)
        more()
        assert standing(database, [PAYMENTS]) == [(40, "live")]
        rebuilding = threading.Thread(target=rebuild, args=[database, PAYMENTS])
        rebuilding.start()
        while rebuilding.is_alive():
            more()
        rebuilding.join()
        more()
        found = checkpoint(database, PAYMENTS.name)
    assert (found.position, found.status, found.generation) == (done, "live", 2)
    assert is_fresh(database, [PAYMENTS])


@pytest.fixture
def faulty(settings: Settings) -> Iterator[Db]:
    """The test's database by a client that the fail points pick out."""
    db = open_database(settings, app_name=APP)
    yield db
    db.client.close()


# The commands of a transaction that writes inline, and how each fails: in passing, or so that it is unknown.
FAULTS = [
    ("findAndModify", "ShutdownInProgress"),
    ("find", "connection closed"),
    ("update", "WriteConflict"),
    ("insert", "NoSuchTransaction"),
    ("commitTransaction", "WriteConflict"),
    ("commitTransaction", "connection closed"),
    ("commitTransaction", "unknown result"),
    ("commitTransaction", "answer lost"),
]


def test_a_batch_that_is_tried_again_counts_once(database: Db, faulty: Db) -> None:
    history = payment_history(50, 8 * len(FAULTS))
    with inline_store(faulty, TWO) as store:
        store_all(store, history[:4])
        done = 4
        for command, fault in FAULTS:
            with fail_point(
                database.client, {"times": 2}, failCommands=[command], **COMMIT_FAULTS[fault]
            ) as struck:
                store_all(store, history[done : done + 6])
                done += 6
            assert struck == [2], (command, fault)
            assert standing(database, TWO) == [(done, "live")] * 2
    assert is_fresh(database, TWO)


def test_an_append_that_errors_in_passing_cost_too_many_tries_goes_without_and_is_caught_up_with(
    database: Db, faulty: Db
) -> None:
    with inline_store(faulty, [STATISTICS]) as store:
        store_all(store, payment_history(51, 5))
        # Only what is written inline updates anything in these transactions.
        always = {"times": inline.MOST_TRIES}
        with fail_point(
            database.client, always, failCommands=["update"], **COMMIT_FAULTS["WriteConflict"]
        ) as struck:
            store_all(store, payment_history(52, 5, after=5))
        assert struck == [inline.MOST_TRIES]
        assert standing(database, [STATISTICS]) == [(10, "live")]
    assert is_fresh(database, [STATISTICS])


def end_transactions(db: Db) -> None:
    """What the server does by itself once they have reached their greatest age."""
    admin = db.client.get_database("admin", read_concern=ReadConcern("local"))
    idle = [
        {"$currentOp": {"allUsers": True, "idleSessions": True}},
        {"$match": {"appName": APP, "transaction": {"$exists": True}}},
    ]
    if found := [{"id": session["lsid"]["id"]} for session in admin.aggregate(idle)]:
        admin.command("killSessions", found)


@pytest.mark.parametrize("kept", ["in the transaction", "negative control: apart from it"])
def test_an_append_that_fails_for_good_leaves_nothing_in_a_read_model(
    database: Db, faulty: Db, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    if kept != "in the transaction":
        take = InlineBatch._take
        monkeypatch.setattr(InlineBatch, "_take", lambda *given: take(*given[:-1], None))
    with inline_store(faulty, [STATISTICS]) as store:
        store_all(store, payment_history(53, 3))
        with (
            fail_point(database.client, {"times": 1}, failCommands=["commitTransaction"], errorCode=2),
            pytest.raises(EventStoreError, match="refused"),
        ):
            store.append(append_of(event(4, "gone", "PaymentProcessed", 10_000)))
        assert store.head() == 3
    end_transactions(database)
    counted = sum(each["count"] for each in database[STATISTICS.name].find())
    assert counted == (3 if kept == "in the transaction" else 4)


def test_a_query_answers_with_what_was_just_commanded(database: Db, settings: Settings) -> None:
    own = replace(settings, inline=tuple(PROJECTIONS), freshness_ms=60_000)
    with LedgerLake.open(own) as ledger:
        for number in range(1, 4):
            amount = Money.parse("12.30", "EUR")
            ledger.commands.dispatch(
                ProcessPayment(
                    command_id=f"c{number}",
                    payment_id=f"p{number}",
                    organization_id="acme",
                    user_id=None,
                    amount=amount,
                    occurred_at=START,
                )
            )
            answer = ledger.queries.ask(GetPayment(f"p{number}"))
            assert (answer.payment.status, answer.as_of.position) == ("completed", number)
            rows = ledger.queries.ask(GetStatistics()).rows
            assert [row.count for row in rows] == [number]


def test_a_name_that_is_no_projection_is_refused(database: Db, settings: Settings) -> None:
    ledger = LedgerLake(replace(settings, inline=("payment_totals",)), database)
    with pytest.raises(SettingsError, match="LEDGERLAKE_INLINE names 'payment_totals'"):
        _ = ledger.store
