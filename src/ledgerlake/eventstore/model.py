"""The values that go into and come out of the event store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.expected import ANY, ExpectedVersion


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is not stored yet.

    `data` and `metadata` hold BSON-ready values; `timestamp` is the business time, timezone-aware.
    """

    event_type: str
    data: Mapping[str, Any]
    timestamp: datetime
    correlation_id: str
    causation_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = 1


@dataclass(frozen=True, slots=True)
class Append:
    """Events for one stream, all or none of which are stored, and what the stream must be.

    With a `command_id` the append happens once, however often it is sent; `request_hash` tells a
    repetition from another request under the same id.
    """

    stream_id: str
    aggregate_type: str
    events: Sequence[NewEvent]
    expected: ExpectedVersion = ANY
    command_id: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append's last event stands. `duplicate`: it had been stored before, by the same command."""

    stream_id: str
    version: int
    position: int
    duplicate: bool = False


class EventStoreError(LedgerLakeError):
    """An append or a read that the event store refuses or can not do."""


class ConcurrencyError(EventStoreError):
    """The stream is not what the writer expected: load it again and decide again."""

    def __init__(self, stream_id: str, expected: ExpectedVersion, actual: int | None) -> None:
        found = (
            "another append of the same request was refused" if actual is None else f"it has version {actual}"
        )
        super().__init__(f"Stream {stream_id!r} was expected to be at {expected}, but {found}.")
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class CommandIdReused(EventStoreError):
    """A command id that is in the log already came with other content."""

    code = "command_id_reused"

    def __init__(self, command_id: str, stream_id: str) -> None:
        super().__init__(
            f"Command id {command_id!r} was used before, for other content, on stream {stream_id!r}.",
            "Give every command an id of its own; repeat an id only with the very same command.",
        )
        self.command_id = command_id
        self.stream_id = stream_id


class EventTooLarge(EventStoreError):
    """An event is larger than the store takes; nothing was stored."""


class StoreUnavailable(EventStoreError):
    """MongoDB did not take or confirm the append within the time limit: send the command again."""


class LogCorrupted(EventStoreError):
    """The log breaks a promise that nothing but a foreign writer or a partial restore can break."""


Outcome: TypeAlias = Appended | ConcurrencyError | CommandIdReused


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log holds it; `data` and `metadata` are the document's own sub-documents."""

    event_id: str
    stream_id: str
    aggregate_type: str
    event_type: str
    data: Mapping[str, Any]
    version: int
    timestamp: datetime
    correlation_id: str
    causation_id: str
    metadata: Mapping[str, Any]
    position: int
    command_id: str | None
    recorded_at: datetime
    schema_version: int

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> StoredEvent:
        """The event that a document of the events collection holds."""
        return cls(
            event_id=str(document["_id"]),
            stream_id=document["aggregateId"],
            aggregate_type=document["aggregateType"],
            event_type=document["eventType"],
            data=document["eventData"],
            version=document["version"],
            timestamp=document["timestamp"],
            correlation_id=document["correlationId"],
            causation_id=document["causationId"],
            metadata=document["metadata"],
            position=document["position"],
            command_id=document.get("commandId"),
            recorded_at=document["recordedAt"],
            schema_version=document["schemaVersion"],
        )
