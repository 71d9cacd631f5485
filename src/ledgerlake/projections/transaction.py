"""One transaction with a known end: what a projection and its checkpoint move in."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.transactions import (
    CONCERNS,
    UnknownCommit,
    backoff,
    commit_until_known,
    is_transient,
)
from ledgerlake.projections.model import ProjectionError

T = TypeVar("T")

GIVE_UP_AFTER_SECONDS: Final = 60.0
# Lifetime exceeded; transaction too large; too large for the cache. A smaller one may pass.
_TOO_LARGE: Final = frozenset({290, 257, 388})
# A transaction that was lost after this long was most likely ended for its age (the server allows 3 s
# when embedded), or pushed out of the cache: repeating it as it was would end the same way.
_OLD_AFTER_SECONDS: Final = 1.5


class TooLarge(LedgerLakeError):
    """The transaction took longer, or grew larger, than the server allows."""


class CommitUnknown(ProjectionError):
    """MongoDB did not say whether a transaction was committed. What is stored tells, when it is run again."""


def in_transaction(db: Database[dict[str, Any]], body: Callable[[ClientSession], T]) -> T:
    """Run `body` in a majority transaction on one snapshot, again after errors that pass, and commit it.

    `body` may run several times; only its last run counts. A falsy result aborts the transaction.

    Raises:
        TooLarge: do less in one transaction.
        CommitUnknown: the server did not say within GIVE_UP_AFTER_SECONDS whether it is committed.
        PyMongoError: it was not committed.
    """
    deadline = time.monotonic() + GIVE_UP_AFTER_SECONDS
    tries = 0
    while True:
        started = time.monotonic()
        try:
            with db.client.start_session(causal_consistency=False) as session:
                session.start_transaction(**CONCERNS)
                result = body(session)
                if result:
                    commit_until_known(session, deadline)
                else:
                    session.abort_transaction()
                return result
        except UnknownCommit as error:
            raise CommitUnknown(
                f"MongoDB did not say whether it was written ({error}).",
                "Run it again: the checkpoint tells.",
            ) from error
        except PyMongoError as error:
            code = error.code if isinstance(error, OperationFailure) else None
            if code in _TOO_LARGE:
                raise _too_large(error) from error
            if not is_transient(error):
                raise
            if code is not None and time.monotonic() - started > _OLD_AFTER_SECONDS:
                raise _too_large(error) from error
            if time.monotonic() > deadline:
                raise
        tries += 1
        backoff(tries)


def _too_large(error: PyMongoError) -> TooLarge:
    return TooLarge(
        f"MongoDB ended the transaction: {error}.",
        "The server is overloaded, or its transactionLifetimeLimitSeconds is too low.",
    )
