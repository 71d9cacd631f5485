"""Queries on payments: one by its id, and an organization's, page by page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from ledgerlake.domain.payment import Status
from ledgerlake.mongo.indexes import PAYMENTS
from ledgerlake.queries.model import AsOf, Db, PaymentNotFound, QueryError, as_of, snapshot, text

MAX_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as its read model has it; amounts in units, exact.

    `amount` is what was processed; for a payment that never completed what its last attempt was for; for
    a credit note (`unreferenced`) what was refunded. `net` is processed minus refunded.
    """

    payment_id: str
    organization_id: str
    user_id: str | None
    currency: str
    status: str
    unreferenced: bool
    amount: Decimal
    refunded: Decimal
    net: Decimal
    attempts: int
    failures: int
    refunds: int
    last_failure_reason: str | None
    first_at: datetime
    last_at: datetime
    completed_at: datetime | None
    version: int
    position: int

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Payment:
        """The payment that a document of payment_read_models holds."""
        return cls(
            payment_id=document["paymentId"],
            organization_id=document["organizationId"],
            user_id=document["userId"],
            currency=document["currency"],
            status=document["status"],
            unreferenced=document["unreferenced"],
            amount=document["amount"].to_decimal(),
            refunded=document["refunded"].to_decimal(),
            net=document["net"].to_decimal(),
            attempts=document["attempts"],
            failures=document["failures"],
            refunds=document["refunds"],
            last_failure_reason=document["lastFailureReason"],
            first_at=document["firstAt"],
            last_at=document["lastAt"],
            completed_at=document["completedAt"],
            version=int(document["version"]),
            position=int(document["position"]),
        )


@dataclass(frozen=True, slots=True)
class PaymentResult:
    """One payment, and how fresh it is."""

    payment: Payment
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetPayment:
    """One payment by its id."""

    payment_id: str

    def answer(self, db: Db) -> PaymentResult:
        """Raises PaymentNotFound when there is no such payment at the checkpoint; QueryError."""
        wanted = {"_id": text("payment_id", self.payment_id)}
        with snapshot(db) as session:
            fresh = as_of(db, PAYMENTS, session)
            document = db[PAYMENTS].find_one(wanted, session=session)
        if document is None:
            raise PaymentNotFound(
                f"There is no payment {self.payment_id!r} (as of position {fresh.position}).",
                "If it was stored just now, run `ledgerlake refresh` first; otherwise check the id.",
            )
        return PaymentResult(Payment.from_document(document), fresh)


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """A page of payments, the last opened first; `next_cursor` is None on the last page."""

    payments: tuple[Payment, ...]
    next_cursor: str | None
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class ListPayments:
    """An organization's payments, the last opened first, `limit` a page (1 to 1,000).

    Pages are cut by the position of a payment's first event, which never changes: paging meets every
    payment once, also while payments are refunded and new ones arrive. One that changes its status
    between two pages counts with the status that it has when its page is read.
    """

    organization_id: str
    status: str | None = None
    currency: str | None = None
    limit: int = 50
    cursor: str | None = None

    def answer(self, db: Db) -> PaymentPage:
        """Raises QueryError for an unknown status, a limit out of range, a cursor that is none of ours."""
        wanted: dict[str, Any] = {"organizationId": text("organization_id", self.organization_id)}
        if self.status is not None:
            wanted["status"] = text("status", self.status)
            if self.status not in set(Status):
                raise QueryError(f"status {self.status!r} is none of {', '.join(Status)}.")
        if self.currency is not None:
            wanted["currency"] = text("currency", self.currency)
        if type(self.limit) is not int or not 1 <= self.limit <= MAX_PAGE:
            raise QueryError(f"limit {self.limit!r} is not from 1 to {MAX_PAGE}.")
        if self.cursor is not None:
            wanted["firstPosition"] = {"$lt": _position(text("cursor", self.cursor))}
        with snapshot(db) as session:
            fresh = as_of(db, PAYMENTS, session)
            pages = db[PAYMENTS].find(wanted, session=session).sort("firstPosition", -1)
            found = list(pages.limit(self.limit + 1))
        page = found[: self.limit]
        more = len(found) > self.limit
        return PaymentPage(
            tuple(Payment.from_document(document) for document in page),
            _cursor(int(page[-1]["firstPosition"])) if more else None,
            fresh,
        )


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"p{position}".encode()).decode().rstrip("=")


def _position(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if not text.startswith("p") or not text[1:].isdigit():
            raise ValueError
        return min(int(text[1:]), 2**63 - 1)
    except (binascii.Error, ValueError):
        raise QueryError(
            f"cursor {cursor!r} is not one that a page gave.",
            "Take next_cursor of the page before, unchanged.",
        ) from None
