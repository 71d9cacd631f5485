"""Freshness and the cache: fast answers that are never older than they say, whatever becomes of the cache."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect, OperationFailure
from redis import Redis
from redis.exceptions import RedisError

from ledgerlake.application import LedgerLake
from ledgerlake.cli.render import plain
from ledgerlake.domain.commands import ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.projections import PROJECTIONS, advance, collection_of, make_models, model
from ledgerlake.queries import (
    AsOf,
    Freshness,
    GetAudit,
    GetFailureReasons,
    GetOrganization,
    GetPayment,
    GetPaymentAt,
    GetRefundLatency,
    GetRetryRecovery,
    GetStatistics,
    GetTrends,
    ListPayments,
    NotYet,
    PaymentNotFound,
    QueryBus,
    QueryError,
    redis_cache,
)
from ledgerlake.queries.cache import Cache
from ledgerlake.queries.freshness import Reading
from ledgerlake.queries.model import Db as QueryDb
from ledgerlake.queries.model import as_of, snapshot
from ledgerlake.queries.redis_cache import RedisAnswers
from ledgerlake.settings import Settings, SettingsError
from tests.builders import START, event, insert_events, payment_history

# What is kept in Redis is known by the database's name.
pytestmark = pytest.mark.own_database

Db = Database[dict[str, Any]]
MODEL = "payment_read_models"
LONG = 180.0  # how long a test waits for what must happen, before it fails
NEVER = 3_600.0  # trusted for so long, a board is read again only where it is told to


def project(database: Db, documents: list[dict[str, Any]], only: tuple[str, ...] = ()) -> None:
    insert_events(database, documents)
    for name, projection in PROJECTIONS.items():
        if not only or name in only:
            advance(database, projection)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LONG
    while not (found := condition()):
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.01)
    return found


@dataclass(frozen=True, slots=True)
class Counted:
    """What `Asked` answers."""

    name: str
    payments: int
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that counts payments; a test can watch and hold up its computation."""

    reads: ClassVar[tuple[str, ...]] = (MODEL,)
    computing: ClassVar[Callable[[], None]] = lambda: None

    name: str

    def answer(self, db: QueryDb) -> Counted:
        with snapshot(db) as session:
            fresh, live = as_of(db, MODEL, session), model(db, MODEL, session)
            Asked.computing()
            return Counted(self.name, len(list(live.find({}, {"_id": 1}, session=session))), fresh)


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    return lambda act: monkeypatch.setattr(Asked, "computing", staticmethod(act))


@dataclass(slots=True)
class Process:
    """What a process has of its own: a board, a cache, a bus."""

    freshness: Freshness
    cache: Cache
    bus: QueryBus


def process(db: Db, trusted: float = NEVER, shared: RedisAnswers | None = None, **cache: Any) -> Process:
    freshness = Freshness(db, trusted)
    answers = Cache(freshness, shared=shared, **cache)
    return Process(freshness, answers, QueryBus(db, [answers], freshness=freshness))


# --- Freshness ---


def test_after_a_refresh_in_this_process_the_next_query_is_fresh(settings: Settings, database: Db) -> None:
    settings = replace(settings, freshness_ms=NEVER * 1000)
    with LedgerLake.open(settings) as ledger:
        insert_events(database, [event(1, "p", "PaymentProcessed", 100)])
        ledger.refresh()
        assert ledger.queries.ask(GetPayment("p")).payment.status == "completed"
        insert_events(database, [event(2, "p", "PaymentRefunded", 100, version=2)])
        ledger.refresh()
        found = ledger.queries.ask(GetPayment("p"))
        assert (found.payment.status, found.as_of.position) == ("refunded", 2)
        assert ledger.queries.ask(ListPayments("acme")).as_of.position == 2
        # The control: what another process projects is not seen while the board is trusted ...
        project(database, [event(3, "p", "PaymentFailed", 1, version=3)])
        assert ledger.queries.ask(GetPayment("p")).as_of.position == 2
        # ... but for what is waited for.
        assert ledger.queries.ask(GetPayment("p"), wait_for=3).payment.failures == 1
        assert ledger.queries.ask(GetPayment("p")).as_of.position == 3


