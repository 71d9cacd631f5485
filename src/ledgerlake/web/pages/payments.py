"""An organization's payments, and one payment with everything that was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.domain.payment import Status
from ledgerlake.errors import LedgerLakeError
from ledgerlake.queries import ListPayments, PaymentNotFound, QueryError
from ledgerlake.queries.audit import MOST_REFUSALS
from ledgerlake.queries.payments import PaymentPage, PaymentResult
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.pages import visible
from ledgerlake.web.pages.rendering import render
from ledgerlake.web.service import Service

router = APIRouter()

Signed = Annotated[Principal, Depends(Allowed("payments"))]
Text = Annotated[str, Query(max_length=2_000)]

_PAGE: Final = 50
_SORTS: Final = {"opened": "as the ledger heard of them", "time": "by time", "amount": "by amount"}


@router.get("/organizations/{name}/payments")
async def payments(
    request: Request,
    principal: Signed,
    name: str,
    status: Text = "",
    currency: Text = "",
    first: Text = "",
    last: Text = "",
    least: Text = "",
    most: Text = "",
    sort: Text = "",
    order: Text = "",
    cursor: Text = "",
) -> Response:
    """An organization's payments, fifty a page, by what the form asks for."""
    service: Service = request.app.state.service
    organization = await visible.organization(request, principal, name)
    given = {
        "status": status, "currency": currency, "first": first, "last": last, "least": least,
        "most": most, "sort": sort, "order": order,
    }  # fmt: skip
    found: PaymentPage | None = None
    wrong: LedgerLakeError | None = None
    try:
        found = await service.answers.ask(_question(organization, given, cursor), principal)
    except QueryError as error:
        wrong = error
    return render(
        request,
        "payments.html",
        200 if wrong is None else 422,
        organization=organization,
        slug=name,
        given=given,
        statuses=[each.value for each in Status],
        sorts=_SORTS,
        cursor=cursor,
        found=found,
        wrong=wrong,
    )


@router.get("/payment")
async def payment(request: Request, principal: Signed, id: Text = "") -> Response:
    """One payment, and its audit trail."""
    service: Service = request.app.state.service
    wanted = id.strip()
    if not wanted:
        return render(request, "payment.html", id="", payment=None, audit=None, slug=None)
    found: PaymentResult | None = None
    try:
        found = await service.answers.payment(wanted, principal)
    except PaymentNotFound:
        # Not there yet, perhaps: the log knows it first.
        if not principal.may("audit"):
            raise
    audit = await service.answers.audit(wanted, principal) if principal.may("audit") else None
    organization = None if found is None else found.payment.organization_id
    return render(
        request,
        "payment.html",
        id=wanted,
        payment=found,
        audit=audit,
        most_refusals=MOST_REFUSALS,
        slug=None if organization is None else visible.slug(organization),
    )


def _question(organization: str, given: Mapping[str, str], cursor: str) -> ListPayments:
    """What a form asks for.

    Raises:
        QueryError: a day or an amount is none.
    """
    return ListPayments(
        organization,
        status=given["status"] or None,
        currency=given["currency"].strip().upper() or None,
        limit=_PAGE,
        cursor=cursor or None,
        min_amount=_amount("at least", given["least"]),
        max_amount=_amount("at most", given["most"]),
        start=_day("from", given["first"]),
        end=_day("to", given["last"], timedelta(days=1)),
        sort=given["sort"] or None,
        ascending=given["order"] == "ascending",
    )


def _day(name: str, text: str, after: timedelta = timedelta()) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + after
    except (ValueError, OverflowError):
        raise QueryError(f"{name}: {text!r} is no day.", "Give one such as 2011-11-30.") from None


def _amount(name: str, text: str) -> Decimal | None:
    if not text:
        return None
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        raise QueryError(f"{name}: {text!r} is no amount.", "Give one such as 1200.50.") from None
