"""The event store in memory: for tests without a server, and the shortest statement of what a store does.

The rules are those of `settle`, the values those of BSON, as in every store; what is left is a list. Where
this store and another one differ, one of the two is wrong (the tests run them side by side).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from bson.raw_bson import RawBSONDocument

from ledgerlake.eventstore.batching import check_request, total_size
from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.encoding import complete, decode, encode
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointMove,
    EventStoreError,
    Outcome,
    StoredEvent,
    WriteRequest,
)
from ledgerlake.eventstore.reading import check_after
from ledgerlake.eventstore.settlement import Done, settle


@dataclass(frozen=True, slots=True)
class Settled:
    """Appends that are in the log already, for those who would wait for them."""

    outcomes: list[Outcome]

    def wait(self) -> list[Outcome]:
        """The outcomes, at once."""
        return self.outcomes


class InMemoryEventStore:
    """What `EventStore` is, without a server: its docstrings say what each method promises.

    Safe for use from any number of threads. Events are kept as BSON and decoded anew for each reader, so
    nobody shares a dictionary with the log, and a value is what MongoDB would have made of it.

    Args:
        clock: gives the time that an event is recorded at.
    """

    def __init__(
        self,
        *,
        max_batch: int = 500,
        bus: EventBus | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.bus = EventBus() if bus is None else bus
        self._max_batch = max_batch
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._log: list[RawBSONDocument] = []  # the event of position p stands at p - 1
        self._streams: dict[str, list[RawBSONDocument]] = {}
        self._versions: dict[str, int] = {}
        self._commands: dict[str, Done] = {}
        self._checkpoints: dict[str, int] = {}

    # Writing

    def append(self, append: Append) -> Appended:
        outcome = self.append_many([append])[0]
        if isinstance(outcome, Appended):
            return outcome
        raise outcome

    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return self._write(WriteRequest(appends))

    def submit(self, appends: Sequence[Append]) -> Settled:
        return Settled(self.append_many(appends))

    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        outcomes = self._write(WriteRequest(appends, atomic=True, checkpoint=checkpoint))
        return [outcome for outcome in outcomes if isinstance(outcome, Appended)]

    def _write(self, request: WriteRequest) -> list[Outcome]:
        appends = request.appends
        check_request(request, self._max_batch)
        if not appends and request.checkpoint is None:
            return []
        encoded = [encode(append) for append in appends]
        total_size(encoded)
        streams = {append.stream_id for append in appends}
        commands = {append.command_id for append in appends if append.command_id is not None}
        with self._lock:
            if self._closed:
                raise EventStoreError("The event store is closed.", "Open it again to append.")
            settled = settle(
                [request],
                {stream: self._versions[stream] for stream in streams & self._versions.keys()},
                {command: self._commands[command] for command in commands & self._commands.keys()},
                len(self._log),
                self._checkpoints,
            )
            if refusal := settled.refused.get(0):
                assert not isinstance(refusal, Appended)
                raise refusal
            before, now = len(self._log), self._clock()
            for each in settled.accepted:
                append, stream = each.append, each.append.stream_id
                for version, document in enumerate(encoded[each.number], start=each.first_version):
                    self._log.append(complete(document, version, len(self._log) + 1, now))
                    self._streams.setdefault(stream, []).append(self._log[-1])
                self._versions[stream] = each.last_version
                if append.command_id is not None:
                    done = Done(stream, each.last_version, len(self._log), append.request_hash)
                    self._commands[append.command_id] = done
            self._checkpoints.update(settled.checkpoints)
            if self.bus and len(self._log) > before:
                self.bus.publish([decode(document) for document in self._log[before:]])
        return settled.outcomes[0]

    # Reading

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        events = [
            event
            for event in self.read_streams([stream_id]).get(stream_id, [])
            if (from_version is None or from_version <= event.version)
            and (to_version is None or event.version <= to_version)
        ]
        return events[:: -1 if backwards else 1][: _checked(limit)]

    def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        with self._lock:
            known = sorted(set(stream_ids) & self._streams.keys())
            found = {stream: list(self._streams[stream]) for stream in known}
        streams = {
            stream: [
                event for event in map(decode, documents) if to_version is None or event.version <= to_version
            ]
            for stream, documents in found.items()
        }
        return {stream: events for stream, events in streams.items() if events}

    def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> Iterator[StoredEvent]:
        check_after(after)
        with self._lock:
            documents = self._log[after : up_to if up_to is None else max(up_to, 0)]
        wanted = (event for event in map(decode, documents) if only.matches(event))
        yield from itertools.islice(wanted, _checked(limit))

    def read_correlation(self, correlation_id: str) -> list[StoredEvent]:
        return [event for event in self.read_all() if event.correlation_id == correlation_id]

    def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        with self._lock:
            known = set(command_ids) & self._commands.keys()
            found = {command: self._log[self._commands[command].position - 1] for command in known}
        return {command: decode(document) for command, document in found.items()}

    def stream_version(self, stream_id: str) -> int | None:
        with self._lock:
            return self._versions.get(stream_id)

    def head(self) -> int:
        with self._lock:
            return len(self._log)

    def checkpoint(self, name: str) -> int:
        with self._lock:
            return self._checkpoints.get(name, 0)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 0:
        raise ValueError(f"A limit is 0 or more, not {limit}.")
    return limit
