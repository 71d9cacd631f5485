"""What an event store is, for those who use one: subscriptions, handlers, adapters, other stores.

`EventStore` keeps this contract on MongoDB, and its docstrings say what each method promises.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Protocol

from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, Appended, CheckpointMove, Outcome, StoredEvent


class EventReader(Protocol):
    """Reads a log. Versions and positions are inclusive bounds, but for `after`."""

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]: ...

    def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]: ...

    def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> Iterator[StoredEvent]: ...

    def read_correlation(self, correlation_id: str) -> list[StoredEvent]: ...

    def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]: ...

    def stream_version(self, stream_id: str) -> int | None: ...

    def head(self) -> int: ...

    def checkpoint(self, name: str) -> int: ...


class Pending(Protocol):
    """Appends that are on their way into the log."""

    def wait(self) -> list[Outcome]: ...


class EventWriter(Protocol):
    """Appends to a log."""

    def append(self, append: Append) -> Appended: ...

    def append_many(self, appends: Sequence[Append]) -> list[Outcome]: ...

    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]: ...

    def submit(self, appends: Sequence[Append]) -> Pending: ...


class AsyncEventReader(Protocol):
    """EventReader for asyncio."""

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]: ...

    async def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]: ...

    def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> AsyncIterator[StoredEvent]: ...

    async def read_correlation(self, correlation_id: str) -> list[StoredEvent]: ...

    async def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]: ...

    async def stream_version(self, stream_id: str) -> int | None: ...

    async def head(self) -> int: ...

    async def checkpoint(self, name: str) -> int: ...


class AsyncPending(Protocol):
    """Pending for asyncio."""

    async def wait(self) -> list[Outcome]: ...


class AsyncEventWriter(Protocol):
    """EventWriter for asyncio."""

    async def append(self, append: Append) -> Appended: ...

    async def append_many(self, appends: Sequence[Append]) -> list[Outcome]: ...

    async def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]: ...

    async def submit(self, appends: Sequence[Append]) -> AsyncPending: ...
