"""An organization's payments, and one payment with everything that was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.domain.payment import Status
from ledgerlake.errors import LedgerLakeError
from ledgerlake.queries import AuditResult, GetAudit, GetPayment, ListPayments, PaymentNotFound, QueryError
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
        found = await service.run(service.reads.queries.ask, _question(organization, given, cursor))
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
    found, audit = await service.run(_payment, service, principal, wanted)
    organization = found.payment.organization_id if found is not None else _whose(audit)
    return render(
        request,
        "payment.html",
        id=wanted,
        payment=found,
        audit=audit,
        slug=None if organization is None else visible.slug(organization),
    )


def _payment(
    service: Service, principal: Principal, payment_id: str
) -> tuple[PaymentResult | None, AuditResult | None]:
    """A payment as far as the principal may see it.

    Raises:
        PaymentNotFound: there is none, or it is another organization's.
    """
    ask = service.reads.queries.ask
    found: PaymentResult | None
    try:
        found = ask(GetPayment(payment_id))
    except PaymentNotFound:
        # Not there yet, perhaps: the log knows it first.
        if not principal.may("audit"):
            raise
        found = None
    if found is not None and not principal.sees(found.payment.organization_id):
        raise PaymentNotFound("There is no such payment for you to see.")
    if not principal.may("audit"):
        return found, None
    audit = ask(GetAudit(payment_id))
    owner = _whose(audit)
    if owner is not None and not principal.sees(owner):
        raise PaymentNotFound("There is no such payment for you to see.")
    # What others tried on it is theirs.
    steps = tuple(step for step in audit.steps if _sees(principal, step.organization_id))
    if not steps:
        raise PaymentNotFound("There is no such payment for you to see.")
    return found, replace(audit, steps=steps)


def _sees(principal: Principal, organization: str | None) -> bool:
    return principal.organizations is None or (organization is not None and principal.sees(organization))


def _whose(audit: AuditResult | None) -> str | None:
    """The organization of a payment's events; None if it has none."""
    steps = () if audit is None else audit.steps
    return next((step.organization_id for step in steps if step.position is not None), None)


def _question(organization: str, given: Mapping[str, str], cursor: str) -> ListPayments:
    """What a form asks for.

    Raises:
        QueryError: a day or an amount is none.
    """
    last = _day("to", given["last"])
    return ListPayments(
        organization,
        status=given["status"] or None,
        currency=given["currency"].strip().upper() or None,
        limit=_PAGE,
        cursor=cursor or None,
        min_amount=_amount("at least", given["least"]),
        max_amount=_amount("at most", given["most"]),
        start=_day("from", given["first"]),
        end=None if last is None else last + timedelta(days=1),
        sort=given["sort"] or None,
        ascending=given["order"] == "ascending",
    )


def _day(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    except ValueError:
        raise QueryError(f"{name}: {text!r} is no day.", "Give one such as 2011-11-30.") from None


def _amount(name: str, text: str) -> Decimal | None:
    if not text:
        return None
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        raise QueryError(f"{name}: {text!r} is no amount.", "Give one such as 1200.50.") from None
