"""How far projections that follow live are behind the log, while 1,000 events a second are appended."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

from bson import Int64

from benchmarks.measure import Db, Figure, Scale, environment, scratch
from ledgerlake.eventstore.expected import NO_STREAM, exact
from ledgerlake.eventstore.model import Append, Appended, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.projections import PROJECTIONS
from ledgerlake.projections.checkpoints import live_checkpoints
from ledgerlake.settings import Settings

RATE = 1_000
SECONDS = 15
# Events handed over at once: a hundred writers a second that each have ten.
TOGETHER = 10
# Looking costs the two cores that are measured: a lag is up to so much too long.
LOOK_SECONDS = 0.02
START_SECONDS = 60
NOW = datetime(2026, 6, 1, tzinfo=UTC)

RUNNER = "from ledgerlake.cli import main; main()"


def run(scale: Scale) -> list[Figure]:
    """One second over the lag of 99 events in 100, from acknowledgement until every read model has them.

    `ledgerlake refresh --follow` runs in a process of its own, with the lake and the reports.
    """
    ratios, notes = [], []
    with scratch(scale) as (settings, database), _runner(settings, database), EventStore(database) as store:
        first = 0
        for number in range(scale.rounds + 1):
            seconds = SECONDS if number else 3  # the first round warms all sides
            lags = _round(database, store, first, seconds)
            first += seconds * RATE
            if number:
                cuts = quantiles(lags, n=100)
                ratios.append(1.0 / cuts[98])
                notes.append(f"{cuts[49] * 1000:.0f} and {cuts[98] * 1000:.0f}")
                scale.say(f"  lag p50 and p99 {notes[-1]} ms over {len(lags):,} events")
    note = f"{RATE:,} ev/s for {SECONDS} s; lag p50 and p99 in ms: {'; '.join(notes)}"
    return [Figure("one second", "live lag p99, all projections", ratios, 1.0, note)]


@contextmanager
def _runner(settings: Settings, database: Db) -> Iterator[None]:
    command = [sys.executable, "-c", RUNNER, "refresh", "--follow"]
    with subprocess.Popen(command, env=environment(settings)) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while len(live_checkpoints(database["projections_metadata"].find())) < len(PROJECTIONS):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("The live runner does not start.")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _round(database: Db, store: EventStore, first: int, seconds: float) -> list[float]:
    """Lags in seconds, one for each event."""
    count = int(seconds * RATE)
    handed: queue.Queue[Any] = queue.Queue()
    acknowledged: dict[int, float] = {}
    projected: dict[int, float] = {}

    def acknowledge() -> None:
        for _ in range(count // TOGETHER):
            outcomes = handed.get().wait()
            at = time.perf_counter()
            acknowledged.update(
                (outcome.position, at) for outcome in outcomes if isinstance(outcome, Appended)
            )

    def look() -> None:
        position, end = first, first + count
        while position < end:
            found = live_checkpoints(database["projections_metadata"].find())
            least, at = min(each.position for each in found.values()), time.perf_counter()
            projected.update((each, at) for each in range(position + 1, least + 1))
            position = max(position, least)
            time.sleep(LOOK_SECONDS)

    threads = [threading.Thread(target=acknowledge), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for number in range(0, count, TOGETHER):
        time.sleep(max(0.0, started + number / RATE - time.perf_counter()))
        handed.put(store.submit([_append(first + number + each) for each in range(TOGETHER)]))
    for thread in threads:
        thread.join()
    return [max(0.0, projected[position] - at) for position, at in acknowledged.items()]


def _append(number: int) -> Append:
    """One event; each sixth is a refund of a payment of some while ago."""
    refund = number % 6 == 5 and number > 600
    payment = number - 600 - (number - 600) % 6 if refund else number
    amount = {"amount": decimal128(1_000, 2), "amountMinor": Int64(1_000), "currency": "EUR"}
    data: dict[str, Any] = {**amount, **({"reason": "returned"} if refund else {"attempt": 1})}
    kind = "PaymentRefunded" if refund else "PaymentProcessed"
    command, who = f"live-{number}", {"organizationId": f"organization-{payment % 40:02d}", "userId": None}
    event = NewEvent(kind, data, NOW, command, command, who)
    expected = exact(1) if refund else NO_STREAM
    return Append(f"live-payment-{payment}", "Payment", [event], expected, command, "h")
