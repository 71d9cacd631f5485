"""Consumers of a subscription that are killed between their result and what comes next."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database

from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore

Db = Database[dict[str, Any]]
BEFORE = "before the result is stored"
AFTER = "after the result was stored"
EVENTS = 12

CONSUMER = """
import os, signal, sys
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.subscriptions.subscriptions import Subscriptions
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings

moment, number, apart = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "apart"
results = 0

def die(now):
    if now == moment and results == number:
        os.kill(os.getpid(), signal.SIGKILL)

class Killed(EventStore):
    def append_atomically(self, appends, checkpoint=None):
        global results
        results += 1
        die("before the result is stored")
        done = super().append_atomically(appends, checkpoint)
        die("after the result was stored")
        return done

def receipt(event):
    written = NewEvent("Receipt", {}, event.timestamp, event.correlation_id, event.event_id)
    result = [Append(f"receipt-{event.position}", "Receipt", [written])]
    if not apart:
        return result
    store.append_atomically(result)  # by itself; the checkpoint follows later

db = open_database(Settings.from_env())
with Killed(db) as store, Subscriptions(db, store) as subscriptions:
    paid = EventFilter.of(event_types=["Paid"])
    subscriptions.consumer("receipts", receipt, only=paid, live=False).run()
"""


def consume(environ: dict[str, str], moment: str, number: int, checkpoint: str) -> int:
    command = [sys.executable, "-c", CONSUMER, moment, str(number), checkpoint]
    return subprocess.run(command, env=environ, timeout=120).returncode


def pay(database: Db) -> None:
    paid = NewEvent("Paid", {"n": 1}, datetime.now(UTC), "correlation", "causation")
    with EventStore(database) as store:
        store.append_many([Append(f"p{i}", "Payment", [paid]) for i in range(EVENTS)])


def receipts(database: Db) -> list[str]:
    return sorted(event["aggregateId"] for event in database["events"].find({"eventType": "Receipt"}))


ONE_EACH = sorted(f"receipt-{position}" for position in range(1, EVENTS + 1))


def test_what_a_handler_returns_is_stored_once_though_its_consumer_is_killed_before_and_after(
    database: Db, environ: dict[str, str]
) -> None:
    pay(database)
    for moment, number in [(BEFORE, 2), (AFTER, 3)]:
        assert consume(environ, moment, number, "with the result") == -signal.SIGKILL
    assert consume(environ, "never", 0, "with the result") == 0
    assert receipts(database) == ONE_EACH


def test_negative_control_a_result_stored_by_itself_is_stored_again_after_a_kill(
    database: Db, environ: dict[str, str]
) -> None:
    """The third result is there, the consumer is killed, the checkpoint does not know of any."""
    pay(database)
    assert consume(environ, AFTER, 3, "apart") == -signal.SIGKILL
    assert consume(environ, "never", 0, "apart") == 0
    assert len(receipts(database)) == EVENTS + 3
