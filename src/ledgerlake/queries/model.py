"""What queries share: how fresh a result is, and what is wrong with a question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, runtime_checkable

from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.projections import checkpoint

Db = Database[dict[str, Any]]
R_co = TypeVar("R_co", covariant=True)


class QueryError(LedgerLakeError):
    """A question that can not be answered as it was put."""


class PaymentNotFound(LedgerLakeError):
    """No read model of that payment, at the position that the answer names."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """How fresh an answer is: it holds every event up to `position`, taken up at `time`."""

    position: int
    time: datetime | None


@runtime_checkable
class Query(Protocol[R_co]):
    """A question: a frozen value that says how its answer is read."""

    def answer(self, db: Db) -> R_co:
        """Read the answer.

        Raises:
            QueryError: the question is wrong; names the field and what it may be.
        """
        ...


def as_of(db: Db, projection: str) -> AsOf:
    """The projection's checkpoint. Read it before the model: the answer is then never older than it says."""
    found = checkpoint(db, projection)
    return AsOf(found.position, found.updated_at)