def test_what_another_process_projects_is_seen_when_the_trust_has_run_out(database: Db) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    here = process(database, trusted=0.05)
    assert here.bus.ask(GetPayment("p")).as_of.position == 1
    project(database, [event(2, "p", "PaymentRefunded", 100, version=2)])
    until(lambda: here.bus.ask(GetPayment("p")).as_of.position == 2)
    assert here.bus.ask(GetPayment("p")).payment.status == "refunded"


def test_a_query_that_waits_for_a_position_holds_it(database: Db) -> None:
    history = payment_history(41, 60)
    project(database, history[:20])
    here = process(database)
    there = threading.Thread(target=lambda: [project(database, history[n : n + 5]) for n in (20, 25, 30, 35)])
    there.start()
    found = here.bus.ask(GetStatistics(), wait_for=40, timeout=LONG)
    there.join()
    assert found.as_of.position == 40
    assert found.states_as_of is not None
    assert found.states_as_of.position == 40
    assert sum(row.count for row in found.rows) == 40


def test_a_position_that_does_not_come_is_not_waited_for_for_ever(database: Db) -> None:
    history = payment_history(42, 30)
    project(database, history)
    here = process(database)
    with pytest.raises(NotYet, match=r"payment_\w+ stands at position 30, and position 31 was") as late:
        here.bus.ask(GetStatistics(), wait_for=31, timeout=0.01)
    assert (late.value.position, late.value.wanted) == (30, 31)
    advance(database, PROJECTIONS[MODEL])
    insert_events(database, [event(31, "p", "PaymentMislaid", 1)])
    with pytest.raises(Exception, match="PaymentMislaid"):
        advance(database, PROJECTIONS[MODEL])
    with pytest.raises(NotYet, match=r"position 30.*It is stopped: .*PaymentMislaid"):
        here.bus.ask(GetPayment("p"), wait_for=31, timeout=0)
    for wrong in (-1, True, 1.5, "7", 2**63):
        with pytest.raises(QueryError, match="wait_for is a position"):
            here.bus.ask(GetPayment("p"), wait_for=wrong)  # type: ignore[arg-type]
    for wrong in (-1, float("nan"), float("inf"), "1"):
        with pytest.raises(QueryError, match="timeout is a number of seconds"):
            here.bus.ask(GetPayment("p"), wait_for=1, timeout=wrong)  # type: ignore[arg-type]


