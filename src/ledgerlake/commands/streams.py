"""Payments as they lie in the event store: from streams to states, and from events to appends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bson import Int64

from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.events import AGGREGATE_TYPE, REGISTRY, PaymentEvent, event_data, read_event
from ledgerlake.domain.payment import NOTHING, Command, Payment, evolve
from ledgerlake.domain.snapshot import SNAPSHOT_VERSION, snapshot_data, snapshot_state
from ledgerlake.eventstore.expected import after
from ledgerlake.eventstore.model import Append, NewEvent, StoredEvent
from ledgerlake.eventstore.snapshots import SnapshotFormat
from ledgerlake.eventstore.snapshotting import Loaded
from ledgerlake.mongo.decimal128 import decimal128

# How the state of a payment is kept in a snapshot.
SNAPSHOT: Final = SnapshotFormat(AGGREGATE_TYPE, SNAPSHOT_VERSION, snapshot_data, snapshot_state)


@dataclass(slots=True)
class Stream:
    """A stream as loaded, and as it will be once the appends decided on it are stored."""

    state: Payment = NOTHING
    # What each command that was loaded with the stream came to, with its request hash. Commands before a
    # snapshot are not among them: those the log knows when they come again, as it knows all.
    done: dict[str, tuple[CommandResult, str | None]] = field(default_factory=dict)


def fold(loaded: Loaded[Payment]) -> Stream:
    """The stream as its snapshot and the events after it add up to."""
    stream = Stream(NOTHING if loaded.state is None else loaded.state)
    for stored in loaded.events:
        event = read_event(stored.event_type, stored.schema_version, stored.data)
        stream.state = evolve(stream.state, event, stored.metadata["organizationId"])
        if stored.command_id is not None:
            stream.done[stored.command_id] = done(stored)
    return stream


def done(event: StoredEvent) -> tuple[CommandResult, str | None]:
    """What the command of a stored event came to, and its request hash."""
    assert event.command_id is not None
    result = CommandResult(event.command_id, event.stream_id, event.version, event.position, duplicate=True)
    return result, event.metadata.get("requestHash")


def append_of(command: Command, request_hash: str, event: PaymentEvent, after_version: int) -> Append:
    """What stores the event that a command came to; decided after this version of its stream (0: none)."""
    amount = event.amount
    data = {
        "amount": decimal128(amount.minor, amount.exponent),
        "amountMinor": Int64(amount.minor),
        "currency": amount.currency,
        **event_data(event),
    }
    new = NewEvent(
        event_type=type(event).__name__,
        data=data,
        timestamp=command.occurred_at,
        correlation_id=command.correlation_id or command.command_id,
        causation_id=command.causation_id or command.command_id,
        metadata={
            **command.metadata,
            "userId": command.user_id,
            "organizationId": command.organization_id,
            **({"personal": dict(command.personal)} if command.personal else {}),
        },
        schema_version=REGISTRY.version(type(event).__name__),
    )
    return Append(
        stream_id=command.stream_id,
        aggregate_type=AGGREGATE_TYPE,
        events=(new,),
        expected=after(after_version),
        command_id=command.command_id,
        request_hash=request_hash,
    )
