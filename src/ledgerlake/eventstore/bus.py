"""The event bus: hands committed events to subscribers in this process, in position order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ledgerlake.eventstore.model import StoredEvent

log = logging.getLogger(__name__)

Subscriber: TypeAlias = Callable[[StoredEvent], None]


class EventBus:
    """Hands over events after their commit, never before.

    A notification is a hint, not a record: what a process missed is in the log, and projections read
    it there. So a subscriber that fails is logged and disturbs neither the writer nor the others.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[tuple[Subscriber, frozenset[str] | None], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def subscribe(
        self, subscriber: Subscriber, *, event_types: Sequence[str] | None = None
    ) -> Callable[[], None]:
        """Call `subscriber` with every committed event (of these types); returns how to stop that."""
        entry = (subscriber, None if event_types is None else frozenset(event_types))
        self._subscribers = (*self._subscribers, entry)

        def unsubscribe() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not entry)

        return unsubscribe

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Hand the events to every subscriber that takes their type."""
        for event in events:
            for subscriber, types in self._subscribers:
                if types is not None and event.event_type not in types:
                    continue
                try:
                    subscriber(event)
                except Exception:
                    log.exception(
                        "A subscriber failed on event %s (position %d).", event.event_type, event.position
                    )