class Stuck:
    """A server that is away: each look at the checkpoints fails, when it is let go."""

    def __init__(self, freshness: Freshness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.go = threading.Semaphore(0)
        monkeypatch.setattr(freshness, "_checkpoints", self)

    def find(self, *_: object, **__: object) -> Any:
        self.looks += 1
        assert self.go.acquire(timeout=LONG)
        raise AutoReconnect("it is away")


def test_while_the_server_is_away_all_who_wait_share_two_looks(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was under way when they asked, and one that began after it. Not 17, one after the other."""
    here = process(database)
    stuck = Stuck(here.freshness, monkeypatch)

    def waiting() -> int:
        look: Any = here.freshness._under_way
        return 0 if look is None else len(look.outcome._condition._waiters)

    with ThreadPoolExecutor(17) as pool:
        asked = [pool.submit(here.freshness.now)]
        until(lambda: stuck.looks == 1)
        asked += [pool.submit(here.freshness.now) for _ in range(16)]
        until(lambda: waiting() == 16)
        stuck.go.release()
        until(lambda: stuck.looks == 2 and waiting() == 15)
        stuck.go.release()
        failed = [each.exception(LONG) for each in asked]
    assert all(isinstance(error, AutoReconnect) for error in failed)
    assert stuck.looks == 2
    monkeypatch.undo()
    assert here.freshness.now().of(MODEL).position == 0


def test_who_waits_for_a_position_waits_no_longer_for_a_server_that_is_away(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)], only=(MODEL,))
    here = process(database)
    here.bus.ask(GetPayment("p"))
    stuck = Stuck(here.freshness, monkeypatch)
    with pytest.raises(NotYet, match="position 1, and position 2 was.*not answered in time"):
        here.bus.ask(GetPayment("p"), wait_for=2, timeout=0.01)
    assert here.bus.ask(GetPayment("p")).as_of.position == 1  # what is trusted is not held up
    stuck.go.release()


def test_what_the_log_answers_is_never_waited_for(settings: Settings, database: Db) -> None:
    with LedgerLake.open(settings) as ledger:
        done = ledger.commands.dispatch(_pay("c1", "p", 100))
        for query in (GetAudit("p"), GetPaymentAt("p", position=done.position)):
            assert ledger.queries.ask(query, wait_for=done.position, timeout=0).as_of.position == 1
        with pytest.raises(NotYet, match="The log stands at position 1, and position 2 was waited for"):
            ledger.queries.ask(GetAudit("p"), wait_for=2)
        with pytest.raises(NotYet, match="payment_read_models stands at position 0"):
            ledger.queries.ask(GetPayment("p"), wait_for=1, timeout=0)


def _pay(command: str, payment: str, minor: int, user: str = "u1") -> ProcessPayment:
    return ProcessPayment(
        command_id=command,
        payment_id=payment,
        organization_id="acme",
        user_id=user,
        amount=Money(minor, "EUR"),
        occurred_at=START,
    )


# --- Generations ---


def swap(database: Db, name: str, change: dict[str, Any] | None = None) -> None:
    """What a rebuild does at its end, with its position left as it is; then the old one is dropped."""
    [live] = database["projections_metadata"].find({"projectionName": name})
    generation = live.get("generation", 1)
    documents = [{**each, **(change or {})} for each in database[collection_of(name, generation)].find()]
    make_models(database, PROJECTIONS[name], generation + 1)
    database[collection_of(name, generation + 1)].insert_many(documents)
    database["projections_metadata"].update_one(
        {"_id": live["_id"]}, {"$set": {"generation": generation + 1}}
    )
    database[collection_of(name, generation)].drop()


def test_a_swapped_read_model_is_never_answered_from_the_one_before(database: Db) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    here = process(database)
    assert here.bus.ask(GetPayment("p")).payment.user_id is None
    assert here.bus.ask(ListPayments("acme")).payments[0].user_id is None
    swap(database, MODEL, {"userId": "new"})
    assert here.bus.ask(GetPayment("p")).payment.user_id is None  # a kept answer of the board's moment
    here.freshness.noted()
    assert here.bus.ask(GetPayment("p")).payment.user_id == "new"
    assert here.bus.ask(ListPayments("acme")).payments[0].user_id == "new"


def test_a_board_of_before_a_swap_finds_nothing_missing(database: Db) -> None:
    """Its collection is gone: that a payment is not in it says nothing."""
    project(database, [event(n, f"p{n}", "PaymentProcessed", 100) for n in range(1, 4)])
    here = process(database)
    assert here.freshness.reading().of(MODEL).generation == 1
    swap(database, MODEL)
    assert here.bus.ask(GetPayment("p1")).payment.amount == Decimal("1.00")
    swap(database, MODEL)
    with pytest.raises(PaymentNotFound):
        here.bus.ask(GetPayment("p9"))
    swap(database, MODEL)
    assert len(here.bus.ask(ListPayments("acme")).payments) == 3


def test_an_answer_counts_only_if_its_read_model_was_live_all_along(
    database: Db, computing: Callable[[Callable[[], None]], None]
) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    here, tries = process(database, entries=0), itertools.count(1)

    def act() -> None:
        match next(tries):
            case 1:
                swap(database, MODEL)
            case 2:
                raise OperationFailure("the collection was dropped", code=175)

    computing(act)
    assert here.bus.ask(Asked("x")).payments == 1
    assert next(tries) == 4
    # The control: a collection that was dropped is empty in the snapshot of before, and no error.
    computing(lambda: swap(database, MODEL))
    assert Asked("x").answer(database).payments == 0
    computing(lambda: (_ for _ in ()).throw(OperationFailure("out of order", code=2)))
    with pytest.raises(OperationFailure, match="out of order"):
        here.bus.ask(Asked("x"))


# --- Memory ---


def test_an_answer_is_kept_until_something_moves(database: Db) -> None:
    project(database, payment_history(43, 40))
    here = process(database, trusted=0)
    first = here.bus.ask(GetStatistics())
    assert here.bus.ask(GetStatistics()) is first
    assert here.bus.ask(GetStatistics("org 1")).rows != first.rows
    assert here.cache.counts.computed == 2
    advance_one = payment_history(44, 1, after=40)
    project(database, advance_one, only=("payment_trends",))
    assert here.bus.ask(GetStatistics()) is not first
    # The checkpoint of another projection is no reason to compute anew.
    page = here.bus.ask(ListPayments("org 1"))
    project(database, [], only=("payment_statistics",))
    assert here.bus.ask(ListPayments("org 1")) is page


def test_negative_control_a_key_without_the_checkpoint_keeps_an_old_answer(
    database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reading, "stamp", lambda self, projections: "")
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    here = process(database, trusted=0)
    assert here.bus.ask(GetPayment("p")).payment.version == 1
    project(database, [event(2, "p", "PaymentRefunded", 100, version=2)])
    assert here.bus.ask(GetPayment("p")).payment.version == 1
    assert here.bus.ask(GetPayment("p"), wait_for=2).payment.version == 1


def test_a_wrong_question_is_refused_though_a_right_one_that_equals_it_is_kept(database: Db) -> None:
    here = process(database)
    assert here.bus.ask(ListPayments("o", limit=1)).payments == ()
    with pytest.raises(QueryError, match="limit True"):
        here.bus.ask(ListPayments("o", limit=True))
    hostile: Any = {"$ne": None}
    with pytest.raises(QueryError, match="is a text"):
        here.bus.ask(GetPayment(hostile))
    not_one: Any = "payments"
    with pytest.raises(QueryError, match="is no query"):
        here.bus.ask(not_one)


def test_64_misses_at_once_cost_one_computation(
    database: Db, computing: Callable[[Callable[[], None]], None]
) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    here, go = process(database), threading.Event()
    computing(lambda: None if go.wait(LONG) else pytest.fail("nobody let it go on"))
    with ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(here.bus.ask, Asked("x")) for _ in range(64)]
        until(lambda: here.cache.counts.waits == 63)
        go.set()
        answers = [each.result(LONG) for each in asked]
    assert here.cache.counts.computed == 1
    assert all(answer is answers[0] for answer in answers)
    # The control: without a cache each of them computes.
    computed = itertools.count()
    computing(lambda: next(computed) and None)
    bare = QueryBus(database)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bare.ask, [Asked("x")] * 8))
    assert next(computed) == 8


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(1)])
def test_a_failed_computation_fails_those_who_wait_and_is_not_kept(
    database: Db, computing: Callable[[Callable[[], None]], None], error: BaseException
) -> None:
    """But that the one who computes is stopped is nobody else's failure."""
    here, go, tries = process(database), threading.Event(), itertools.count()

    def act() -> None:
        if next(tries) == 0:
            assert go.wait(LONG)
            raise error

    computing(act)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(here.bus.ask, Asked("x")) for _ in range(8)]
        until(lambda: here.cache.counts.waits == 7)
        go.set()
        failed = [each.exception(LONG) for each in asked]
    assert failed.count(error) == (8 if isinstance(error, Exception) else 1)
    assert here.bus.ask(Asked("x")).payments == 0
    assert here.cache.counts.computed == 2


def test_memory_is_bounded_in_number_size_and_age(database: Db) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 31)])
    few = process(database, entries=3)
    for n in (1, 2, 3, 1, 4):
        few.bus.ask(GetPayment(f"p{n}"))
    assert (few.cache.counts.entries, few.cache.counts.computed) == (3, 4)
    few.bus.ask(GetPayment("p1"))  # used last but one: kept
    assert few.cache.counts.computed == 4
    few.bus.ask(GetPayment("p2"))
    assert few.cache.counts.computed == 5

    small = process(database, max_bytes=20_000)
    for n in range(1, 31):
        small.bus.ask(GetPayment(f"p{n}"))
    assert 1 < small.cache.counts.entries < 30
    assert small.cache.counts.bytes <= 20_000
    before = small.cache.counts
    assert len(small.bus.ask(ListPayments("acme")).payments) == 30  # larger than all of it
    assert (small.cache.counts.entries, small.cache.counts.bytes) == (before.entries, before.bytes)

    short = process(database, seconds=0.001)
    short.bus.ask(GetPayment("p1"))
    time.sleep(0.002)
    short.bus.ask(GetPayment("p1"))
    assert (short.cache.counts.entries, short.cache.counts.computed) == (1, 2)
    none = process(database, entries=0)
    none.bus.ask(GetPayment("p1"))
    assert (none.cache.counts.entries, none.cache.counts.bytes) == (0, 0)


