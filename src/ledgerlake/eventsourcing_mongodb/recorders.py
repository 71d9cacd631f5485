"""Recorders of events: in the log (applications), or in a collection of their own (snapshots)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from bson.int64 import Int64
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    IntegrityError,
    Notification,
    OperationalError,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)
from pymongo import ASCENDING, DESCENDING
from pymongo.client_session import ClientSession

from ledgerlake.eventsourcing_mongodb.appends import Save, appends_of, starts_at_zero
from ledgerlake.eventsourcing_mongodb.datastore import MAX_APPENDS, MongoDBDatastore
from ledgerlake.eventsourcing_mongodb.errors import translated
from ledgerlake.eventsourcing_mongodb.subscription import MongoDBSubscription, only_topics
from ledgerlake.eventsourcing_mongodb.tracking import (
    MongoDBRecorder,
    MongoDBTrackingRecorder,
    checkpoint_move,
)
from ledgerlake.eventstore.model import Append, Appended
from ledgerlake.eventstore.model import StoredEvent as LoggedEvent
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, INDEXES, LOG_CHAIN, SUBSCRIPTIONS, Index

_LOG = (EVENTS, COUNTERS, LOG_CHAIN, SUBSCRIPTIONS)
_LOG_INDEXES = tuple(index for index in INDEXES if index.collection in _LOG)


class MongoDBAggregateRecorder(MongoDBRecorder, AggregateRecorder):
    """Events of aggregates that are in no application's sequence: snapshots, which leave versions out."""

    def __init__(self, datastore: MongoDBDatastore, *, purpose: str = "events") -> None:
        super().__init__(datastore)
        self._name = f"eventsourcing_{purpose}"
        self._documents = datastore.collection(self._name)

    def create_table(self) -> None:
        super().create_table()
        unique = Index(
            self._name,
            f"{self._name}_originator",
            (("originatorId", ASCENDING), ("originatorVersion", ASCENDING)),
            "one aggregate's events in order; no version is written twice",
            unique=True,
        )
        self.datastore.ensure([self._name], [unique])

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> None:
        """All or none. Raises IntegrityError if one of these versions is there already."""
        documents = [
            {
                "originatorId": self.datastore.stream_id(event.originator_id),
                "originatorVersion": Int64(event.originator_version),
                "topic": event.topic,
                "state": event.state,
            }
            for event in stored_events
        ]
        if len(documents) == 1:
            with translated():
                self._documents.insert_one(documents[0])
        elif documents:

            def insert(session: ClientSession) -> None:
                self._documents.insert_many(documents, session=session)

            self.datastore.transact(insert)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        versions = {name: bound for name, bound in (("$gt", gt), ("$lte", lte)) if bound is not None}
        found: dict[str, Any] = {"originatorId": self.datastore.stream_id(originator_id)}
        if versions:
            found["originatorVersion"] = versions
        if limit is not None and limit < 1:
            return []
        with translated():
            cursor = self._documents.find(found, limit=limit or 0)
            return [
                StoredEvent(
                    originator_id=self.datastore.originator_id(document["originatorId"]),
                    originator_version=document["originatorVersion"],
                    topic=document["topic"],
                    state=document["state"],
                )
                for document in cursor.sort("originatorVersion", DESCENDING if desc else ASCENDING)
            ]


class MongoDBApplicationRecorder(MongoDBRecorder, ApplicationRecorder):
    """An application's events in the log of its database: an aggregate is a stream, an id a position."""

    def create_table(self) -> None:
        super().create_table()
        self.datastore.ensure(_LOG, _LOG_INDEXES)

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> list[int]:
        """Store the events, all or none; returns their positions, in the order of the events.

        Raises:
            IntegrityError: a version that is taken, or one that does not follow its aggregate's last.
            OperationalError: not confirmed in time. It may have been stored: load the aggregates again.
        """
        return self._insert(Save.of(stored_events, self.datastore.stream_id))

    def _insert(self, save: Save, tracking: Tracking | None = None) -> list[int]:
        from_zero: set[str] = set()
        asked_again = False
        while True:
            appends = appends_of(save, from_zero)
            try:
                with translated():
                    appended = self._append(appends, tracking)
            except IntegrityError as refused:
                stream = starts_at_zero(refused.__cause__)
                if stream is None or stream in from_zero:
                    raise
                from_zero.add(stream)
            except OperationalError:
                if asked_again or not appends:
                    raise
                # It may be stored. Under the ids of this save the answer is the same either way, and the
                # application, which has none, could not ask.
                asked_again = True
            else:
                return [
                    position
                    for append, done in zip(appends, appended, strict=True)
                    for position in range(done.position - len(append.events) + 1, done.position + 1)
                ]

    def _append(self, appends: Sequence[Append], tracking: Tracking | None) -> list[Appended]:
        if len(appends) > MAX_APPENDS:
            raise DataError(
                f"A save of {len(appends):,} runs of events, each of one aggregate, exceeds {MAX_APPENDS:,}."
                " Divide it."
            )
        if tracking is not None:
            return self.datastore.store.append_atomically(appends, checkpoint_move(tracking))
        if len(appends) > 1:
            return self.datastore.store.append_atomically(appends)
        # One aggregate, as it mostly is: nothing has to be undone for another one's sake.
        return [self.datastore.store.append(append) for append in appends]

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        with translated():
            events = self.datastore.store.read_stream(
                self.datastore.stream_id(originator_id),
                from_version=None if gt is None else gt + 1,
                to_version=lte,
                backwards=desc,
                limit=limit,
            )
        return [
            StoredEvent(
                originator_id=self.datastore.originator_id(event.stream_id),
                originator_version=event.version,
                topic=event.event_type,
                state=event.data["state"],
            )
            for event in events
        ]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> list[Notification]:
        after = 0 if start is None else max(0, start - 1 if inclusive_of_start else start)
        with translated():
            events = self.datastore.store.read_all(after, up_to=stop, limit=limit, only=only_topics(topics))
            return [self.notification(event) for event in events]

    def notification(self, event: LoggedEvent) -> Notification:
        """An event of the log as the package sees it."""
        return Notification(
            id=event.position,
            originator_id=self.datastore.originator_id(event.stream_id),
            originator_version=event.version,
            topic=event.event_type,
            state=event.data["state"],
        )

    def max_notification_id(self) -> int | None:
        with translated():
            return self.datastore.store.head() or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[MongoDBApplicationRecorder]:
        return MongoDBSubscription(self, gt=gt, topics=topics)


class MongoDBProcessRecorder(MongoDBTrackingRecorder, MongoDBApplicationRecorder, ProcessRecorder):
    """An application that processes another one's events: what comes of one is stored with its tracking."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> list[int]:
        """As of an application; with `tracking`, in the transaction that records it, or not at all."""
        tracking: Tracking | None = kwargs.get("tracking")
        cause = None if tracking is None else f"{tracking.application_name}:{tracking.notification_id}"
        return self._insert(Save.of(stored_events, self.datastore.stream_id, cause=cause), tracking)
