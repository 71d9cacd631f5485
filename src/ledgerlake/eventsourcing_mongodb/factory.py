"""The factory that the package makes of PERSISTENCE_MODULE=ledgerlake.eventsourcing_mongodb."""

from __future__ import annotations

from typing import cast

from eventsourcing.persistence import InfrastructureFactory, ProgrammingError
from eventsourcing.utils import Environment, EnvType, resolve_topic
from typing_extensions import TypeVar  # a default is for Python 3.13; the package brings this one

from ledgerlake.eventsourcing_mongodb.datastore import MongoDBDatastore
from ledgerlake.eventsourcing_mongodb.environment import creates_tables, id_type_of, settings_of
from ledgerlake.eventsourcing_mongodb.recorders import (
    MongoDBAggregateRecorder,
    MongoDBApplicationRecorder,
    MongoDBProcessRecorder,
)
from ledgerlake.eventsourcing_mongodb.tracking import MongoDBRecorder, MongoDBTrackingRecorder

R = TypeVar("R", bound=MongoDBRecorder)
V = TypeVar("V", bound=MongoDBTrackingRecorder, default=MongoDBTrackingRecorder)


class MongoDBFactory(InfrastructureFactory[MongoDBTrackingRecorder]):
    """Constructs the recorders of one application, on a database of its own.

    Raises OSError for an environment that cannot work, OperationalError if no suitable server answers.
    """

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        self.datastore = MongoDBDatastore(settings_of(self.env), originator_id_type=id_type_of(self.env))

    def aggregate_recorder(self, purpose: str = "events") -> MongoDBAggregateRecorder:
        return self._ready(MongoDBAggregateRecorder(self.datastore, purpose=purpose))

    def application_recorder(self) -> MongoDBApplicationRecorder:
        kind = self._kind(self.APPLICATION_RECORDER_TOPIC, MongoDBApplicationRecorder)
        return self._ready(kind(self.datastore))

    def tracking_recorder(self, tracking_recorder_class: type[V] | None = None) -> V:
        """The view that is asked for, or that the environment names, or one that does nothing but track."""
        kind: type[MongoDBTrackingRecorder] = tracking_recorder_class or self._kind(
            self.TRACKING_RECORDER_TOPIC, MongoDBTrackingRecorder
        )
        if not issubclass(kind, MongoDBTrackingRecorder):
            raise ProgrammingError(f"{kind.__qualname__} is no subclass of MongoDBTrackingRecorder.")
        return self._ready(cast("type[V]", kind)(self.datastore))

    def process_recorder(self) -> MongoDBProcessRecorder:
        kind = self._kind(self.PROCESS_RECORDER_TOPIC, MongoDBProcessRecorder)
        return self._ready(kind(self.datastore))

    def close(self) -> None:
        """Commit what is queued and close the connection. Idempotent."""
        self.datastore.close()

    def _kind(self, variable: str, default: type[R]) -> type[R]:
        """The class that the environment names, else the default."""
        topic = self.env.get(variable)
        if not topic:
            return default
        kind = resolve_topic(topic)
        if not (isinstance(kind, type) and issubclass(kind, default)):
            raise ProgrammingError(f"{variable}={topic!r} is no subclass of {default.__name__}.")
        return kind

    def _ready(self, recorder: R) -> R:
        if creates_tables(self.env):
            recorder.create_table()
        return recorder