def test_the_bytes_counted_are_no_less_than_those_used(database: Db) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 31)], only=(MODEL,))
    here = process(database)
    here.bus.ask(ListPayments("acme", limit=100))
    queries = [ListPayments("acme", limit=n) for n in range(1, 21)]
    tracemalloc.start()
    try:
        for query in queries:
            here.bus.ask(query)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert here.cache.counts.entries == 21
    assert used < here.cache.counts.bytes < 3 * used


# --- Redis ---


class RedisServer:
    """A redis-server of its own, behind a socket in a folder: no port that another could take."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s"
        self.url = f"unix://{self.path}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir"]
        self.process = subprocess.Popen([*command, str(self.path.parent)], stdout=subprocess.DEVNULL)
        with self.client() as client:
            until(lambda: _answers(client))

    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self.path))

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(LONG)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False
    except Exception:  # noqa: BLE001 - redis-py's own errors, while it starts
        return False


@pytest.fixture(scope="module")
def redis_server(require: Callable[[object, str], None]) -> Iterator[RedisServer]:
    require(shutil.which("redis-server"), "redis-server, on PATH (Debian: apt-get install redis-server)")
    # Not in pytest's folder: the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    yield redis_server
    with redis_server.client() as client:
        client.flushall()


@contextmanager
def shared(server: RedisServer, database: Db, **options: Any) -> Iterator[RedisAnswers]:
    # A machine that is busy with other tests must not make a healthy server look like a hanging one.
    answers = RedisAnswers(server.url, database.name, **{"timeout": LONG, "pause": 0.05, **options})
    try:
        yield answers
    finally:
        answers.close()


EVERY_QUERY: list[Any] = [
    GetPayment("payment-45-1"),
    ListPayments("org 1", limit=5),
    ListPayments("org 1", currency="EUR", min_amount=Decimal(1)),
    GetStatistics(),
    GetStatistics("org 1", date(2026, 1, 1), date(2026, 12, 1)),
    GetTrends(granularity="month"),
    GetTrends("org 2", granularity="day", zone="Asia/Kolkata"),
    GetFailureReasons(),
    GetRefundLatency(),
    GetRetryRecovery(),
    GetOrganization("org 1"),
]


def test_processes_share_answers_that_come_back_as_they_were(database: Db, redis: RedisServer) -> None:
    project(database, payment_history(45, 300))
    with shared(redis, database) as ours, shared(redis, database) as theirs:
        here, there = process(database, shared=ours), process(database, shared=theirs)
        for query in EVERY_QUERY:
            first, second = here.bus.ask(query), there.bus.ask(query)
            assert second == first
            assert str(plain(second)) == str(plain(first))  # to the last zero of an amount
        assert here.cache.counts.computed == len(EVERY_QUERY)
        assert there.cache.counts.computed == 0
        project(database, payment_history(46, 20, after=300))
        there.freshness.noted()
        for query in EVERY_QUERY:
            assert there.bus.ask(query).as_of.position == 320
            assert here.bus.ask(query).as_of.position == 300  # still trusts its board, and says so


def test_two_processes_that_miss_at_once_compute_once(
    database: Db,
    redis: RedisServer,
    computing: Callable[[Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_cache, "_CLAIM_SECONDS", LONG)  # a second is too short on a busy machine
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    go = threading.Event()
    computing(lambda: None if go.wait(LONG) else pytest.fail("nobody let it go on"))
    with shared(redis, database) as ours, shared(redis, database) as theirs, redis.client() as client:
        here, there = process(database, shared=ours), process(database, shared=theirs)
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(here.bus.ask, Asked("x")) for _ in range(8)]
            until(lambda: here.cache.counts.computed == 1 and client.keys("*:claim"))
            [claim] = client.keys("*:claim")
            asked += [pool.submit(there.bus.ask, Asked("x")) for _ in range(8)]
            until(lambda: there.cache.counts.waits == 7)
            go.set()
            answers = {each.result(LONG) for each in asked}
        assert len(answers) == 1
        assert here.cache.counts.computed + there.cache.counts.computed <= 2
        assert there.cache.counts.computed == 0 or not client.exists(claim)
        # One that has failed is not waited for: its claim is gone.
        computing(lambda: (_ for _ in ()).throw(ValueError("broken")))
        with pytest.raises(ValueError, match="broken"):
            here.bus.ask(Asked("y"))
        assert client.keys("*:claim") == []


def test_garbage_in_redis_is_no_answer(database: Db, redis: RedisServer) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 3)])
    with shared(redis, database) as answers, redis.client() as client:
        right = process(database, shared=answers).bus.ask(GetPayment("p1"))
        [key] = client.keys("*")
        assert key.startswith(f"ledgerlake:{database.name}:".encode())
        good = client.get(key)
        assert isinstance(good, bytes)
        assert b'"p1"' in good  # it is what the garbage below is made of
        process(database, shared=answers).bus.ask(GetPayment("p2"))
        [other] = set(client.keys("*")) - {key}
        for garbage in (b"", b"garbage", good[:-1], good.replace(b'"p1"', b'"p9"'), client.get(other)):
            client.set(key, garbage)
            there = process(database, shared=answers)
            assert there.bus.ask(GetPayment("p1")) == right
            assert there.cache.counts.computed == 1
            assert client.get(key) == good
        client.delete(key)
        client.rpush(key, "a list")
        assert process(database, shared=answers).bus.ask(GetPayment("p1")) == right
        assert client.get(key) == good


def test_an_answer_of_another_version_or_ledger_is_no_answer(database: Db, redis: RedisServer) -> None:
    """Another program's answer to a query of the same name has another shape; another log, other events."""
    project(database, [event(1, "p", "PaymentProcessed", 100)])

    def version(more: dict[str, Any]) -> Any:
        result = dataclass(frozen=True)(type("Result", (), {"__annotations__": {"as_of": AsOf, **more}}))

        def answer(self: Any, db: QueryDb) -> Any:
            return result(AsOf(1, None), *(None for _ in more))

        answer.__annotations__ = {"return": result}
        return dataclass(frozen=True)(type("Versioned", (), {"reads": (MODEL,), "answer": answer}))

    old, new = version({}), version({"note": str | None})
    with shared(redis, database) as answers, redis.client() as client:
        for kind in (old, new, old, new):
            there = process(database, shared=answers)
            assert isinstance(there.bus.ask(kind()), type(kind().answer(database)))
        assert len(client.keys("*")) == 2
        # The same name and position, and another last event: a database that was made anew.
        process(database, shared=answers).bus.ask(GetPayment("p"))
        database["projections_metadata"].update_one({"_id": MODEL}, {"$set": {"lastProcessedEventId": "x"}})
        there = process(database, shared=answers)
        there.bus.ask(GetPayment("p"))
        assert there.cache.counts.computed == 1


