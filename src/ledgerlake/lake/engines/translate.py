"""The texts' SQL, DuckDB's dialect in its portable subset, as Spark understands it."""

from __future__ import annotations

from functools import cache

import sqlglot
from sqlglot import exp


@cache
def to_spark(query: str) -> tuple[str, tuple[str, ...]]:
    """One statement in Spark's dialect, and the names of its parameters: `$name` becomes `:name`.

    Parameters stay parameters, which Spark binds itself: no value ever becomes part of a text.
    """
    tree = sqlglot.parse_one(query, read="duckdb")
    names = tuple(dict.fromkeys(each.name for each in tree.find_all(exp.Placeholder)))
    return tree.transform(_translate).sql(dialect="spark", comments=False), names


def _translate(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.AtTimeZone):
        # Of an instant, as in all our texts: the time on the wall there, which has no zone.
        wall = exp.func("FROM_UTC_TIMESTAMP", node.this, node.args["zone"])
        return exp.cast(wall, "TIMESTAMP_NTZ", dialect="spark")
    return node
