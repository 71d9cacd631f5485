"""The event store for asyncio: the rules of EventStore, run on pymongo's asynchronous driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self

from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.database import AsyncDatabase

from ledgerlake.eventstore.archived import ARCHIVED, NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.async_committer import AsyncGroupCommitter, AsyncRequest
from ledgerlake.eventstore.batching import LINGER_SECONDS
from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.encoding import decode
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.inline import Inline
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointMove,
    Outcome,
    StoredEvent,
    WriteRequest,
)
from ledgerlake.eventstore.planning import Document
from ledgerlake.eventstore.reading import LogReads, check_next
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.steps import run_async


class AsyncEventStore:
    """EventStore for the tasks of one event loop; every method promises what its namesake there does.

    It may append to the same log as any number of stores in this process and others. The database comes
    from `open_async_database`. A task that is cancelled while its append waits for its turn has not
    appended; one that is cancelled later may have.
    """

    def __init__(
        self,
        database: AsyncDatabase[Document],
        *,
        max_batch: int = 500,
        linger_seconds: float = LINGER_SECONDS,
        bus: EventBus | None = None,
        archive: ArchivedEvents = NO_ARCHIVE,
        inline: Inline | None = None,
        transaction: AppendTransaction | None = None,
    ) -> None:
        self.bus = EventBus() if bus is None else bus
        if transaction is None:
            transaction = AppendTransaction(database, sleep=asyncio.sleep, inline=inline)
        self._transaction = transaction
        self._reads = LogReads(database, archive, transaction.saw, asyncio.to_thread)
        self._committer = AsyncGroupCommitter(
            transaction, max_appends=max_batch, linger=linger_seconds, on_committed=self._publish
        )

    async def append(self, append: Append) -> Appended:
        """Store the append's events, all or none, once per command id. Raises as EventStore.append does."""
        request = await self._submit(WriteRequest((append,)))
        outcome = (await request.wait())[0]
        if isinstance(outcome, Appended):
            return outcome
        raise outcome

    async def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        """Settle each append by itself, all in one transaction; refusals are returned, not raised."""
        return await (await self.submit(appends)).wait()

    async def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        """Store all of the appends and move the checkpoint, or do nothing of it."""
        request = await self._submit(WriteRequest(appends, atomic=True, checkpoint=checkpoint))
        return [outcome for outcome in await request.wait() if isinstance(outcome, Appended)]

    async def submit(self, appends: Sequence[Append]) -> AsyncRequest:
        """As `append_many`, but the outcomes come from `wait()` of what is returned."""
        return await self._submit(WriteRequest(appends))

    async def _submit(self, write: WriteRequest) -> AsyncRequest:
        return await self._committer.submit(write)

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """The stream's events in version order, or against it; empty where there is no such stream."""
        return await run_async(self._reads.stream(stream_id, from_version, to_version, backwards, limit))

    async def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        """The events, up to and including `to_version`, of each stream that has any, in version order."""
        return await run_async(self._reads.streams(stream_ids, to_version))

    async def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> AsyncIterator[StoredEvent]:
        """The log in position order, from after position `after` up to and including `up_to`."""
        cursor = self._reads.log(after, up_to, limit, only)
        if cursor is None:
            return
        whole, expected = only.selects_all, after
        async with cursor:
            async for document in cursor:
                if ARCHIVED in document:
                    [event] = await run_async(self._reads.events([document]))
                else:
                    event = StoredEvent.from_document(document)
                expected += 1
                if whole:
                    check_next(event, expected)
                yield event

    async def read_correlation(self, correlation_id: str) -> list[StoredEvent]:
        """All events of one conversation, in position order."""
        return await run_async(self._reads.correlation(correlation_id))

    async def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        """The event that each command which is in the log has led to, by command id."""
        return await run_async(self._reads.commands(command_ids))

    async def stream_version(self, stream_id: str) -> int | None:
        """The stream's last version; None where there is no such stream."""
        return await run_async(self._reads.version(stream_id))

    async def head(self) -> int:
        """Position of the last committed event; 0 for an empty log."""
        return await run_async(self._reads.head())

    async def checkpoint(self, name: str) -> int:
        """The position up to which a consumer has handled the log; 0 if it has none yet."""
        return await run_async(self._reads.checkpoint(name))

    async def close(self) -> None:
        """Commit what is queued and stop taking appends."""
        await self._committer.close()
        await asyncio.to_thread(self.bus.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _publish(self, documents: list[RawBSONDocument]) -> None:
        if self.bus:
            self.bus.publish([decode(document) for document in documents])
