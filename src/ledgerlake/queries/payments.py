"""Queries on payments: one by its id, and an organization's, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final

from pymongo import ASCENDING, DESCENDING

from ledgerlake.domain.money import Money, MoneyError, exponent
from ledgerlake.domain.payment import Status
from ledgerlake.mongo.indexes import PAYMENTS
from ledgerlake.projections.checkpoints import checkpoint, collection_of
from ledgerlake.queries.freshness import Reading
from ledgerlake.queries.model import AsOf, Db, PaymentNotFound, QueryError, snapshot, text
from ledgerlake.queries.paging import Place

MAX_PAGE: Final = 1_000
# What a list may be sorted by, and the field of the read model that this is. Payments that are equal in it
# are in the order of their first events.
SORTS: Final = {"opened": "firstPosition", "amount": "amountMinor", "time": "openedAt"}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as its read model has it; amounts in units, exact.

    `amount` is what was processed; for a payment that never completed what its last attempt was for; for
    a credit note (`unreferenced`) what was refunded. `net` is processed minus refunded. `opened_at` is the
    business time of its first event; `first_at` and `last_at` are the earliest and the latest of all.
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
    opened_at: datetime
    first_at: datetime
    last_at: datetime
    completed_at: datetime | None
    version: int
    position: int

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Payment:
        """The payment that a document of payment_read_models holds."""
        # From the minor units: a Decimal128 takes ten times as long.
        places = -exponent(document["currency"])
        return cls(
            payment_id=document["paymentId"],
            organization_id=document["organizationId"],
            user_id=document["userId"],
            currency=document["currency"],
            status=document["status"],
            unreferenced=document["unreferenced"],
            amount=Decimal(document["amountMinor"]).scaleb(places),
            refunded=Decimal(document["refundedMinor"]).scaleb(places),
            net=Decimal(document["netMinor"]).scaleb(places),
            attempts=document["attempts"],
            failures=document["failures"],
            refunds=document["refunds"],
            last_failure_reason=document["lastFailureReason"],
            # Version 1 of the read model has none, and is asked until it is rebuilt.
            opened_at=document.get("openedAt") or document["firstAt"],
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

    reads: ClassVar[tuple[str, ...]] = (PAYMENTS,)

    payment_id: str

    def answer_at(self, reading: Reading) -> PaymentResult:
        """Raises PaymentNotFound when there is no such payment at the checkpoint; QueryError."""
        wanted = {"_id": text("payment_id", self.payment_id)}
        at = reading.of(PAYMENTS)
        with reading.session() as session:
            document = reading.model(PAYMENTS).find_one(wanted, session=session)
        if document is None:
            raise PaymentNotFound(
                f"There is no payment {self.payment_id!r} (as of position {at.position}).",
                "If it was stored just now, run `ledgerlake refresh` first; otherwise check the id.",
            )
        return PaymentResult(Payment.from_document(document), AsOf(at.position, at.updated_at))


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """A page of payments in the order asked for; `next_cursor` is None on the last page."""

    payments: tuple[Payment, ...]
    next_cursor: str | None
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class ListPayments:
    """An organization's payments, `limit` a page (1 to 1,000), the last one first unless `ascending`.

    `sort` is what pages are cut by: "opened", the order in which the ledger first heard of them (the
    default), "amount", or "time", the business time of their first event (`opened_at`). Amounts are of one
    currency: to sort by them or filter on them, give it. They go from `min_amount` to `max_amount`, in units,
    both included, times from `start` to before `end`. A list with such a range is in the order of amounts or
    times (by default the one that it has a range of): no index serves a range in the order of "opened".

    What pages are cut by stays as it is while payments are refunded and new ones arrive, so paging meets
    every payment once. (Only the amount of a payment that failed may change, with its next attempt.) One that
    changes its status between two pages counts with the status that it has when its page is read.
    """

    reads: ClassVar[tuple[str, ...]] = (PAYMENTS,)

    organization_id: str
    status: str | None = None
    currency: str | None = None
    limit: int = 50
    cursor: str | None = None
    min_amount: Decimal | None = None
    max_amount: Decimal | None = None
    start: datetime | None = None
    end: datetime | None = None
    sort: str | None = None
    ascending: bool = False

    def answer(self, db: Db) -> PaymentPage:
        """Raises QueryError for a value that can not be, a cursor of another list, an order without index."""
        wanted = self._filters()
        sort = self._sort()
        if type(self.limit) is not int or not 1 <= self.limit <= MAX_PAGE:
            raise QueryError(f"limit {self.limit!r} is not from 1 to {MAX_PAGE}.")
        if type(self.ascending) is not bool:
            raise QueryError(f"ascending is true or false, not {self.ascending!r}.")
        listed = (*wanted.items(), sort, self.ascending)
        if self.cursor is not None:
            wanted = self._after(wanted, sort, Place.of_cursor(text("cursor", self.cursor), listed))
        direction = ASCENDING if self.ascending else DESCENDING
        order = dict.fromkeys((SORTS[sort], "firstPosition"), direction)
        with snapshot(db) as session:
            at = checkpoint(db, PAYMENTS, session)
            if sort != "opened" and at.version == 1:
                raise QueryError(
                    f"The payments' read model is of version 1, without an index for the order of {sort!r}.",
                    "`ledgerlake refresh` rebuilds it.",
                )
            payments = db[collection_of(PAYMENTS, at.generation)]
            pages = payments.find(wanted, session=session).sort(order).hint(self._index(sort))
            found = list(pages.limit(self.limit + 1).batch_size(self.limit + 1))
        page = found[: self.limit]
        return PaymentPage(
            tuple(Payment.from_document(document) for document in page),
            _place(sort, page[-1]).cursor(listed) if len(found) > self.limit else None,
            AsOf(at.position, at.updated_at),
        )

    def _filters(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {"organizationId": text("organization_id", self.organization_id)}
        if self.status is not None:
            wanted["status"] = text("status", self.status)
            if self.status not in set(Status):
                raise QueryError(f"status {self.status!r} is none of {', '.join(Status)}.")
        if self.currency is not None:
            wanted["currency"] = text("currency", self.currency)
        if amounts := self._amounts():
            wanted["amountMinor"] = amounts
        if times := self._times():
            wanted["openedAt"] = times
        return wanted

    def _amounts(self) -> dict[str, int]:
        given = (("$gte", "min_amount", self.min_amount), ("$lte", "max_amount", self.max_amount))
        return {operator: self._minor(name, value) for operator, name, value in given if value is not None}

    def _minor(self, name: str, value: object) -> int:
        if self.currency is None:
            raise QueryError(f"{name} is of one currency: give currency too.")
        if not isinstance(value, Decimal):
            raise QueryError(f"{name} is a Decimal, in units of the currency, not {value!r}.")
        try:
            return Money.parse(value, text("currency", self.currency)).minor
        except MoneyError as error:
            raise QueryError(f"{name} is no amount. {error.message}", error.remedy) from None

    def _times(self) -> dict[str, datetime]:
        given = (("$gte", "start", self.start), ("$lt", "end", self.end))
        bounds = {operator: _instant(name, value) for operator, name, value in given if value is not None}
        if len(bounds) == 2 and bounds["$lt"] < bounds["$gte"]:
            raise QueryError(f"The interval ends ({self.end}) before it starts ({self.start}).")
        return bounds

    def _sort(self) -> str:
        by_amount = (self.min_amount, self.max_amount) != (None, None)
        by_time = (self.start, self.end) != (None, None)
        if self.sort is None:
            return "amount" if by_amount else "time" if by_time else "opened"
        if text("sort", self.sort) not in SORTS:
            raise QueryError(f"sort {self.sort!r} is none of {', '.join(SORTS)}.")
        if self.sort == "amount" and self.currency is None:
            raise QueryError("sort 'amount' is of one currency: give currency too.")
        if self.sort == "opened" and (by_amount or by_time):
            raise QueryError("No index serves a range in the order of 'opened': sort by amount or time.")
        return self.sort

    def _index(self, sort: str) -> str:
        # Named, so that no plan is ever chosen that reads all to sort it.
        if sort != "opened":
            return f"payments_organization_{sort}"
        return "payments_organization" if self.status is None else "payments_organization_status"

    def _after(self, wanted: dict[str, Any], sort: str, place: Place) -> dict[str, Any]:
        beyond = "$gt" if self.ascending else "$lt"
        if sort == "opened":
            return {**wanted, "firstPosition": {beyond: place.position}}
        field, key = SORTS[sort], _key(sort, place)
        # Two ranges of one index: those that are equal to the last row, behind it, and those beyond it.
        return {
            "$or": [
                {
                    **wanted,
                    field: {**wanted.get(field, {}), "$eq": key},
                    "firstPosition": {beyond: place.position},
                },
                {"$and": [wanted, {field: {beyond: key}}]},
            ]
        }


def _place(sort: str, last: Mapping[str, Any]) -> Place:
    value = last[SORTS[sort]]
    if isinstance(value, datetime):
        value = (value - _EPOCH) // timedelta(milliseconds=1)
    return Place(int(value), int(last["firstPosition"]))


def _key(sort: str, place: Place) -> Any:
    if sort != "time":
        return place.key
    try:
        return _EPOCH + timedelta(milliseconds=place.key)
    except OverflowError:
        raise QueryError("The cursor is not one that a page gave: its time can not be.") from None


def _instant(name: str, value: object) -> datetime:
    try:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    except OverflowError:
        pass
    raise QueryError(f"{name} is a datetime with a time zone, not {value!r}.")
