"""The reads of a log, each written once, as bodies of driver calls for either driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.archived import ARCHIVED, ArchivedEvents, restored
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import LogCorrupted, StoredEvent
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, SUBSCRIPTIONS
from ledgerlake.mongo.steps import Steps


class LogReads:
    """What is asked of a log, at majority: what was read once is never taken back.

    Args:
        database: of either driver; the bodies are to be run by the steps of that driver.
        archive: where the events lie that were archived.
        saw: told of the last versions of streams that were met.
        aside: calls what reads files; where an event loop must not wait for it, on a thread, as a coroutine.
    """

    def __init__(
        self,
        database: Any,
        archive: ArchivedEvents,
        saw: Callable[[Mapping[str, int]], None],
        aside: Callable[..., Any] = lambda read, *arguments: read(*arguments),
    ) -> None:
        self._archive = archive
        self._saw = saw
        self._aside = aside
        majority = ReadConcern("majority")
        self._events = database.get_collection(EVENTS, read_concern=majority)
        self._counters = database.get_collection(COUNTERS, read_concern=majority)
        self._checkpoints = database.get_collection(SUBSCRIPTIONS, read_concern=majority)

    def events(self, documents: Sequence[Mapping[str, Any]]) -> Steps[list[StoredEvent]]:
        """The events that documents of the log hold, or that their stubs stand for."""
        if any(ARCHIVED in document for document in documents):
            documents = yield self._aside(restored, documents, self._archive)
        return [StoredEvent.from_document(document) for document in documents]

    def stream(
        self,
        stream_id: str,
        from_version: int | None,
        to_version: int | None,
        backwards: bool,
        limit: int | None,
    ) -> Steps[list[StoredEvent]]:
        if limit == 0:
            return []
        condition: dict[str, Any] = {"aggregateId": stream_id}
        versions = _between("$gte", from_version, to_version)
        if versions:
            condition["version"] = versions
        order = -1 if backwards else 1
        cursor = self._events.find(condition, sort=[("aggregateId", order), ("version", order)])
        events = yield from self.events((yield _limited(cursor, limit).to_list()))
        if events:
            self._saw({stream_id: events[0 if backwards else -1].version})
        return events

    def streams(
        self, stream_ids: Iterable[str], to_version: int | None
    ) -> Steps[dict[str, list[StoredEvent]]]:
        streams: dict[str, list[StoredEvent]] = {}
        condition: dict[str, Any] = {"aggregateId": {"$in": list(stream_ids)}}
        if to_version is not None:
            condition["version"] = {"$lte": to_version}
        cursor = self._events.find(condition, sort=[("aggregateId", 1), ("version", 1)])
        for event in (yield from self.events((yield cursor.to_list()))):
            streams.setdefault(event.stream_id, []).append(event)
        self._saw({stream: events[-1].version for stream, events in streams.items()})
        return streams

    def correlation(self, correlation_id: str) -> Steps[list[StoredEvent]]:
        cursor = self._events.find({"correlationId": correlation_id}, sort=[("position", 1)])
        return (yield from self.events((yield cursor.to_list())))

    def commands(self, command_ids: Iterable[str]) -> Steps[dict[str, StoredEvent]]:
        cursor = self._events.find({"commandId": {"$in": list(command_ids)}})
        events = yield from self.events((yield cursor.to_list()))
        return {event.command_id: event for event in events if event.command_id is not None}

    def version(self, stream_id: str) -> Steps[int | None]:
        last = yield self._events.find_one(
            {"aggregateId": stream_id}, {"_id": 0, "version": 1}, sort=[("aggregateId", -1), ("version", -1)]
        )
        return None if last is None else int(last["version"])

    def head(self) -> Steps[int]:
        counter: Mapping[str, Any] | None = yield self._counters.find_one({"_id": EVENTS}, {"position": 1})
        return 0 if counter is None else int(counter["position"])

    def checkpoint(self, name: str) -> Steps[int]:
        found: Mapping[str, Any] | None = yield self._checkpoints.find_one({"_id": name}, {"position": 1})
        return 0 if found is None else int(found["position"])

    def log(self, after: int, up_to: int | None, limit: int | None, only: EventFilter) -> Any:
        """A cursor over the documents wanted, in position order; None where none can be."""
        check_after(after)
        if limit == 0:
            return None
        condition = {"position": _between("$gt", after, up_to), **only.condition()}
        return _limited(self._events.find(condition, sort=[("position", 1)]), limit)


def check_after(position: int) -> None:
    """Raise ValueError for what is no position to read after; 0 is the beginning."""
    if position < 0:
        raise ValueError(f"A log is read after position 0 or more, not {position}.")


def check_next(event: StoredEvent, expected: int) -> None:
    """Raise LogCorrupted if an event is not at the position that follows the one before."""
    if event.position != expected:
        raise LogCorrupted(
            f"The event log has no event at position {expected}; the next one is {event.position}.",
            "The log was changed from outside or restored in part: restore it from one backup.",
        )


def _between(lower: str, first: int | None, last: int | None) -> dict[str, int]:
    bounds = ((lower, first), ("$lte", last))
    return {operator: bound for operator, bound in bounds if bound is not None}


def _limited(cursor: Any, limit: int | None) -> Any:
    if limit is None:
        return cursor
    if limit < 0:
        raise ValueError(f"A limit is 0 or more, not {limit}.")
    return cursor.limit(limit)
