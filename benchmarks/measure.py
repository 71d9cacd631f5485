"""What every benchmark shares: alternating rounds, a scratch database, events by the million."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bson import Binary, Int64, ObjectId, encode
from pymongo.collection import Collection
from pymongo.database import Database

from ledgerlake.eventstore.chain import START, links_over
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.mongo.indexes import INDEXES
from ledgerlake.projections import PROJECTIONS
from ledgerlake.settings import Settings

Db = Database[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scale:
    """What a benchmark runs on: a folder, a server, how many rounds, how large a log."""

    folder: Path
    uri: str
    rounds: int
    events: int
    shared_data: Path
    say: Callable[[str], None]


@dataclass(slots=True)
class Figure:
    """A ratio of rates, one for each round."""

    measured: str
    against: str
    ratios: list[float]
    target: float | None = None
    note: str = ""
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        self.ratio = statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target


@contextmanager
def scratch(scale: Scale) -> Iterator[tuple[Settings, Db]]:
    """A database of its own, with the ledger's schema, dropped afterwards."""
    settings = Settings(
        home=scale.folder / uuid.uuid4().hex[:8],
        mongodb_uri=scale.uri,
        database=f"bench_{uuid.uuid4().hex[:8]}",
    )
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.client.drop_database(database.name)
        database.client.close()


def rate(count: int, work: Callable[[], Any]) -> float:
    """`count` things a second, for one run of `work`."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def twin(database: Db, name: str, of: str) -> Collection[dict[str, Any]]:
    """An empty collection with the indexes of another."""
    collection = database[name]
    collection.drop()
    indexes = [*INDEXES, *(index for each in PROJECTIONS.values() for index in each.indexes)]
    models = [index.model() for index in indexes if index.collection == of]
    collection.create_indexes(models)
    return collection


def insert_all(collection: Collection[dict[str, Any]], documents: list[dict[str, Any]], batch: int) -> None:
    """Raw insert_many, batch by batch."""
    for first in range(0, len(documents), batch):
        collection.insert_many(documents[first : first + batch])


def events(count: int, refunds: bool = True, seed: int = 1) -> Iterator[list[dict[str, Any]]]:
    """`count` event documents in batches: 40 organizations, three currencies, each sixth event a refund."""
    chance = random.Random(seed)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    now = datetime(2026, 7, 1, tzinfo=UTC)
    open_payments: list[tuple[str, str, str, int]] = []
    position = 0
    while position < count:
        batch = []
        for _ in range(min(10_000, count - position)):
            position += 1
            refund = refunds and position % 6 == 0 and open_payments
            if refund:
                # At a random distance: most refunds meet a payment of an earlier batch, as in life.
                place = chance.randrange(len(open_payments))
                open_payments[place], open_payments[-1] = open_payments[-1], open_payments[place]
                payment, organization, currency, minor = open_payments.pop()
                kind, version, data = "PaymentRefunded", 2, {"reason": "returned"}
            else:
                payment, organization = f"payment-{position:09d}", f"organization-{chance.randrange(40):02d}"
                currency, minor = chance.choice(("EUR", "USD", "JPY")), chance.randrange(100, 100_000)
                kind, version, data = "PaymentProcessed", 1, {"attempt": 1}
                if chance.random() < 0.5:
                    open_payments.append((payment, organization, currency, minor))
            command = f"command-{position:09d}"
            batch.append(
                {
                    "_id": ObjectId(),
                    "aggregateId": payment,
                    "aggregateType": "Payment",
                    "eventType": kind,
                    "eventData": {
                        "amount": decimal128(minor, 0 if currency == "JPY" else 2),
                        "amountMinor": Int64(minor),
                        "currency": currency,
                        **data,
                    },
                    "version": Int64(version),
                    "timestamp": start + timedelta(seconds=15 * position % 15_000_000),
                    "correlationId": command,
                    "causationId": command,
                    "metadata": {
                        "userId": f"user-{position % 9973}",
                        "organizationId": organization,
                        "requestHash": "0" * 32,
                    },
                    "position": Int64(position),
                    "commandId": command,
                    "recordedAt": now,
                    "schemaVersion": 1,
                }
            )
        yield batch


def fill(scale: Scale, database: Db, *, refunds: bool = True) -> None:
    """Put `scale.events` events into the log, past the command side: what is read, not what is measured."""
    head = START
    for batch in events(scale.events, refunds):
        database["events"].insert_many(batch)
        *links, head = links_over(head, [encode(document) for document in batch])
        if links:
            database["log_chain"].insert_many(
                [{"_id": Int64(link.position), "hash": Binary(link.hash)} for link in links]
            )
        if head.position % 250_000 == 0:
            scale.say(f"  {head.position:,} events made")
    database["counters"].update_one(
        {"_id": "events"}, {"$set": {"position": Int64(head.position), "chain": Binary(head.hash)}}
    )


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that works with the settings."""
    return {
        **os.environ,
        "LEDGERLAKE_HOME": str(settings.home),
        "LEDGERLAKE_MONGODB_URI": settings.mongodb_uri or "",
        "LEDGERLAKE_DATABASE": settings.database,
    }


def child(settings: Settings, code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a process of its own; it prints one line of JSON. Adds its peak memory as `peak_mb`."""
    # Not ru_maxrss: a process inherits that of the one which started it.
    epilogue = (
        "\nimport json as _j, re as _r\n"
        "_peak = int(_r.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "print(_j.dumps({**result, 'peak_mb': _peak // 1024}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + epilogue, *arguments],
        env=environment(settings),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
