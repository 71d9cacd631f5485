"""Appends of 1, 10 and 100 events by 1, 8 and 64 writers, against raw inserts and against other stores.

Every cell is measured for a fixed while, all stores one after the other in each round. A writer is a thread
that waits for its append before it makes the next one; "asyncio" are as many tasks on AsyncEventStore.
"raw" is one writer's insert_many of as many documents at once as a group commit had; "raw, by each writer" is
what the same threads reach who insert their own events only.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

from bson import Int64, ObjectId
from pymongo import AsyncMongoClient, ReturnDocument
from pymongo.errors import PyMongoError

from benchmarks.measure import Db, Figure, Scale, insert_all, scratch, twin
from benchmarks.rivals import Write, rivals
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.decimal128 import decimal128

EVENTS = (1, 10, 100)
WRITERS = (1, 8, 64)
SECONDS = 1.5
NOW = datetime(2026, 6, 1, tzinfo=UTC)

# (events an append, writers, against): the ratio to reach.
TARGETS = {
    (1, 64, "raw"): 0.65,
    (100, 64, "raw"): 0.85,
    (1, 64, "a transaction with counter"): 25.0,
    **{(events, writers, "eventsourcing on PostgreSQL"): 1.0 for events in EVENTS for writers in (8, 64)},
}
_numbers = itertools.count()


def run(scale: Scale) -> list[Figure]:
    """A ratio of events a second for each cell and each other store."""
    figures: list[Figure] = []
    with scratch(scale) as (settings, database), rivals(scale.folder, scale.say) as others:
        raw, counted = twin(database, "raw", "events"), twin(database, "counted", "events")
        database["counted_head"].insert_one({"_id": "events", "position": Int64(0)})
        stores: dict[str, Write] = {
            "raw, by each writer": lambda events: _insert(raw, events),
            "a transaction with counter": lambda events: _transaction(database, counted, events),
            **others,
        }
        with EventStore(database, max_batch=settings.append_batch) as store:
            for events, writers in itertools.product(EVENTS, WRITERS):
                figures += _cell(scale, database, store, raw, stores, events, writers)
    return figures


def _cell(
    scale: Scale,
    database: Db,
    store: EventStore,
    raw: Any,
    stores: dict[str, Write],
    events: int,
    writers: int,
) -> list[Figure]:
    ratios: dict[tuple[str, str], list[float]] = {}
    latencies: dict[str, list[float]] = {"threads": [], "asyncio": []}
    for number in range(scale.rounds + 1):
        before = _batches(database)
        ours = {"threads": by_threads(lambda: store.append(_append(events)), writers)}
        size = max(1, round(ours["threads"][0] / max(1, _batches(database) - before)))
        ours["asyncio"] = asyncio.run(_tasks(scale.uri, database.name, events, writers))
        against = {"raw": _raw(raw, ours["threads"][0], events, size)}
        against |= {name: by_threads(lambda w=write: w(events), writers) for name, write in stores.items()}
        if number == 0:
            continue  # the first round warms all sides
        for name, (appends, seconds, times) in ours.items():
            latencies[name] += times
            for other, (done, taken, _) in against.items():
                ratio = (appends / seconds) / (done / taken)
                ratios.setdefault((name, other), []).append(ratio)
    found = []
    for (name, other), values in ratios.items():
        shares = quantiles(latencies[name], n=100)
        note = f"p50 {shares[49] * 1000:.1f} ms, p99 {shares[98] * 1000:.1f} ms" if other == "raw" else ""
        measured = f"{events} events, {writers} {'threads' if name == 'threads' else 'tasks'}"
        found.append(Figure(measured, other, values, TARGETS.get((events, writers, other)), note))
        scale.say(f"  {measured} / {other}: {found[-1].ratio:.2f} {note}")
    return found


def _raw(collection: Any, appends: int, events: int, size: int) -> tuple[int, float, list[float]]:
    """As many appends' events by insert_many, as many at once as a group commit had; made beforehand."""
    documents = [_document(_append(1), 1) for _ in range(appends * events)]
    started = time.perf_counter()
    insert_all(collection, documents, events * size)
    return appends, time.perf_counter() - started, []


