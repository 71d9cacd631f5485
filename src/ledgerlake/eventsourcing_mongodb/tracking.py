"""Tracking: which upstream notification was the last to be processed, recorded with what came of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from eventsourcing.persistence import Recorder, Tracking, TrackingRecorder
from pymongo.client_session import ClientSession

from ledgerlake.eventsourcing_mongodb.datastore import MongoDBDatastore
from ledgerlake.eventsourcing_mongodb.errors import translated
from ledgerlake.eventstore.model import CheckpointMove
from ledgerlake.mongo.indexes import SUBSCRIPTIONS


class MongoDBRecorder(Recorder):
    """What all recorders have: the datastore, and collections that may have to be created."""

    def __init__(self, datastore: MongoDBDatastore, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore = datastore

    def create_table(self) -> None:
        """Create the collections and indexes that are missing."""


class MongoDBTrackingRecorder(MongoDBRecorder, TrackingRecorder):
    """Keeps the highest notification id that was processed of each upstream application.

    A subclass is a materialised view: it writes its documents by `record`, together with the tracking.
    """

    def create_table(self) -> None:
        super().create_table()
        self.datastore.ensure([SUBSCRIPTIONS])

    def insert_tracking(self, tracking: Tracking) -> None:
        """Raises IntegrityError unless the notification id is higher than all before it."""
        with translated():
            self._move(tracking, None)

    def record(self, tracking: Tracking, write: Callable[[ClientSession], None]) -> None:
        """Insert the tracking, and what `write` writes with the session that it is given, in one transaction.

        `write` may be called again where the transaction did not come about. Raises IntegrityError as
        `insert_tracking` does, before `write` is called.
        """

        def body(session: ClientSession) -> None:
            self._move(tracking, session)
            write(session)

        self.datastore.transact(body)

    def max_tracking_id(self, application_name: str) -> int | None:
        with translated():
            found = self.datastore.collection(SUBSCRIPTIONS).find_one(
                {"_id": checkpoint_of(application_name)}
            )
        return None if found is None else int(found["position"])

    def _move(self, tracking: Tracking, session: ClientSession | None) -> None:
        # Where the position is as high or higher, the filter fits nothing and the upsert meets the _id.
        self.datastore.collection(SUBSCRIPTIONS).update_one(
            {
                "_id": checkpoint_of(tracking.application_name),
                "position": {"$lt": Int64(tracking.notification_id)},
            },
            {"$set": {"position": Int64(tracking.notification_id), "updatedAt": datetime.now(UTC)}},
            upsert=True,
            session=session,
        )


def checkpoint_of(application_name: str) -> str:
    """Names the checkpoint that tracks an upstream application, apart from those of subscriptions."""
    return f"tracking:{application_name}"


def checkpoint_move(tracking: Tracking) -> CheckpointMove:
    """The tracking as part of an append's transaction."""
    return CheckpointMove(checkpoint_of(tracking.application_name), tracking.notification_id)
