"""What the last verifications found, and when: so that they need not be repeated at every look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from bson import Int64
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ledgerlake.mongo.indexes import VERIFICATIONS
from ledgerlake.reconciliation.model import Check, Verification

Compared: TypeAlias = Literal["everything", "reports"]

REPORTS: Final = "billing reports"
_UNAUTHORIZED: Final = 13


@dataclass(frozen=True, slots=True)
class Recorded:
    """A verification that was done: of what, as of which position, when (UTC), how long, which checks failed.

    `books` counts the entries of the books that reports were compared by; 0 for everything else.
    """

    compared: Compared
    position: int
    at: datetime
    seconds: float
    failed: tuple[str, ...] = ()
    books: int = 0

    @property
    def ok(self) -> bool:
        return not self.failed


def record(
    db: Database[dict[str, Any]],
    compared: Compared,
    position: int,
    checks: Iterable[Check],
    seconds: float,
    books: int = 0,
) -> Recorded:
    """Write down what a verification found, in the place of the last one of its kind.

    Who may only read verifies all the same, and leaves no trace.
    """
    now = datetime.now(UTC)
    found = Recorded(
        compared,
        position,
        now.replace(microsecond=now.microsecond // 1_000 * 1_000),
        round(seconds, 3),
        tuple(check.name for check in checks if not check.ok),
        books,
    )
    document = {
        "position": Int64(position),
        "books": books,
        "at": found.at,
        "milliseconds": Int64(round(found.seconds * 1_000)),
        "failed": list(found.failed),
    }
    allowed(lambda: db[VERIFICATIONS].replace_one({"_id": compared}, document, upsert=True))
    return found


def allowed(ask: Callable[[], Any], *others: int) -> Any:
    """What the server answers; None for a user whom it does not let, or where it fails with another code."""
    try:
        return ask()
    except OperationFailure as error:
        if error.code not in (_UNAUTHORIZED, *others):
            raise
        return None


def record_verification(
    db: Database[dict[str, Any]], found: Verification, seconds: float, books: int = 0
) -> Recorded:
    """Write down what `verify` found: of everything, and of the reports if they were among it.

    The control sums that are kept do not count from then on: the next quick one adds up everything once more.
    """
    for check in found.checks:
        if check.name == REPORTS and check.position:
            record(db, "reports", check.position, [check], seconds, books)
    checks = [check for check in found.checks if check.name != REPORTS]
    return record(db, "everything", found.head, checks, seconds)


def last_verifications(db: Database[dict[str, Any]]) -> list[Recorded]:
    """The last verification of each kind that was done."""
    return [
        Recorded(
            each["_id"],
            int(each["position"]),
            each["at"],
            each["milliseconds"] / 1_000,
            tuple(each["failed"]),
            each["books"],
        )
        for each in db[VERIFICATIONS].find({}, sort=[("_id", 1)])
    ]


def last_verification(db: Database[dict[str, Any]], compared: Compared = "everything") -> Recorded | None:
    """The last verification of a kind; None if there was none."""
    return next((each for each in last_verifications(db) if each.compared == compared), None)
