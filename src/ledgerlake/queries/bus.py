"""The query bus: typed questions, typed answers, middleware around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from ledgerlake.queries.model import Db, Query, QueryError

R = TypeVar("R")
Ask: TypeAlias = Callable[[Query[Any]], Any]
Middleware: TypeAlias = Callable[[Query[Any], Ask], Any]


class QueryBus:
    """Answers queries from the read models; middleware (a cache, a log) wraps `ask`, first one outermost."""

    def __init__(self, db: Db, middleware: Sequence[Middleware] = ()) -> None:
        def answer(query: Query[Any]) -> Any:
            return query.answer(db)

        chain: Ask = answer
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain

    def ask(self, query: Query[R]) -> R:
        """The answer, of the type that the query has.

        Raises:
            QueryError: the question is wrong.
            PaymentNotFound: there is no such payment (yet).
        """
        if not isinstance(query, Query):
            raise QueryError(f"{query!r} is no query.")
        result: R = self._chain(query)
        return result


def _wrap(layer: Middleware, inner: Ask) -> Ask:
    return lambda query: layer(query, inner)
