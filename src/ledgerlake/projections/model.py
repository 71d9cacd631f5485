"""What a projection is: a name, a version, the columns that it takes, and three pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import polars as pl
from bson.raw_bson import RawBSONDocument

from ledgerlake.errors import LedgerLakeError

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Projection:
    """A read model, and how events become it.

    The three functions meet in one table of deltas, with one row a document and the column `key`:

        fold(events) -> deltas          events in position order, one row each
        recall(documents) -> deltas     what the stored documents stand for, in the same shape
        render(deltas) -> documents     the documents that the rows come to, in their order, `_id` = key

    `merge(deltas) -> deltas` joins rows of one key, the older first. It has to be associative: a log
    comes to the same read model in whatever batches it is read.

    Attributes:
        name: of the projection, and of its collection.
        version: of this definition; a checkpoint of another version is not continued.
        columns: of the event log, by their names in `eventstore.columnar.SCHEMA`.
        fields: of the stored documents, which `recall` reads.
        starts: which rows of deltas begin a document: none can be stored for them yet. All other
            documents are looked up.
    """

    name: str
    version: int
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    fold: Callable[[pl.DataFrame], pl.DataFrame]
    recall: Callable[[Sequence[Document]], pl.DataFrame]
    merge: Callable[[pl.DataFrame], pl.DataFrame]
    render: Callable[[pl.DataFrame], Sequence[Document | RawBSONDocument]]
    starts: pl.Expr


class ProjectionError(LedgerLakeError):
    """A projection can not be advanced."""


class ProjectionStopped(ProjectionError):
    """The projection met events that it can not take, and stands before them until they are mended."""


def not_in_step(name: str, what: str) -> ProjectionError:
    """The error for a read model that is not what its checkpoint says."""
    return ProjectionError(
        f"{name} {what}: the read model is not in step with its checkpoint.",
        f"It was changed from outside or restored in part: `ledgerlake refresh --rebuild {name}`.",
    )


MAX = 2**63 - 1


def int64_sum(column: str) -> pl.Expr:
    """Sum of an int64 column as Int128, which does not wrap; `as_int64` brings it back."""
    return pl.col(column).cast(pl.Int128).sum()


def as_int64(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The Int128 columns as Int64.

    Raises:
        ProjectionError: a sum does not fit; names its key.
    """
    for column in columns:
        over = frame.filter(pl.col(column).abs() > MAX)
        if over.height:
            raise ProjectionError(
                f"The sum {column} of {over['key'][0]!r} does not fit 64 bits.",
                "An amount in its events must be wrong: look for it with `ledgerlake verify`.",
            )
    return frame.with_columns(pl.col(column).cast(pl.Int64) for column in columns)
