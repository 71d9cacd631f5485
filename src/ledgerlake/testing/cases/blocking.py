"""An asynchronous store for callers that block: each call is run by the store's own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, Appended, CheckpointMove, Outcome, StoredEvent
from ledgerlake.testing.cases.sample import AsyncStore

T = TypeVar("T")


class Loop:
    """An event loop that runs in a thread of its own, until it is stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, or what it raises; from any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class BlockingPending:
    """An AsyncPending for callers that block."""

    def __init__(self, loop: Loop, pending: Any) -> None:
        self._loop = loop
        self._pending = pending

    def wait(self) -> list[Outcome]:
        """The outcomes."""
        outcomes: list[Outcome] = self._loop.run(self._pending.wait())
        return outcomes


class Blocking:
    """The store that `opens` makes on `loop`, as a Store.

    Calls from several threads run as tasks beside each other, as those of an asynchronous program do.
    """

    def __init__(self, loop: Loop, opens: Callable[[], AsyncStore]) -> None:
        async def make() -> AsyncStore:
            return opens()

        self._loop = loop
        self._store = loop.run(make())

    @property
    def bus(self) -> EventBus:
        return self._store.bus

    def append(self, append: Append) -> Appended:
        return self._loop.run(self._store.append(append))

    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return self._loop.run(self._store.append_many(appends))

    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        return self._loop.run(self._store.append_atomically(appends, checkpoint))

    def submit(self, appends: Sequence[Append]) -> BlockingPending:
        return BlockingPending(self._loop, self._loop.run(self._store.submit(appends)))

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        return self._loop.run(
            self._store.read_stream(
                stream_id, from_version=from_version, to_version=to_version, backwards=backwards, limit=limit
            )
        )

    def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        return self._loop.run(self._store.read_streams(stream_ids, to_version=to_version))

    def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> Iterator[StoredEvent]:
        async def read() -> list[StoredEvent]:
            reading = self._store.read_all(after, up_to=up_to, limit=limit, only=only)
            return [event async for event in reading]

        yield from self._loop.run(read())

    def read_correlation(self, correlation_id: str) -> list[StoredEvent]:
        return self._loop.run(self._store.read_correlation(correlation_id))

    def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        return self._loop.run(self._store.find_commands(command_ids))

    def stream_version(self, stream_id: str) -> int | None:
        return self._loop.run(self._store.stream_version(stream_id))

    def head(self) -> int:
        return self._loop.run(self._store.head())

    def checkpoint(self, name: str) -> int:
        return self._loop.run(self._store.checkpoint(name))

    def close(self) -> None:
        self._loop.run(self._store.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