def by_threads(write: Callable[[], Any], writers: int) -> tuple[int, float, list[float]]:
    """Appends, seconds, and the seconds of each append, of so many threads for a while."""
    times: list[list[float]] = [[] for _ in range(writers)]
    started = time.perf_counter()
    end = started + SECONDS

    def work(mine: list[float]) -> None:
        at = time.perf_counter()
        while at < end:
            write()
            now = time.perf_counter()
            mine.append(now - at)
            at = now

    threads = [threading.Thread(target=work, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [each for mine in times for each in mine]
    return len(everything), time.perf_counter() - started, everything


async def _tasks(uri: str, name: str, events: int, writers: int) -> tuple[int, float, list[float]]:
    """The same by tasks of one thread."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, tz_aware=True)
    times: list[float] = []
    async with AsyncEventStore(client[name]) as store:
        started = time.perf_counter()
        end = started + SECONDS

        async def work() -> None:
            at = time.perf_counter()
            while at < end:
                await store.append(_append(events))
                now = time.perf_counter()
                times.append(now - at)
                at = now

        await asyncio.gather(*(work() for _ in range(writers)))
        taken = time.perf_counter() - started
    await client.close()
    return len(times), taken, times


def bare_append(store: EventStore) -> None:
    """An append of one event to a new stream."""
    store.append(_append(1))


def _batches(database: Db) -> int:
    """Transactions that the server has committed so far."""
    status = database.client.admin.command("serverStatus")
    return int(status["transactions"]["totalCommitted"])


def _append(events: int) -> Append:
    command = f"command-{next(_numbers):012d}"
    event = NewEvent(
        "PaymentProcessed",
        {"amount": decimal128(1230, 2), "amountMinor": Int64(1230), "currency": "EUR", "attempt": 1},
        NOW,
        command,
        command,
        {"userId": "user", "organizationId": "organization"},
    )
    return Append(f"payment-{command}", "Payment", (event,) * events, NO_STREAM, command, "0" * 32)


def _document(append: Append, version: int) -> dict[str, Any]:
    event = append.events[0]
    return {
        "_id": ObjectId(),
        "aggregateId": append.stream_id,
        "aggregateType": "Payment",
        "eventType": event.event_type,
        "eventData": event.data,
        "version": Int64(version),
        "timestamp": event.timestamp,
        "correlationId": event.correlation_id,
        "causationId": event.causation_id,
        "metadata": {**event.metadata, "requestHash": append.request_hash},
        "position": Int64(next(_numbers)),
        "commandId": f"{append.command_id}-{version}",
        "recordedAt": NOW,
        "schemaVersion": 1,
    }


def _insert(collection: Any, events: int) -> None:
    """Neither versions nor positions that mean anything: only the documents."""
    append = _append(1)
    collection.insert_many([_document(append, version) for version in range(1, events + 1)])


def _transaction(database: Db, collection: Any, events: int) -> None:
    """What is written without group commit: a count, the last version, insert, commit, and again."""
    append = _append(1)
    documents = [_document(append, version) for version in range(1, events + 1)]
    while True:
        try:
            with database.client.start_session() as session, session.start_transaction():
                head = database["counted_head"].find_one_and_update(
                    {"_id": "events"},
                    {"$inc": {"position": Int64(events)}},
                    return_document=ReturnDocument.AFTER,
                    session=session,
                )
                assert head is not None
                for number, document in enumerate(documents):
                    document["position"] = Int64(head["position"] - events + 1 + number)
                collection.find_one(
                    {"aggregateId": append.stream_id}, sort=[("version", -1)], session=session
                )
                collection.insert_many(documents, session=session)
            return
        except PyMongoError as error:
            if not error.has_error_label("TransientTransactionError"):
                raise
