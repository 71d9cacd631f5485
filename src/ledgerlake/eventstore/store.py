"""The event store: append to streams, read them back, know the head of the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.committer import GroupCommitter, Request
from ledgerlake.eventstore.encoding import decode
from ledgerlake.eventstore.model import Append, Appended, Outcome, StoredEvent
from ledgerlake.eventstore.transaction import COUNTER_ID, AppendTransaction, Document


class EventStore:
    """An append-only log of events in streams, on a database that `open_database` has prepared.

    Positions are global, gapless and visible in order; versions are per stream, from 1. Safe for use
    from any number of threads and processes at once.
    """

    def __init__(
        self,
        database: Database[Document],
        *,
        max_batch: int = 500,
        linger_seconds: float = 0.002,
        bus: EventBus | None = None,
    ) -> None:
        self.bus = EventBus() if bus is None else bus
        majority = ReadConcern("majority")
        self._events = database.get_collection("events", read_concern=majority)
        self._counters = database.get_collection("counters", read_concern=majority)
        self._transaction = AppendTransaction(database)
        self._committer = GroupCommitter(
            self._transaction, max_appends=max_batch, linger=linger_seconds, on_committed=self._publish
        )

    def append(self, append: Append) -> Appended:
        """Store the append's events, all or none, once per command id.

        Raises:
            ConcurrencyError: the stream is not what was expected; nothing was stored.
            CommandIdReused: the command id was used for other content; nothing was stored.
            StoreUnavailable: not confirmed in time; send the same again.
        """
        outcome = self.append_many([append])[0]
        if isinstance(outcome, Appended):
            return outcome
        raise outcome

    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        """Settle each append by itself, all in one transaction; outcomes are in the same order.

        Refusals are returned, not raised. Once an append to a stream was refused, the later ones to
        that stream in this call are refused too.

        Raises:
            ValueError: see `submit`.
            StoreUnavailable: not confirmed in time; send the same again.
        """
        return self.submit(appends).wait()

    def submit(self, appends: Sequence[Append]) -> Request:
        """As `append_many`, but the outcomes come from `wait()` of what is returned.

        Raises:
            ValueError: more appends than one batch may hold, or one without events.
        """
        if len(appends) > self._committer.max_appends:
            raise ValueError(f"{len(appends)} appends exceed a batch's {self._committer.max_appends}.")
        if not all(append.events for append in appends):
            raise ValueError("An append holds at least one event.")
        return self._committer.submit(appends)

    def read_stream(self, stream_id: str) -> list[StoredEvent]:
        """The stream's events in version order; empty where there is no such stream."""
        return self.read_streams([stream_id]).get(stream_id, [])

    def read_streams(self, stream_ids: Iterable[str]) -> dict[str, list[StoredEvent]]:
        """The events of each stream that has any, in version order."""
        streams: dict[str, list[StoredEvent]] = {}
        cursor = self._events.find({"aggregateId": {"$in": list(stream_ids)}}).sort(
            {"aggregateId": 1, "version": 1}
        )
        for document in cursor:
            event = StoredEvent.from_document(document)
            streams.setdefault(event.stream_id, []).append(event)
        self._transaction.saw({stream: events[-1].version for stream, events in streams.items()})
        return streams

    def find_commands(self, command_ids: Iterable[str]) -> dict[str, StoredEvent]:
        """The event that each command which is in the log has led to, by command id."""
        found = self._events.find({"commandId": {"$in": list(command_ids)}})
        return {document["commandId"]: StoredEvent.from_document(document) for document in found}

    def head(self) -> int:
        """Position of the last committed event; 0 for an empty log."""
        counter: Mapping[str, Any] | None = self._counters.find_one({"_id": COUNTER_ID})
        return 0 if counter is None else int(counter["position"])

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