def test_an_answer_that_is_no_plain_data_is_not_shared(
    database: Db, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    @dataclass(frozen=True)
    class Odd:
        reads: ClassVar[tuple[str, ...]] = (MODEL,)

        def answer(self, db):  # type: ignore[no-untyped-def]
            assert db is not None
            return object()

    with shared(redis, database) as answers, redis.client() as client:
        here = process(database, shared=answers)
        odd: Any = Odd()
        assert here.bus.ask(odd) is here.bus.ask(odd)
        assert client.keys("*") == []
    assert "are not shared" in caplog.text


def test_redis_may_be_killed_and_restarted_under_load(
    settings: Settings, database: Db, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No query fails, none is answered as before an event that was projected; it is said once each time."""
    caplog.set_level(logging.INFO, "ledgerlake.queries.redis_cache")
    ledger = LedgerLake.open(replace(settings, redis_url=redis.url, cache_entries=0, freshness_ms=0))
    with ledger, shared(redis, database) as answers, ThreadPoolExecutor(4) as pool:
        ledger.__dict__["_shared_answers"] = answers
        ledger.commands.dispatch(_pay("c0", "p", 100_000))
        ledger.refresh()
        done, asked = threading.Event(), [0, 0, 0]
        projected = [1]

        def load(number: int) -> None:
            while not done.is_set():
                least = projected[0]
                found = ledger.queries.ask(GetPayment("p"))
                assert found.as_of.position >= least
                assert found.payment.version >= least
                assert ledger.queries.ask(ListPayments("acme")).as_of.position >= least
                asked[number] += 1

        def go_on(command: str) -> None:
            """An event is projected, and every asker has asked twice since."""
            refund = RefundPayment(
                command_id=command,
                payment_id="p",
                organization_id="acme",
                user_id="u1",
                amount=Money(1, "EUR"),
                occurred_at=START,
            )
            position = ledger.commands.dispatch(refund).position
            for projection in PROJECTIONS.values():
                advance(database, projection)
            projected[0] = position
            before = list(asked)
            until(
                lambda: (
                    all(now >= then + 2 for now, then in zip(asked, before, strict=True))
                    or any(each.done() for each in loads)
                )
            )

        loads = [pool.submit(load, number) for number in range(3)]
        try:
            for outage in range(2):
                go_on(f"up-{outage}")
                redis.kill()
                go_on(f"down-{outage}")
                redis.start()
                go_on(f"again-{outage}")
                until(lambda: redis.client().keys("*") or any(each.done() for each in loads))
                until(lambda n=outage: caplog.text.count("serves again") == n + 1)
        finally:
            done.set()
        for each in loads:
            each.result(LONG)
    assert caplog.text.count("does not serve") == 2
    assert caplog.text.count("serves again") == 2


def test_what_began_before_a_turn_does_not_turn_it_back(
    database: Db, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Another thread's reply of before it went away, and its failure of before it came again, come late."""
    caplog.set_level(logging.INFO, "ledgerlake.queries.redis_cache")

    def fail() -> Any:
        raise RedisError("gone")

    with shared(redis, database, pause=0.0) as answers:

        def reply_of_before() -> str:
            answers._call(fail)
            return "reply"

        def failure_of_before() -> Any:
            answers._call(fail)
            assert answers._call(lambda: "pong") == "pong"
            return fail()

        assert answers._call(reply_of_before) == "reply"
        assert not answers._circuit.closed
        assert caplog.text.count("does not serve") == 1
        assert answers._call(lambda: "pong") == "pong"
        assert answers._circuit.closed
        assert caplog.text.count("serves again") == 1
        assert answers._call(failure_of_before) is None
        assert answers._circuit.closed
        assert (caplog.text.count("does not serve"), caplog.text.count("serves again")) == (2, 2)


def test_a_redis_that_hangs_is_left_alone(
    database: Db, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 30)])
    with shared(redis, database, timeout=0.05, pause=0.2) as answers:
        here = process(database, shared=answers)
        redis.signal(signal.SIGSTOP)
        try:
            for n in range(1, 10):
                assert here.bus.ask(GetPayment(f"p{n}")).payment.amount == Money(n, "EUR").amount
            assert caplog.text.count("does not serve (TimeoutError)") == 1
        finally:
            redis.signal(signal.SIGCONT)
        with redis.client() as client:
            names = itertools.cycle(range(1, 30))
            until(
                lambda: (
                    process(database, shared=answers).bus.ask(GetPayment(f"p{next(names)}"))
                    and client.keys("*")
                )
            )
    # A healthy one that waits for the processor may look like one that hangs: then it is told again.
    told = ["does not serve" in each for each in caplog.messages if "serve" in each]
    assert told[0]
    assert all(one != other for one, other in itertools.pairwise(told)), "each change is said once"


