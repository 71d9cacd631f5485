"""The query bus: typed questions, typed answers, middleware around them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from pymongo.errors import OperationFailure

from ledgerlake.eventstore.contract import EventReader
from ledgerlake.mongo.transactions import backoff
from ledgerlake.queries.freshness import Freshness, NotYet, Reading
from ledgerlake.queries.model import Db, DocumentQuery, LogQuery, PaymentNotFound, Query, QueryError

R = TypeVar("R")
Question: TypeAlias = Query[Any] | DocumentQuery[Any] | LogQuery[Any]
Ask: TypeAlias = Callable[[Question], Any]
Middleware: TypeAlias = Callable[[Question, Ask], Any]

# What a read model that was exchanged or dropped under a query leads to: SnapshotUnavailable,
# SnapshotTooOld, QueryPlanKilled, CursorNotFound. The next moment has another snapshot, and its collection.
_ASK_AGAIN: Final = frozenset({246, 239, 175, 43})
_GIVE_UP_AFTER_SECONDS: Final = 10.0


class QueryBus:
    """Answers queries from the read models; middleware (a cache, a log) wraps `ask`, first one outermost.

    Args:
        log: opens the event log when a question about the past first needs it.
        freshness: the board of checkpoints, shared with the cache; without one they are read every time.
    """

    def __init__(
        self,
        db: Db,
        middleware: Sequence[Middleware] = (),
        log: Callable[[], EventReader] | None = None,
        freshness: Freshness | None = None,
    ) -> None:
        self._db = db
        self._log = log
        self._freshness = Freshness(db) if freshness is None else freshness
        chain: Ask = self._answer
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain

    def ask(
        self,
        query: Query[R] | DocumentQuery[R] | LogQuery[R],
        *,
        wait_for: int | None = None,
        timeout: float = 5.0,
    ) -> R:
        """The answer, of the type that the query has.

        Args:
            wait_for: a position, such as that of an event that was stored just now: the answer holds every
                event up to it.
            timeout: seconds to wait for that at most.

        Raises:
            QueryError: the question is wrong.
            PaymentNotFound: there is no such payment (yet).
            NotYet: the read model has not come to the position in time; says where it stands.
        """
        if wait_for is not None:
            self._wait(query, wait_for, timeout)
        result: R = self._chain(query)
        return result

    def _answer(self, query: Any) -> Any:
        # Every miss comes through here, and a look at a protocol takes long.
        kind: Any = type(query)
        if hasattr(kind, "answer_at"):
            return self._looked_up(query)
        if hasattr(kind, "answer"):
            return self._read(query)
        log = self._opened(query)
        return query.answer_from(log, self._db)

    def _looked_up(self, query: Any) -> Any:
        reading = self._freshness.reading()
        while True:
            try:
                return query.answer_at(reading)
            except PaymentNotFound:
                # Not there, or no longer in a collection that was exchanged since and dropped.
                again = self._freshness.now()
                if again.same_models(reading, query.reads):
                    raise
                reading = again

    def _read(self, query: Any) -> Any:
        deadline = time.monotonic() + _GIVE_UP_AFTER_SECONDS
        tries = 0
        before: Reading = self._freshness.reading()
        while True:
            try:
                answer = query.answer(self._db)
            except OperationFailure as error:
                if error.code not in _ASK_AGAIN or time.monotonic() > deadline:
                    raise
                tries += 1
                backoff(tries)
                before = self._freshness.now()
                continue
            # A collection that was dropped answers as if it were empty: it counts only if it was live all
            # along. Nor does a server that has just become primary, and may not know yet what was committed.
            after = self._freshness.now()
            if after.same_models(before, query.reads):
                return answer
            before = after

    def _wait(self, query: Question, position: object, timeout: object) -> None:
        if type(position) is not int or not 0 <= position < 2**63:
            raise QueryError(f"wait_for is a position, a whole number from 0, not {position!r}.")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
            raise QueryError(f"timeout is a number of seconds from 0, not {timeout!r}.")
        if isinstance(query, Query | DocumentQuery):
            self._freshness.wait_for(query.reads, position, timeout)
        elif (head := self._opened(query).head()) < position:
            # What was appended is in the log: a position beyond its end is none that anybody was given.
            raise NotYet("The log", head, position, "Take the position of an event that was appended.")

    def _opened(self, query: Any) -> EventReader:
        if not isinstance(query, LogQuery):
            raise QueryError(f"{query!r} is no query.")
        if self._log is None:
            raise QueryError(f"{type(query).__name__} asks the log, which this query bus was not given.")
        return self._log()


def _wrap(layer: Middleware, inner: Ask) -> Ask:
    return lambda query: layer(query, inner)
