"""The event store: append to streams, read them back, know the head of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from ledgerlake.eventstore.archived import ARCHIVED, NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.batching import LINGER_SECONDS
from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.committer import GroupCommitter, Request
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
from ledgerlake.mongo.steps import run


class EventStore:
    """An append-only log of events in streams, on a database that `open_database` has prepared.

    Positions are global, gapless and visible in order; versions are per stream. Safe for use from any
    number of threads and processes at once. `inline` is written in the transaction of every append.
    """

    def __init__(
        self,
        database: Database[Document],
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
            transaction = AppendTransaction(database, inline=inline)
        self._transaction = transaction
        self._reads = LogReads(database, archive, transaction.saw)
        self._committer = GroupCommitter(
            transaction, max_appends=max_batch, linger=linger_seconds, on_committed=self._publish
        )

    def append(self, append: Append) -> Appended:
        """Store the append's events, all or none, once per command id.

        Raises:
            ConcurrencyError: the stream is not what was expected; nothing was stored.
            CommandIdReused: the command id was used for other content; nothing was stored.
            StoreUnavailable: not confirmed in time; send the same again.
        """
        outcome = self._submit(WriteRequest((append,))).wait()[0]
        if isinstance(outcome, Appended):
            return outcome
        raise outcome

    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        """Settle each append by itself, all in one transaction; outcomes are in the same order.

        Refusals are returned, not raised. Once an append to a stream was refused, or was a repetition of
        one that had been stored before, the later ones to that stream in this call are refused, unless they
        are repetitions themselves: they were decided on a state that did not come about.

        Raises:
            ValueError: see `submit`.
            StoreUnavailable: not confirmed in time; send the same again.
        """
        return self.submit(appends).wait()

    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        """Store all of the appends and move the checkpoint, or do nothing of it.

        With a checkpoint there may be no appends. All of them done before, by their command ids, is
        a repetition, and comes back as such; a part of them is a refusal.

        Raises:
            ConcurrencyError, CommandIdReused: what one of the appends met.
            CheckpointConflict: the checkpoint is not where it was expected.
            ValueError: see `submit`.
            StoreUnavailable: not confirmed in time; send the same again.
        """
        outcomes = self._submit(WriteRequest(appends, atomic=True, checkpoint=checkpoint)).wait()
        return [outcome for outcome in outcomes if isinstance(outcome, Appended)]

    def submit(self, appends: Sequence[Append]) -> Request:
        """As `append_many`, but the outcomes come from `wait()` of what is returned.

        Waits while there is a full queue ahead.

        Raises:
            ValueError: more appends than one batch may hold, or one without events.
            EventTooLarge: an event of over 1 MB, or over 12 MB of them.
        """
        return self._submit(WriteRequest(appends))

    def _submit(self, write: WriteRequest) -> Request:
        return self._committer.submit(write)

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """The stream's events in version order, or against it; empty where there is no such stream.

        Args:
            from_version: the lowest version wanted, whichever the direction.
            to_version: the highest version wanted.
            limit: at most so many, counted from where the reading starts.
        """
        return run(self._reads.stream(stream_id, from_version, to_version, backwards, limit))

    def read_streams(
        self, stream_ids: Iterable[str], *, to_version: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        """The events, up to and including `to_version`, of each stream that has any, in version order."""
        return run(self._reads.streams(stream_ids, to_version))

    def read_all(
        self,
        after: int = 0,
        *,
        up_to: int | None = None,
        limit: int | None = None,
        only: EventFilter = EVERYTHING,
    ) -> Iterator[StoredEvent]:
        """The log in position order, from after position `after` up to and including `up_to`.

        Ends at the end of the log. `limit` counts the events that `only` lets through.

        Raises:
            LogCorrupted: an unfiltered read met a gap.
        """
        whole = only.selects_all
        for expected, document in enumerate(self._reads.log(after, up_to, limit, only) or (), after + 1):
            if ARCHIVED in document:
                [event] = run(self._reads.events([document]))
            else:
                event = StoredEvent.from_document(document)
            if whole:
                check_next(event, expected)
            yield event

    def read_correlation(self, correlation_id: str) -> list[StoredEvent]:
        """All events of one conversation, in position order."""
        return run(self._reads.correlation(correlation_id))

    def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        """The event that each command which is in the log has led to, by command id."""
        return run(self._reads.commands(command_ids))

    def stream_version(self, stream_id: str) -> int | None:
        """The stream's last version; None where there is no such stream."""
        return run(self._reads.version(stream_id))

    def head(self) -> int:
        """Position of the last committed event; 0 for an empty log."""
        return run(self._reads.head())

    def checkpoint(self, name: str) -> int:
        """The position up to which a consumer has handled the log; 0 if it has none yet."""
        return run(self._reads.checkpoint(name))

    def close(self) -> None:
        """Commit what is queued and stop taking appends."""
        self._committer.close()
        self.bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _publish(self, documents: list[RawBSONDocument]) -> None:
        if self.bus:
            self.bus.publish([decode(document) for document in documents])
