"""Loading streams by way of their snapshots, and taking new ones off the path of whoever waits."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias

from pymongo.database import Database
from pymongo.errors import PyMongoError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.contract import EventReader
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.eventstore.snapshots import (
    Broken,
    S,
    Snapshot,
    SnapshotFormat,
    SnapshotPolicy,
    SnapshotStore,
)

log = logging.getLogger(__name__)

# A stream of fewer events is read as a whole: asking for its snapshot first would cost as much again.
SHORT_STREAM: Final = 10
# Snapshots waiting to be written. One that finds no room is taken again by a later load of its stream.
CAPACITY: Final = 1_000
CLOSE_WITHIN_SECONDS: Final = 5.0

_UNREADABLE: Final = (LedgerLakeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)

Task: TypeAlias = Snapshot | Broken


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A stream: the state that its snapshot holds, and the events after it. Without one: all its events."""

    state: S | None
    events: list[StoredEvent]


class Snapshots:
    """The snapshots of one database, by one policy. Close it: that writes what is waiting.

    Safe for use from any number of threads. Nothing here raises because a snapshot could not be read or
    written: that is logged, and streams are loaded as a whole.
    """

    def __init__(
        self, database: Database[dict[str, Any]], policy: SnapshotPolicy, *, capacity: int = CAPACITY
    ) -> None:
        self.policy = policy
        self.dropped = 0
        self._store = SnapshotStore(database)
        self._waiting: queue.Queue[Task | None] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def load(
        self, reader: EventReader, stream_ids: Collection[str], form: SnapshotFormat[S]
    ) -> dict[str, Loaded[S]]:
        """Each stream that has events, from its snapshot on where there is one that fits.

        Costs the events since the snapshot and one before, and up to SHORT_STREAM more.
        """
        every = self.policy.every.get(form.aggregate_type)
        if every is None:
            return _whole(reader, stream_ids)
        limit = min(SHORT_STREAM, every)
        loaded: dict[str, Loaded[S]] = {}
        if len(stream_ids) == 1:
            [stream_id] = stream_ids
            last = reader.read_stream(stream_id, backwards=True, limit=limit)
            if len(last) < limit:
                return {stream_id: Loaded(None, last[::-1])} if last else {}
            if last[0].version < every:
                return _whole(reader, stream_ids)
        else:
            first = reader.read_streams(stream_ids, to_version=limit)
            # One that ends before this version has no more events.
            loaded = {
                stream_id: Loaded(None, events)
                for stream_id, events in first.items()
                if events[-1].version < limit
            }
            stream_ids = first.keys() - loaded.keys()
            if not stream_ids:
                return loaded
        for stream_id, (snapshot, state) in self._usable(stream_ids, form).items():
            # Its own event comes along: it tells a snapshot of this stream from one of another history.
            events = reader.read_stream(stream_id, from_version=snapshot.version)
            if events and (events[0].version, events[0].event_id) == (snapshot.version, snapshot.event_id):
                loaded[stream_id] = Loaded(state, events[1:])
            else:
                self._discard(Broken(stream_id, snapshot.version, "the log has no such version, or another"))
        rest = [stream_id for stream_id in stream_ids if stream_id not in loaded]
        return loaded | _whole(reader, rest) if rest else loaded

    def loaded(self, form: SnapshotFormat[S], loaded: Loaded[S], state: S) -> None:
        """Have a snapshot taken of the state that the loaded stream comes to, if the policy says so.

        Only what was read from the log is ever kept, never what is about to be appended.
        """
        every = self.policy.every.get(form.aggregate_type)
        if every is None or len(loaded.events) < every:
            return
        last = loaded.events[-1]
        data = form.write(state)
        self._put(
            Snapshot(
                last.stream_id, form.aggregate_type, last.version, last.event_id, form.schema_version, data
            )
        )

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was waiting is written; False if it took longer than `timeout` seconds."""
        done = self._waiting.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._waiting.unfinished_tasks, timeout)

    def close(self) -> None:
        """Write what is waiting, for a few seconds at most, and take no more."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None:
            return
        if not self.flush(CLOSE_WITHIN_SECONDS):
            log.warning("%d snapshots were not written in time.", self._waiting.qsize())
            return
        self._waiting.put(None)
        thread.join()

    def _usable(self, stream_ids: Collection[str], form: SnapshotFormat[S]) -> dict[str, tuple[Snapshot, S]]:
        try:
            found = self._store.load(stream_ids)
        except PyMongoError as error:
            log.warning("Snapshots can not be read, streams are loaded as a whole: %s", error)
            return {}
        usable: dict[str, tuple[Snapshot, S]] = {}
        for stream_id, snapshot in found.items():
            if isinstance(snapshot, Broken):
                self._discard(snapshot)
            elif snapshot.aggregate_type != form.aggregate_type:
                self._discard(Broken(stream_id, snapshot.version, f"it is of a {snapshot.aggregate_type}"))
            elif snapshot.schema_version == form.schema_version:
                try:
                    usable[stream_id] = (snapshot, form.read(snapshot.data, snapshot.version))
                except _UNREADABLE as error:
                    self._discard(Broken(stream_id, snapshot.version, f"{type(error).__name__}: {error}"))
        return usable

    def _discard(self, broken: Broken) -> None:
        log.warning("The snapshot of %r is ignored and removed: %s.", broken.stream_id, broken.why)
        self._put(broken)

    def _put(self, task: Task) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="ledgerlake-snapshots", daemon=True)
                self._thread.start()
            try:
                self._waiting.put_nowait(task)
            except queue.Full:
                self.dropped += 1

    def _serve(self) -> None:
        while (task := self._waiting.get()) is not None:
            try:
                if isinstance(task, Snapshot):
                    self._store.save(task)
                else:
                    self._store.discard(task.stream_id, task.version)
            except Exception as error:  # noqa: BLE001 - whatever it is, no command may suffer from it
                log.warning("The snapshot of %r was not written: %s", task.stream_id, error)
            finally:
                self._waiting.task_done()
        self._waiting.task_done()


def _whole(reader: EventReader, stream_ids: Collection[str]) -> dict[str, Loaded[S]]:
    return {stream_id: Loaded(None, events) for stream_id, events in reader.read_streams(stream_ids).items()}
