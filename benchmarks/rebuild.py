"""Rebuilds while 200 events a second are appended and followed and 50 queries a second are asked.

The rate of a rebuild under that load, over the rate of one at rest. What matters more is not a ratio: every
query has to be answered, and by a whole read model. Each event is one movement and each that opens a payment
one payment, so that the counts of an answer say whether it holds all events up to its position.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bson import Int64

from benchmarks.measure import Db, Figure, Scale, environment, fill, scratch
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.projections.live import LiveRunner, Part
from ledgerlake.projections.rebuild import Rebuilt, bring_up, drop_replaced, rebuild
from ledgerlake.queries import GetPayment, GetStatistics, QueryBus
from ledgerlake.settings import Settings

APPENDS_A_SECOND = 200
QUERIES_A_SECOND = 50
ASKERS = 4
TOGETHER = 10
NAMES = ("payment_statistics", "payment_read_models")


def run(scale: Scale) -> list[Figure]:
    """Each projection in turn at rest, then under load; one round, as the ratio is not what matters.

    Raises:
        RuntimeError: a query failed or saw a half-built read model, or what was built is not the log's fold.
    """
    with scratch(scale) as (settings, database):
        fill(scale, database)
        for name in NAMES:
            advance(database, PROJECTIONS[name], batch=settings.projection_batch)
        at_rest = [_rebuilt(scale, settings, database, name) for name in NAMES]
        with _load(settings) as load:
            loaded = [_rebuilt(scale, settings, database, name) for name in NAMES]
        if load["wrong"]:
            raise RuntimeError(f"Of {load['asked']} queries under load: {load['wrong']}")
        # Filled once more and compared: what was swapped in and moved on since is the fold of the log.
        for name in NAMES:
            advance(database, PROJECTIONS[name])
            _rebuilt(scale, settings, database, name)
    note = (
        f"{scale.events:,} events; meanwhile {load['appended']:,} appended, {load['appends']:.0f} a second, "
        f"and {load['asked']:,} queries, {load['queries']:.0f} a second: none failed, none saw a half-built "
        f"read model, slowest {load['slowest'] * 1000:.0f} ms"
    )
    return [
        Figure(f"rebuild of {name} under load", "at rest", [_rate(busy) / _rate(alone)], None, note)
        for name, alone, busy in zip(NAMES, at_rest, loaded, strict=True)
    ]


def _rate(done: Rebuilt) -> float:
    return done.events / done.seconds


def _rebuilt(scale: Scale, settings: Settings, database: Db, name: str) -> Rebuilt:
    done = rebuild(database, PROJECTIONS[name], batch=settings.projection_batch)
    wrong = [each for each in done.comparisons if not each.equal]
    if wrong or not done.comparisons:
        raise RuntimeError(f"{name} is not the fold of the log: {wrong}")
    drop_replaced(database, PROJECTIONS[name])
    scale.say(f"  {name}: {done.events:,} events, {_rate(done):,.0f} ev/s")
    return done


@contextmanager
def _load(settings: Settings) -> Iterator[dict[str, Any]]:
    """Appends and queries in processes of their own, until the block ends; then says what came of them."""
    said: dict[str, Any] = {}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rebuild", what],
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for what in ("append", "ask")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("The load does not start.")
        yield said
        for process in started:
            said |= json.loads(process.communicate()[0])
    finally:
        for process in started:
            process.kill()
            process.wait()


def _append(database: Db, over: threading.Event) -> dict[str, Any]:
    """Appends at its rate, while the projections follow the log."""
    parts = [Part(name, partial(bring_up, database, PROJECTIONS[name], 20_000)) for name in NAMES]
    prefix, started = f"load-{time.time_ns()}", time.perf_counter()
    appended = 0
    with LiveRunner(database, parts), EventStore(database) as store:
        for number in itertools.count(0, TOGETHER):
            if over.wait(max(0.0, started + number / APPENDS_A_SECOND - time.perf_counter())):
                return {"appended": appended, "appends": appended / (time.perf_counter() - started)}
            appends = [_payment(f"{prefix}-{number + each}") for each in range(TOGETHER)]
            appended += len(store.submit(appends).wait())
    raise AssertionError


def _payment(name: str) -> Append:
    data = {"amount": decimal128(1_000, 2), "amountMinor": Int64(1_000), "currency": "EUR", "attempt": 1}
    who = {"organizationId": f"organization-{hash(name) % 40:02d}", "userId": None}
    event = NewEvent("PaymentProcessed", data, datetime.now(UTC), name, name, who)
    return Append(name, "Payment", [event], NO_STREAM, name, "h")


def _ask(database: Db, over: threading.Event) -> dict[str, Any]:
    """Asks at its rate, without a cache, and looks whether each answer is whole."""
    refunds = sorted(
        event["position"]
        for event in database["events"].find({"eventType": "PaymentRefunded"}, {"position": 1, "_id": 0})
    )
    known = [event["aggregateId"] for event in database["events"].find(limit=1_000).sort("position", 1)]
    bus = QueryBus(database)
    wrong: list[str] = []
    asked: list[float] = []

    def statistics() -> str | None:
        found = bus.ask(GetStatistics())
        assert found.states_as_of is not None
        movements = sum(row.count for row in found.rows)
        payments = sum(state.count for state in found.payment_states)
        position = found.states_as_of.position
        opened = position - bisect_right(refunds, position)
        if (movements, payments) == (found.as_of.position, opened):
            return None
        return f"{movements} movements at {found.as_of.position}, {payments} payments at {position}"

    def payment() -> str | None:
        wanted = random.choice(known)
        return None if bus.ask(GetPayment(wanted)).payment.payment_id == wanted else f"not {wanted}"

    def asker(number: int) -> None:
        started = time.perf_counter() + number / QUERIES_A_SECOND
        for turn in itertools.count():
            if over.wait(max(0.0, started + turn * ASKERS / QUERIES_A_SECOND - time.perf_counter())):
                return
            before = time.perf_counter()
            try:
                found = statistics() if turn % 2 else payment()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what this looks for
                found = f"{type(error).__name__}: {error}"
            asked.append(time.perf_counter() - before)
            if found is not None:
                wrong.append(found)

    began = time.perf_counter()
    with ThreadPoolExecutor(ASKERS) as pool:
        for act in [pool.submit(asker, number) for number in range(ASKERS)]:
            act.result()
    rate = len(asked) / (time.perf_counter() - began)
    return {"asked": len(asked), "queries": rate, "wrong": wrong[:10], "slowest": max(asked, default=0.0)}


def _main(what: str) -> None:
    """Load until the standard input ends."""
    over = threading.Event()
    database = open_database(Settings.from_env())
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print(json.dumps({"append": _append, "ask": _ask}[what](database, over)))


if __name__ == "__main__":
    _main(sys.argv[1])
