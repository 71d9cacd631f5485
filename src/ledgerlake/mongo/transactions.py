"""What every transaction here needs: telling errors that pass from those that stay, and a known end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.errors import ConnectionFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from ledgerlake.mongo.steps import Steps, run

# Options of start_transaction: a commit has a majority and the journal, what is read is one snapshot.
CONCERNS: dict[str, Any] = {
    "read_concern": ReadConcern("snapshot"),
    "write_concern": WriteConcern(w="majority", j=True),
    "read_preference": ReadPreference.PRIMARY,
}


class UnknownCommit(Exception):
    """The server did not say within the time limit whether the transaction was committed."""


def is_transient(error: PyMongoError) -> bool:
    """Whether the transaction did not happen and may be run again from its start."""
    return error.has_error_label("TransientTransactionError") or isinstance(error, ConnectionFailure)


def commit_until_known(session: ClientSession, deadline: float) -> None:
    """Commit, and where the result is unknown ask again on the same session until it is known.

    Args:
        deadline: on the clock of time.monotonic().

    Raises:
        UnknownCommit: still unknown at the deadline.
        PyMongoError: the transaction was not committed; see `is_transient`.
    """
    run(commit_steps(session, deadline, time.sleep))


def commit_steps(session: Any, deadline: float, sleep: Callable[[float], Any]) -> Steps[None]:
    """`commit_until_known` for a session and a sleep of either driver."""
    while True:
        try:
            yield session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult"):
                raise
            if time.monotonic() > deadline:
                raise UnknownCommit(f"{type(error).__name__}: {error}") from error
            yield sleep(random.uniform(0.01, 0.1))
        else:
            return


def backoff(tries: int) -> None:
    """Sleep for `backoff_seconds`."""
    time.sleep(backoff_seconds(tries))


def backoff_seconds(tries: int) -> float:
    """A random while that grows with the number of tries, up to 0.1 s: contenders fall out of step."""
    return random.uniform(0, min(0.1, 0.001 * 2 ** min(tries, 7)))
