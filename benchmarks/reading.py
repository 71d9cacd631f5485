"""Reads against the driver's own cursor, and commands against the bare append."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime

from benchmarks.append import WRITERS, bare_append, by_threads
from benchmarks.measure import Figure, Scale, fill, rate, scratch
from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import ProcessPayment
from ledgerlake.domain.money import Money
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, NewEvent, StoredEvent
from ledgerlake.eventstore.store import EventStore

STREAMS = 500
LENGTH = 20
READS = 2_000
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def run(scale: Scale) -> list[Figure]:
    """Streams of 20 events, the whole log, and commands through the bus by 64 threads."""
    return [_streams(scale), _log(scale), _commands(scale)]


def _streams(scale: Scale) -> Figure:
    ratios = []
    with scratch(scale) as (_, database), EventStore(database) as store:
        event = NewEvent("PaymentFailed", {"reason": "x" * 100}, NOW, "c", "c", {"organizationId": "o"})
        for first in range(0, STREAMS, 10):
            streams = range(first, first + 10)
            store.append_many([Append(f"s{i}", "Payment", [event] * LENGTH, NO_STREAM) for i in streams])
        names = [f"s{random.Random(1).randrange(STREAMS)}" for _ in range(READS)]
        events = database["events"]

        def ours() -> None:
            for name in names:
                assert len(store.read_stream(name)) == LENGTH

        def raw() -> None:
            for name in names:
                assert len(events.find({"aggregateId": name}).sort("version", 1).to_list()) == LENGTH

        for number in range(scale.rounds + 1):
            pair = rate(READS, ours), rate(READS, raw)
            if number:
                ratios.append(pair[0] / pair[1])
                scale.say(f"  {pair[0]:,.0f} streams of {LENGTH} events/s; raw {pair[1]:,.0f}/s")
    return Figure("read_stream of 20 events", "raw find", ratios, 0.7)


def _log(scale: Scale) -> Figure:
    ratios = []
    small = Scale(scale.folder, scale.uri, scale.rounds, 100_000, scale.shared_data, scale.say)
    with scratch(scale) as (_, database):
        fill(small, database)
        with EventStore(database) as store:

            def ours() -> int:
                return sum(1 for _ in store.read_all())

            def raw() -> int:
                cursor = database["events"].find({"position": {"$gt": 0}}, sort=[("position", 1)])
                return sum(1 for _ in map(StoredEvent.from_document, cursor))

            for number in range(scale.rounds + 1):
                pair = rate(small.events, ours), rate(small.events, raw)
                if number:
                    ratios.append(pair[0] / pair[1])
                    scale.say(f"  {pair[0]:,.0f} events/s; raw {pair[1]:,.0f}/s")
    return Figure("read_all, 100,000 events", "raw cursor that builds the same objects", ratios, 0.8)


def _commands(scale: Scale) -> Figure:
    ratios = []
    numbers = itertools.count()
    with scratch(scale) as (settings, database):
        ledger = LedgerLake(settings, database)

        def command() -> None:
            name = f"bus-{next(numbers):012d}"
            ledger.commands.dispatch(
                ProcessPayment(
                    command_id=name,
                    payment_id=f"payment-{name}",
                    organization_id="organization",
                    user_id="user",
                    amount=Money(1230, "EUR"),
                    occurred_at=NOW,
                )
            )

        for number in range(scale.rounds + 1):
            pairs = [by_threads(write, WRITERS[-1]) for write in (command, lambda: bare_append(ledger.store))]
            through, bare = (appends / seconds for appends, seconds, _ in pairs)
            if number:
                ratios.append(through / bare)
                scale.say(f"  {through:,.0f} commands/s; {bare:,.0f} bare appends/s")
        ledger.store.close()
    return Figure("command through the bus, 64 threads", "bare append", ratios, 0.6)
