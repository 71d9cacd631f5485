"""What a projection is: the events that it takes, pure functions that fold them, and where that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import polars as pl
from bson.raw_bson import RawBSONDocument

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.indexes import Index

Document: TypeAlias = dict[str, Any]

# BSON types as a Field names them, and what the driver gives for each.
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("str",),
    "bool": ("bool",),
    "int": ("int",),
    "long": ("Int64",),
    "decimal": ("Decimal128",),
    "date": ("datetime",),
    "object": ("dict",),
    "array": ("list",),
    "null": ("NoneType",),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a read model's documents.

    `type` is one or more of string, bool, int, long, decimal, date, object, array, null, joined by " or ".
    `unit` is what a number counts, such as "minor units"; empty for what is no number.
    """

    name: str
    type: str
    unit: str
    meaning: str


def misfits(schema: Sequence[Field], document: Mapping[str, Any]) -> list[str]:
    """How a stored document differs from its schema: fields that are missing, unknown, or of another type."""
    fields = {field.name: field for field in schema}
    wrong = [f"{name} is missing" for name in fields if name not in document]
    for name, value in document.items():
        if name not in fields:
            wrong.append(f"{name} is not in the schema")
        elif type(value).__name__ not in {
            held for kind in fields[name].type.split(" or ") for held in _TYPES[kind]
        }:
            wrong.append(f"{name} is a {type(value).__name__}, not {fields[name].type}")
    return wrong


class OnPoison(Enum):
    """What becomes of an event that can not be folded, every retry included.

    PARK: the projection stops before it, and says so; it tries again when it is run again.
    SET_ASIDE: the event, and with it every later one of its stream, goes to projection_dead_letters; the
    rest goes on.
    """

    PARK = "park"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class Derived:
    """Totals over a projection's documents, kept up with them in the same transaction.

    Whenever documents change, what they counted for before is taken out and what they count for now is put
    in. Only sums can be kept so. A document whose totals are all 0 is not there.

    Attributes:
        name: of the collection.
        by: the fields that documents are grouped by; the key has to tell their values apart.
        totals: the fields that are summed, all int64.
        contributions: what rows of deltas, each the whole state of a document, count for: rows with `key`
            (the _id), the `by` fields and the `totals`. Rows of one key are added up.
        schema: of the stored documents.
        indexes: of the collection.
    """

    name: str
    by: tuple[str, ...]
    totals: tuple[str, ...]
    contributions: Callable[[pl.DataFrame], pl.DataFrame]
    schema: tuple[Field, ...] = ()
    indexes: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Projection:
    """A read model, and how events become it.

    Three functions meet in one table of deltas, with one row a document and the column `key`:

        fold(events) -> deltas          events in position order, one row each
        recall(documents) -> deltas     what the stored documents stand for, in the same shape
        render(deltas) -> documents     the documents that the rows come to, in their order, `_id` = key

    `merge(deltas) -> deltas` joins rows of one key, the older first. It has to be associative: a log
    comes to the same read model in whatever batches it is read.

    Attributes:
        name: of the projection, and of its collection.
        version: of this definition; a checkpoint of another version is not continued.
        columns: of the event log, by their names in `eventstore.columnar.SCHEMA`.
        fields: of the stored documents, which `recall` reads; none: all of them.
        starts: which rows of deltas begin a document: none can be stored for them yet. All other
            documents are looked up.
        events: the event types that it takes; others only move its checkpoint. None: it takes all, and
            has to refuse what it does not know.
        schema: of the stored documents.
        indexes: of the collection; each generation of it is made with them.
        derived: totals over its documents.
        by_stream: a document's key is its stream's id, so that the streams may be split over workers.
        on_poison: what becomes of events that can not be folded; None: as the settings say.
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
    events: frozenset[str] | None = None
    schema: tuple[Field, ...] = ()
    indexes: tuple[Index, ...] = ()
    derived: tuple[Derived, ...] = ()
    by_stream: bool = False
    on_poison: OnPoison | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its collections, in their first generation: its own, and those of its totals."""
        return (self.name, *(derived.name for derived in self.derived))


class ProjectionError(LedgerLakeError):
    """A projection can not be advanced."""


class ProjectionStopped(ProjectionError):
    """The projection met events that it can not take, and stands before them until they are mended."""


class ProjectionOutdated(ProjectionError):
    """The read model was filled by another version of the definition; it is rebuilt, not continued."""


class NotInStep(ProjectionError):
    """The read model is not what its checkpoint says."""


def not_in_step(name: str, what: str) -> NotInStep:
    """The error for a read model that is not what its checkpoint says."""
    return NotInStep(
        f"{name} {what}: the read model is not in step with its checkpoint.",
        f"It was changed from outside or restored in part: `ledgerlake rebuild {name}`.",
    )


MAX = 2**63 - 1
_OVER = "over 64 bits"


def int64_sum(column: str) -> pl.Expr:
    """Sum of an int64 column as Int128, which does not wrap; `as_int64` brings it back."""
    return pl.col(column).cast(pl.Int128).sum()


def as_int64(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The Int128 columns as Int64.

    Raises:
        ProjectionError: a sum does not fit; names its key.
    """
    if not columns:
        return frame
    over = pl.any_horizontal(pl.col(column).abs() > MAX for column in columns)
    # All in one call: for a few rows a call of Polars costs more than what it does.
    cast = frame.with_columns(pl.col(*columns).cast(pl.Int64, strict=False), over.alias(_OVER))
    if cast.drop_in_place(_OVER).any():
        for column in columns:
            for key in frame.filter(pl.col(column).abs() > MAX)["key"]:
                raise too_large(column, key)
    return cast


def too_large(column: str, key: str) -> ProjectionError:
    """The error for a sum that is more than an int64 holds."""
    return ProjectionError(
        f"The sum {column} of {key!r} does not fit 64 bits.",
        "An amount in its events must be wrong: look for it with `ledgerlake verify`.",
    )