def test_no_secret_of_the_address_is_told(
    settings: Settings, database: Db, caplog: pytest.LogCaptureFixture
) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    given = {**os.environ, "LEDGERLAKE_REDIS_URL": "http://:hush@somewhere"}
    with pytest.raises(SettingsError, match="LEDGERLAKE_REDIS_URL.*redis://") as refused:
        Settings.from_env(given)
    assert "hush" not in str(refused.value)
    with pytest.raises(SettingsError, match="no usable address") as refused:
        RedisAnswers("redis://:hush@somewhere:port", "x")
    assert "hush" not in str(refused.value)
    assert refused.value.__suppress_context__
    away = replace(settings, redis_url="redis://:hush@127.0.0.1:1/0?socket_timeout=5")
    assert "hush" not in repr(away)
    with LedgerLake.open(away) as ledger:
        for _ in range(3):
            assert ledger.queries.ask(GetPayment("p")).payment.payment_id == "p"
    assert caplog.text.count("does not serve (ConnectionError)") == 1
    assert "hush" not in caplog.text


def test_nothing_personal_is_kept_in_clear(settings: Settings, database: Db, redis: RedisServer) -> None:
    personal = ("metadata.personal", "metadata.userId", "eventData.reason")
    settings = replace(settings, personal_fields=personal, redis_url=redis.url)
    with LedgerLake.open(settings) as ledger, redis.client() as client:
        ledger.commands.dispatch(_pay("c1", "p", 100, user="alice@example.org"))
        ledger.refresh()
        for _ in range(2):  # computed, and kept
            assert ledger.queries_in_clear.ask(GetPayment("p")).payment.user_id == "alice@example.org"
            [listed] = ledger.queries_in_clear.ask(ListPayments("acme")).payments
            assert listed.user_id == "alice@example.org"
            assert str(ledger.queries.ask(GetPayment("p")).payment.user_id).startswith("pii:1:")
        assert ledger.answers.counts.computed == 2
        kept = [client.get(key) for key in client.keys("*")]
        assert len(kept) == 2
        assert all(b"pii:1:" in value for value in kept if isinstance(value, bytes))
        assert b"alice" not in repr([*kept, *client.keys("*")]).encode()
        assert "alice" not in repr(ledger.answers._memory.kept)
        ledger.forget("alice@example.org")
        assert ledger.queries_in_clear.ask(GetPayment("p")).payment.user_id == "(forgotten)"
