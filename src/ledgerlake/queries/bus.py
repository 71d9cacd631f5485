"""The query bus: typed questions, typed answers, middleware around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from ledgerlake.eventstore.contract import EventReader
from ledgerlake.queries.model import Db, LogQuery, Query, QueryError

R = TypeVar("R")
Question: TypeAlias = Query[Any] | LogQuery[Any]
Ask: TypeAlias = Callable[[Question], Any]
Middleware: TypeAlias = Callable[[Question, Ask], Any]


class QueryBus:
    """Answers queries from the read models; middleware (a cache, a log) wraps `ask`, first one outermost.

    `log` opens the event log when a question about the past first needs it.
    """

    def __init__(
        self,
        db: Db,
        middleware: Sequence[Middleware] = (),
        log: Callable[[], EventReader] | None = None,
    ) -> None:
        def answer(query: Question) -> Any:
            if isinstance(query, Query):
                return query.answer(db)
            if log is None:
                raise QueryError(f"{type(query).__name__} asks the log, which this query bus was not given.")
            return query.answer_from(log(), db)

        chain: Ask = answer
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain

    def ask(self, query: Query[R] | LogQuery[R]) -> R:
        """The answer, of the type that the query has.

        Raises:
            QueryError: the question is wrong.
            PaymentNotFound: there is no such payment (yet).
        """
        if not isinstance(query, Query | LogQuery):
            raise QueryError(f"{query!r} is no query.")
        result: R = self._chain(query)
        return result


def _wrap(layer: Middleware, inner: Ask) -> Ask:
    return lambda query: layer(query, inner)
