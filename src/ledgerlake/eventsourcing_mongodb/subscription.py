"""Subscription: an application's notifications, those there are and then those to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eventsourcing.persistence import Notification, Subscription

from ledgerlake.eventsourcing_mongodb.errors import translated
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter

if TYPE_CHECKING:
    from ledgerlake.eventsourcing_mongodb.recorders import MongoDBApplicationRecorder


class MongoDBSubscription(Subscription["MongoDBApplicationRecorder"]):
    """Follows the log in the thread that iterates, until `stop`, from any thread, or the application's end.

    Iterating raises InternalError at a gap in the log, DatabaseError if the log ends before `gt` (it was
    restored from an older backup), OperationalError if it could not be read for about a minute.
    """

    def __init__(
        self, recorder: MongoDBApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._events = recorder.datastore.subscriptions.subscribe(
            after=max(0, gt or 0), only=only_topics(topics)
        )

    def stop(self) -> None:
        super().stop()
        self._events.close()

    def __next__(self) -> Notification:
        with translated():
            event = next(self._events, None)
        if event is None:
            raise StopIteration
        return self._recorder.notification(event)


def only_topics(topics: Sequence[str]) -> EventFilter:
    """Events of these topics; of all, where none is named."""
    return EventFilter.of(event_types=topics) if topics else EVERYTHING
