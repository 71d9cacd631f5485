"""The persistence module for applications written with the `eventsourcing` package (9.5).

With PERSISTENCE_MODULE=ledgerlake.eventsourcing_mongodb such an application keeps its events in this event
store: notification ids are positions of the log, gapless and visible in order, and what many threads save
at once is committed together. docs/eventsourcing.md has the settings and an example.
"""

from __future__ import annotations

from ledgerlake.eventsourcing_mongodb.datastore import MongoDBDatastore
from ledgerlake.eventsourcing_mongodb.factory import MongoDBFactory
from ledgerlake.eventsourcing_mongodb.recorders import (
    MongoDBAggregateRecorder,
    MongoDBApplicationRecorder,
    MongoDBProcessRecorder,
)
from ledgerlake.eventsourcing_mongodb.subscription import MongoDBSubscription
from ledgerlake.eventsourcing_mongodb.tracking import MongoDBTrackingRecorder

Factory = MongoDBFactory

__all__ = [
    "Factory",
    "MongoDBAggregateRecorder",
    "MongoDBApplicationRecorder",
    "MongoDBDatastore",
    "MongoDBFactory",
    "MongoDBProcessRecorder",
    "MongoDBSubscription",
    "MongoDBTrackingRecorder",
]
