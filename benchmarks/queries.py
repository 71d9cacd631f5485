"""Queries against what the driver and the server give: one payment, and the statistics of all of them."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.measure import Db, Figure, Scale, fill, rate, scratch
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.queries import Freshness, GetPayment, GetStatistics, QueryBus
from ledgerlake.queries.cache import Cache
from ledgerlake.queries.redis_cache import RedisAnswers

LOOKUPS = 100
TURNS = 50
STATISTICS = 20


def run(scale: Scale) -> list[Figure]:
    """A payment by its id, missed and kept, and the statistics query, over a million payments."""
    with scratch(scale) as (settings, database):
        fill(scale, database, refunds=False)
        for name in ("payment_read_models", "payment_statistics"):
            advance(database, PROJECTIONS[name], batch=settings.projection_batch)
        return [*_payment(scale, database), *_shared(scale, database), _statistics(scale, database)]


def _bus(database: Db, **cache: object) -> QueryBus:
    freshness = Freshness(database, 0.05)
    return QueryBus(database, [Cache(freshness, **cache)], freshness=freshness)  # type: ignore[arg-type]


def _names(scale: Scale) -> Iterator[list[str]]:
    """Payments, none of them twice before all were."""
    numbers = itertools.cycle(random.Random(1).sample(range(1, scale.events + 1), scale.events))
    while True:
        yield [f"payment-{n:09d}" for n in itertools.islice(numbers, LOOKUPS)]


def _payment(scale: Scale, database: Db) -> list[Figure]:
    bus, collection, names = _bus(database), database["payment_read_models"], _names(scale)
    misses, hits = [], []
    for number in range(scale.rounds + 1):
        # In turns of a few: the server's caches and the machine's moods meet both sides alike.
        seconds = [0.0, 0.0, 0.0]
        for _ in range(TURNS):
            asked, other = next(names), next(names)
            for side, work in enumerate(
                (
                    lambda a=asked: [bus.ask(GetPayment(name)) for name in a],
                    lambda o=other: [collection.find_one({"_id": name}) for name in o],
                    lambda a=asked: [bus.ask(GetPayment(name)) for name in a],
                )
            ):
                seconds[side] += LOOKUPS / rate(LOOKUPS, work)
        if number:
            miss, raw, hit = (each / LOOKUPS / TURNS * 1e6 for each in seconds)
            misses.append(raw / miss)
            hits.append(miss / hit)
            scale.say(f"  a payment: missed {miss:,.0f} us, find_one {raw:,.0f} us, kept {hit:,.1f} us")
    note = f"{scale.events:,} payments"
    return [
        Figure("payment by id, missed", "raw find_one", misses, round(1 / 1.3, 2), note),
        Figure("payment by id, kept in memory", "the same, missed", hits, 20, note),
    ]


def _shared(scale: Scale, database: Db) -> list[Figure]:
    if shutil.which("redis-server") is None:
        scale.say("  no redis-server on PATH: the hit in Redis is not measured")
        return []
    ratios = []
    with _redis() as url:
        answers = RedisAnswers(url, database.name, timeout=5)
        bus, bare, names = _bus(database, entries=0, shared=answers), _bus(database), _names(scale)
        for number in range(scale.rounds + 1):
            asked = [name for _ in range(10) for name in next(names)]
            for name in asked:
                bus.ask(GetPayment(name))
            shared = rate(len(asked), lambda a=asked: [bus.ask(GetPayment(name)) for name in a])
            missed = rate(len(asked), lambda a=asked: [bare.ask(GetPayment(name)) for name in a])
            if number:
                ratios.append(shared / missed)
                scale.say(f"  a payment: from Redis {1e6 / shared:,.0f} us, missed {1e6 / missed:,.0f} us")
        answers.close()
    return [Figure("payment by id, kept in Redis", "the same, missed", ratios, None, "on this machine")]


def _statistics(scale: Scale, database: Db) -> Figure:
    bus = _bus(database, entries=0)
    by = {"o": "$organizationId", "s": "$status", "u": "$unreferenced", "c": "$currency"}
    sums = {"count": {"$sum": 1}, "amount": {"$sum": "$amountMinor"}, "refunded": {"$sum": "$refundedMinor"}}
    pipeline = [{"$group": {"_id": by, **sums}}]
    ratios = []
    for number in range(scale.rounds + 1):
        ours = rate(STATISTICS, lambda: [bus.ask(GetStatistics()) for _ in range(STATISTICS)])
        theirs = rate(1, lambda: list(database["payment_read_models"].aggregate(pipeline)))
        if number:
            ratios.append(ours / theirs)
            scale.say(f"  statistics: {1000 / ours:,.1f} ms, aggregated {1000 / theirs:,.0f} ms")
    states = {
        (s.organization_id, s.status, s.unreferenced, s.currency): (s.count, s.amount_minor, s.refunded_minor)
        for s in bus.ask(GetStatistics()).payment_states
    }
    assert states == {
        tuple(g["_id"].values()): (g["count"], g["amount"], g["refunded"])
        for g in database["payment_read_models"].aggregate(pipeline)
    }
    note = f"{scale.events:,} payments; with the states that they are in"
    return Figure("statistics query, nothing kept", "aggregation of the read model", ratios, 50, note)


@contextmanager
def _redis() -> Iterator[str]:
    with TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder) / "s"
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for(Redis(unix_socket_path=str(path)).ping)
            yield f"unix://{path}"
        finally:
            server.kill()
            server.wait()


def _wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            ready()
        except (RedisError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
