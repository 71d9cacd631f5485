"""The event store in memory for asyncio: the same log, behind coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, Appended, CheckpointMove, Outcome, StoredEvent
from ledgerlake.testing.memory import InMemoryEventStore, Settled


@dataclass(frozen=True, slots=True)
class AsyncSettled:
    """Settled, for asyncio."""

    settled: Settled

    async def wait(self) -> list[Outcome]:
        """The outcomes, at once."""
        return self.settled.wait()


class AsyncInMemoryEventStore:
    """What `AsyncEventStore` is, without a server. Nothing in it waits, but for the bus at the end.

    Args:
        store: where the log is; one that others use too makes a second door to the same log.
    """

    def __init__(self, store: InMemoryEventStore | None = None) -> None:
        self._store = InMemoryEventStore() if store is None else store
        self.bus = self._store.bus

    async def append(self, append: Append) -> Appended:
        return self._store.append(append)

    async def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return self._store.append_many(appends)

    async def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        return self._store.append_atomically(appends, checkpoint)

    async def submit(self, appends: Sequence[Append]) -> AsyncSettled:
        return AsyncSettled(self._store.submit(appends))

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        return self._store.read_stream(
            stream_id, from_version=from_version, to_version=to_version, backwards=backwards, limit=limit
        )

    async def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        return self._store.read_streams(stream_ids, to_version=to_version)

    async def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> AsyncIterator[StoredEvent]:
        for event in self._store.read_all(after, up_to=up_to, limit=limit, only=only):
            yield event

    async def read_correlation(self, correlation_id: str) -> list[StoredEvent]:
        return self._store.read_correlation(correlation_id)

    async def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        return self._store.find_commands(command_ids)

    async def stream_version(self, stream_id: str) -> int | None:
        return self._store.stream_version(stream_id)

    async def head(self) -> int:
        return self._store.head()

    async def checkpoint(self, name: str) -> int:
        return self._store.checkpoint(name)

    async def close(self) -> None:
        # The bus hands over what is queued first, and a subscriber may need this very loop for it.
        await asyncio.to_thread(self._store.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
