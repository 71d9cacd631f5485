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
    repetition from another request under the same id. `first_version`, 0 or 1, is the version that the
    first event takes if the stream is new; a stream that exists goes on from its last version.
    """

    stream_id: str
    aggregate_type: str
    events: Sequence[NewEvent]
    expected: ExpectedVersion = ANY
    command_id: str | None = None
    request_hash: str | None = None
    first_version: int = 1


@dataclass(frozen=True, slots=True)
class CheckpointMove:
    """Moves a consumer's checkpoint to `position`, in the transaction of the append that it comes with.

    `after` is where the checkpoint must stand (0: there is none yet); None takes any lower position. So of
    two consumers that handled the same event only one stores what came of it.
    """

    name: str
    position: int
    after: int | None = None

    def allows(self, actual: int) -> bool:
        """Whether a checkpoint that stands at `actual` (0: none yet) may be moved so."""
        return actual < self.position if self.after is None else actual == self.after


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What one writer hands over at once.

    Its appends are settled one by one, or, if `atomic`, all or none of them together with the move of a
    checkpoint. A checkpoint is moved by atomic requests only; such a one may hold no append at all.
    """

    appends: Sequence[Append]
    atomic: bool = False
    checkpoint: CheckpointMove | None = None


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
    """The stream is not what the writer expected: load it again and decide again.

    `actual` is the stream's last version, None if there is no stream. `broken`: the append was decided on an
    earlier one of the same request that was not stored, so no version is right.
    """

    def __init__(
        self, stream_id: str, expected: ExpectedVersion, actual: int | None, *, broken: bool = False
    ) -> None:
        if broken:
            found = "an earlier append of the same request to it was not stored"
        else:
            found = "there is no such stream" if actual is None else f"it is at version {actual}"
        super().__init__(
            f"Stream {stream_id!r} was expected to be at {expected}, but {found}.",
            "Load the stream again and decide again.",
        )
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual
        self.broken = broken


class CheckpointConflict(EventStoreError):
    """A consumer's checkpoint is not where it was expected: someone else has handled these events."""

    def __init__(self, move: CheckpointMove, actual: int) -> None:
        where = f"below {move.position}" if move.after is None else f"at {move.after}"
        super().__init__(f"Checkpoint {move.name!r} was expected {where}, but is at {actual}.")
        self.move = move
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


Outcome: TypeAlias = Appended | ConcurrencyError | CommandIdReused | CheckpointConflict


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
