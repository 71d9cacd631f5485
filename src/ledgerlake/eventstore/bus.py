"""The event bus: hands committed events to subscribers in this process, in position order."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ledgerlake.eventstore.model import StoredEvent

log = logging.getLogger(__name__)

Subscriber: TypeAlias = Callable[[StoredEvent], None]


class EventBus:
    """Hands over events after their commit, never before, on a thread of its own.

    A notification is a hint, not a record: what a process missed is in the log, and projections read
    it there. So a subscriber that fails is logged, and one that is slow or appends events itself holds
    up neither the writers nor the commit; it only hears the next event later.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[tuple[Subscriber, frozenset[str] | None], ...] = ()
        self._committed: queue.SimpleQueue[Sequence[StoredEvent] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def subscribe(
        self, subscriber: Subscriber, *, event_types: Sequence[str] | None = None
    ) -> Callable[[], None]:
        """Call `subscriber` with every event (of these types) that is committed; returns how to stop it."""
        entry = (subscriber, None if event_types is None else frozenset(event_types))
        with self._lock:
            self._subscribers = (*self._subscribers, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="ledgerlake-event-bus", daemon=True)
                self._thread.start()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not entry)

        return unsubscribe

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Queue committed events for the subscribers, in position order; returns at once."""
        if self._subscribers:
            self._committed.put(events)

    def close(self) -> None:
        """Hand over what is queued, then end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._committed.put(None)
            if thread is not threading.current_thread():
                thread.join()

    def _serve(self) -> None:
        while (events := self._committed.get()) is not None:
            for event in events:
                for subscriber, types in self._subscribers:
                    if types is None or event.event_type in types:
                        _hand_over(subscriber, event)


def _hand_over(subscriber: Subscriber, event: StoredEvent) -> None:
    try:
        subscriber(event)
    except BaseException:  # SystemExit too: the other subscribers live on
        log.exception("A subscriber failed on event %s (position %d).", event.event_type, event.position)
