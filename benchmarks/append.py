"""Appends of one event by 64 writers, against raw inserts and against a transaction per append."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bson import Int64, ObjectId
from pymongo.errors import PyMongoError

from benchmarks.measure import Db, Figure, Scale, insert_all, rate, scratch, twin
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.decimal128 import decimal128

WRITERS = 64
COUNT = 16_000
FEW = 3_200
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def run(scale: Scale) -> list[Figure]:
    """64 blocking writers, one event an append, every append on a new stream with a command id."""
    to_raw: list[float] = []
    to_transaction: list[float] = []
    sizes: list[float] = []
    with scratch(scale) as (settings, database):
        raw = twin(database, "raw", "events")
        naive = twin(database, "naive", "events")
        with EventStore(
            database, max_batch=settings.append_batch, linger_seconds=settings.append_linger_ms / 1000
        ) as store:
            for number in range(scale.rounds + 1):
                first = number * COUNT
                counted = _count_batches(store)
                grouped = rate(COUNT, partial(_write, COUNT, first, lambda i: store.append(_append(i))))
                size = max(1, round(COUNT / counted()))
                documents = [_document(i) for i in range(first, first + COUNT)]
                inserted = rate(COUNT, partial(insert_all, raw, documents, size))
                single = rate(FEW, partial(_write, FEW, first, lambda i: _transaction(database, naive, i)))
                if number == 0:
                    continue  # the first round warms both sides
                sizes.append(size)
                to_raw.append(grouped / inserted)
                to_transaction.append(grouped / single)
                scale.say(
                    f"  {grouped:,.0f} appends/s in batches of {size}; raw {inserted:,.0f}/s; "
                    f"a transaction each {single:,.0f}/s"
                )
    reached = f"batches of {min(sizes):.0f} to {max(sizes):.0f}"
    return [
        Figure("append of one event, 64 writers", "raw insert_many, same batch size", to_raw, 0.60, reached),
        Figure(
            "append of one event, 64 writers", "one transaction per append, 64 threads", to_transaction, 4.0
        ),
    ]


def _write(count: int, first: int, write: Callable[[int], Any]) -> None:
    each = count // WRITERS

    def work(number: int) -> None:
        for i in range(first + number * each, first + (number + 1) * each):
            write(i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _count_batches(store: EventStore) -> Callable[[], int]:
    transaction = store._transaction
    commit = type(transaction).commit
    batches = 0

    def counting(requests: Any) -> Any:
        nonlocal batches
        batches += 1
        return commit(transaction, requests)

    transaction.commit = counting  # type: ignore[method-assign]
    return lambda: batches


def _append(number: int) -> Append:
    command = f"command-{number:09d}"
    event = NewEvent(
        "PaymentProcessed",
        {"amount": decimal128(1230, 2), "amountMinor": Int64(1230), "currency": "EUR", "attempt": 1},
        NOW,
        command,
        command,
        {"userId": "user", "organizationId": "organization"},
    )
    return Append(f"payment-{number:09d}", "Payment", (event,), NO_STREAM, command, "0" * 32)


def _document(number: int) -> dict[str, Any]:
    append = _append(number)
    event = append.events[0]
    return {
        "_id": ObjectId(),
        "aggregateId": append.stream_id,
        "aggregateType": "Payment",
        "eventType": event.event_type,
        "eventData": event.data,
        "version": Int64(1),
        "timestamp": event.timestamp,
        "correlationId": event.correlation_id,
        "causationId": event.causation_id,
        "metadata": {**event.metadata, "requestHash": append.request_hash},
        "position": Int64(number + 1),
        "commandId": append.command_id,
        "recordedAt": NOW,
        "schemaVersion": 1,
    }


def _transaction(database: Db, naive: Any, number: int) -> None:
    """What is written without group commit: find the last version, insert, commit; again on a conflict."""
    document = _document(number)
    while True:
        try:
            with database.client.start_session() as session, session.start_transaction():
                last = naive.find_one(
                    {"aggregateId": document["aggregateId"]}, sort=[("version", -1)], session=session
                )
                document["version"] = Int64(1 if last is None else last["version"] + 1)
                naive.insert_one(document, session=session)
            return
        except PyMongoError as error:
            if not error.has_error_label("TransientTransactionError"):
                raise
