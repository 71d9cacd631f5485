"""One application's place in MongoDB: the connection, the database, the event store on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from eventsourcing.persistence import DataError, InterfaceError, OperationalError
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventsourcing_mongodb.environment import IdType
from ledgerlake.eventsourcing_mongodb.errors import translated
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import connect
from ledgerlake.mongo.indexes import Index, ensure_schema
from ledgerlake.mongo.transactions import CONCERNS
from ledgerlake.settings import Settings
from ledgerlake.subscriptions.subscriptions import Subscriptions

Document: TypeAlias = dict[str, Any]

# A save is one request, however many aggregates it is of. What bounds a batch is its size in bytes.
MAX_APPENDS: Final = 10_000

# How often a subscription looks while its change stream is not at work yet; the package's waits are short.
_POLL_SECONDS: Final = 0.05


class MongoDBDatastore:
    """What the recorders of one application share. Safe for use from any number of threads."""

    def __init__(self, settings: Settings, *, originator_id_type: IdType = "uuid") -> None:
        """Connects at once. Raises OperationalError if no suitable server answers."""
        self.originator_id_type = originator_id_type
        self._settings = settings
        self._lock = threading.Lock()
        self._store: EventStore | None = None
        self._subscriptions: Subscriptions | None = None
        self._closed = False
        try:
            self.client = connect(settings, "ledgerlake-eventsourcing")
        except LedgerLakeError as error:
            raise OperationalError(str(error)) from error
        self.database = self.client[settings.database]

    @property
    def store(self) -> EventStore:
        """The event store, opened when it is first asked for: a view without events needs no committer."""
        with self._lock:
            if self._store is None:
                if self._closed:
                    raise InterfaceError("The application is closed. Construct it again.")
                self._store = EventStore(
                    self.database,
                    max_batch=MAX_APPENDS,
                    linger_seconds=self._settings.append_linger_ms / 1_000,
                )
            return self._store

    @property
    def subscriptions(self) -> Subscriptions:
        """The subscriptions of the log; one change stream wakes them all, whoever writes."""
        store = self.store
        with self._lock:
            if self._subscriptions is None:
                self._subscriptions = Subscriptions(self.database, store, poll_seconds=_POLL_SECONDS)
            return self._subscriptions

    def collection(self, name: str) -> Collection[Document]:
        """A collection beside the log, majority read and written."""
        return self.database[name]

    def ensure(self, collections: Sequence[str], indexes: Sequence[Index] = ()) -> None:
        """Create what is missing of these collections and indexes, and the log's counter."""
        with translated():
            ensure_schema(self.database, collections, indexes)

    def transact(self, write: Callable[[ClientSession], None]) -> None:
        """Run `write` in one majority-committed transaction, again where it did not come about."""
        with translated(), self.client.start_session() as session:
            session.with_transaction(write, **CONCERNS)

    def stream_id(self, originator_id: UUID | str) -> str:
        """The stream of an aggregate. Raises DataError for an id of the other type."""
        if isinstance(originator_id, UUID):
            return str(originator_id)
        if self.originator_id_type == "text":
            return originator_id
        try:
            return str(UUID(originator_id))
        except ValueError as error:
            raise DataError(
                f"{originator_id!r} is no UUID. Set ORIGINATOR_ID_TYPE=text to use such ids."
            ) from error

    def originator_id(self, stream_id: str) -> UUID | str:
        """The aggregate's id, in the type of the application."""
        return stream_id if self.originator_id_type == "text" else UUID(stream_id)

    def close(self) -> None:
        """Commit what is queued, end the subscriptions, hang up. Idempotent."""
        with self._lock:
            store, self._store, self._closed = self._store, None, True
            subscriptions = self._subscriptions
        if subscriptions is not None:
            subscriptions.close()
        if store is not None:
            store.close()
        self.client.close()
