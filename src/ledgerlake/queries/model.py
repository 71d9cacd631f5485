"""What queries share: how fresh a result is, and what is wrong with a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.contract import EventReader
from ledgerlake.projections import checkpoint
from ledgerlake.queries.freshness import Reading

Db = Database[dict[str, Any]]
R_co = TypeVar("R_co", covariant=True)


class QueryError(LedgerLakeError):
    """A question that can not be answered as it was put."""


class PaymentNotFound(LedgerLakeError):
    """No read model of that payment, at the position that the answer names."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """How fresh an answer is: it holds every event up to `position`, taken up at `time`.

    Where one document is the answer, or a read model is split over workers, it may hold later ones too:
    `position` is the least it holds.
    """

    position: int
    time: datetime | None


@runtime_checkable
class Query(Protocol[R_co]):
    """A question to read models: a frozen dataclass that says how its answer is read, in one snapshot.

    Attributes:
        reads: the projections that the answer depends on. A cached answer is good while none of them moves.
    """

    reads: ClassVar[tuple[str, ...]]

    def answer(self, db: Db) -> R_co:
        """Read the answer; called again where a rebuilt read model took its place meanwhile.

        Raises:
            QueryError: the question is wrong; names the field and what it may be.
        """
        ...


@runtime_checkable
class DocumentQuery(Protocol[R_co]):
    """A question that one document answers: one find, and no snapshot around it."""

    reads: ClassVar[tuple[str, ...]]

    def answer_at(self, reading: Reading) -> R_co:
        """Read the document, in a session of `reading`, which says how fresh it is at least.

        Raises:
            QueryError: the question is wrong; names the field and what it may be.
            PaymentNotFound: there is no such document.
        """
        ...


@runtime_checkable
class LogQuery(Protocol[R_co]):
    """A question that the log itself answers: the past has no read model."""

    def answer_from(self, log: EventReader, db: Db) -> R_co:
        """Read the answer.

        Raises:
            QueryError: the question is wrong; names the field and what it may be.
        """
        ...


@contextmanager
def snapshot(db: Db) -> Iterator[ClientSession]:
    """A session whose reads all see one moment: of an unsplit read model, exactly that of its position."""
    with db.client.start_session(snapshot=True) as session:
        yield session


def as_of(db: Db, projection: str, session: ClientSession) -> AsOf:
    """How far the projection's read model is, at the moment that `session` sees."""
    found = checkpoint(db, projection, session)
    return AsOf(found.position, found.updated_at)


def text(name: str, value: object) -> str:
    """`value` if it is a text, so that no query operator can stand in the place of a value.

    Raises:
        QueryError: it is something else.
    """
    if not isinstance(value, str):
        raise QueryError(f"{name} is a text, not {value!r}.")
    return value


def day(name: str, value: object) -> date:
    """`value` if it is a day.

    Raises:
        QueryError: it is something else. An instant is refused too: its time of day would be cut off.
    """
    if not isinstance(value, date) or isinstance(value, datetime):
        raise QueryError(f"{name} is a day (datetime.date), not {value!r}.")
    return value
