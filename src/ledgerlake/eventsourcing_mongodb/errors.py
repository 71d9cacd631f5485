"""This store's errors, and the driver's, as the package's: its applications know no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bson.errors import BSONError
from eventsourcing.persistence import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    PersistenceError,
)
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.model import (
    CheckpointConflict,
    CommandIdReused,
    ConcurrencyError,
    EventStoreError,
    EventTooLarge,
    LogCorrupted,
    StoreUnavailable,
)

_DUPLICATE_KEY: Final = 11000

# The first that fits counts, so the special ones stand before the general.
_MEANING: Final[tuple[tuple[tuple[type[Exception], ...], type[PersistenceError]], ...]] = (
    ((ConcurrencyError, CheckpointConflict, CommandIdReused, DuplicateKeyError), IntegrityError),
    ((StoreUnavailable, ConnectionFailure, ExecutionTimeout, WriteConcernError), OperationalError),
    ((EventTooLarge, BSONError), DataError),
    ((LogCorrupted,), InternalError),
    ((EventStoreError, OperationFailure), DatabaseError),
    ((InvalidOperation,), InterfaceError),
    ((LedgerLakeError, PyMongoError), PersistenceError),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raises what the package's applications catch, with the original as its cause."""
    try:
        yield
    except (LedgerLakeError, PyMongoError, BSONError) as error:
        raise _meaning(error)(str(error)) from error


def _meaning(error: Exception) -> type[PersistenceError]:
    if isinstance(error, BulkWriteError):
        codes = {each.get("code") for each in (error.details or {}).get("writeErrors", ())}
        return IntegrityError if _DUPLICATE_KEY in codes else DatabaseError
    return next(meaning for kinds, meaning in _MEANING if isinstance(error, kinds))
