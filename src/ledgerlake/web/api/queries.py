"""What there is to know: payments, statistics, trends, and who did what."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ledgerlake.commands.middleware import MAX_ID_LENGTH
from ledgerlake.domain.payment import Status
from ledgerlake.queries import (
    AuditResult,
    GetPaymentAt,
    GetStatistics,
    GetTrends,
    ListPayments,
    PaymentPage,
    PaymentResult,
    StatisticsResult,
    TrendsResult,
)
from ledgerlake.queries.payments import MAX_PAGE
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.answers import Rendered, as_json
from ledgerlake.web.api import examples
from ledgerlake.web.api.described import problems
from ledgerlake.web.api.fields import ANY_ID, OrganizationQuery, WaitFor, only_known, query_of
from ledgerlake.web.api.lean import Lean, parameters_of
from ledgerlake.web.files import matches
from ledgerlake.web.problems import Problem
from ledgerlake.web.service import Service

router = APIRouter(prefix="/api/v1", tags=["queries"], dependencies=[Depends(only_known)])
figures = APIRouter(prefix="/api/v1", tags=["queries"], route_class=Lean)

Reader = Annotated[Principal, Depends(Allowed("payments"))]
Auditor = Annotated[Principal, Depends(Allowed("audit"))]
Analyst = Annotated[Principal, Depends(Allowed("statistics"))]
PaymentId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=MAX_ID_LENGTH,
        pattern=ANY_ID,
        description="The payment's id; of a credit note its name, credit-note/KEY",
        examples=["P-1001"],
    ),
]
_MOST_ROWS: Final = 50_000
_NO: Final = problems(401, 403, 404, 422, 429, 500, 503)
_FIGURES: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "Its caller has it already: If-None-Match names its ETag", "headers": examples.TAG},
    **problems(401, 403, 422, 429, 500, 503),
}


class _Interval(BaseModel):
    """Days, UTC unless a zone is given: from the first one to before the last one."""

    organization: str | None = Field(
        None,
        max_length=MAX_ID_LENGTH,
        pattern=ANY_ID,
        description="Among those of the token; needed where it is for several",
    )
    start: date | None = Field(None, description="First day, such as 2011-11-01")
    end: date | None = Field(None, description="The day after the last one, such as 2011-12-01")
    wait_for: int | None = Field(
        None, ge=0, lt=2**63, description="A position: the answer holds every event up to it"
    )


class _Trends(_Interval):
    """And how they are cut."""

    granularity: Literal["day", "week", "month"] = Field("day", description="Weeks begin on Monday")
    zone: str = Field(
        "UTC", max_length=100, pattern=r"^[A-Za-z0-9_+/-]+$", description="IANA name of the days' time zone"
    )


_INTERVAL: Final = frozenset(_Interval.model_fields)
_TRENDS: Final = frozenset(_Trends.model_fields)
_EVERYTHING: Final = _Interval()  # type: ignore[call-arg]


@figures.get(
    "/statistics",
    response_model=StatisticsResult,
    responses={200: examples.STATISTICS, **_FIGURES},
    openapi_extra=parameters_of(_Interval),
)
async def statistics(request: Request, principal: Analyst) -> Response:
    """Counts, sums, averages and extremes of movements by outcome and currency, and states of payments."""
    given = query_of(request, _INTERVAL)
    asked = _Interval.model_validate(given) if given else _EVERYTHING
    query = GetStatistics(principal.organization_or_all(asked.organization), asked.start, asked.end)
    service: Service = request.app.state.service
    return _figures(request, await service.answers.rendered(query, asked.wait_for))


@figures.get(
    "/trends",
    response_model=TrendsResult,
    responses={200: examples.TRENDS, **_FIGURES},
    openapi_extra=parameters_of(_Trends),
)
async def trends(request: Request, principal: Analyst) -> Response:
    """Movements over time by outcome and currency: by day, week or month of a time zone."""
    asked = _Trends.model_validate(query_of(request, _TRENDS))
    query = GetTrends(
        principal.organization_or_all(asked.organization),
        asked.start,
        asked.end,
        asked.granularity,
        asked.zone,
    )
    service: Service = request.app.state.service
    found = await service.answers.rendered(query, asked.wait_for)
    if found.rows > _MOST_ROWS:
        raise Problem(
            422,
            "too_many_rows",
            f"The answer has {found.rows:,} rows, and {_MOST_ROWS:,} are the most.",
            "Ask for one organization, for fewer days, or by month.",
        )
    return _figures(request, found)


@router.get(
    "/payments",
    response_model=PaymentPage,
    responses={200: examples.PAYMENTS, **problems(401, 403, 422, 429, 500, 503)},
)
async def payments(
    request: Request,
    principal: Reader,
    organization: OrganizationQuery = None,
    status: Annotated[Status | None, Query()] = None,
    currency: Annotated[str | None, Query(pattern="^[A-Z]{3}$", description="ISO 4217 code")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Payments a page")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="next_cursor of the page before, unchanged")
    ] = None,
    min_amount: Annotated[
        Decimal | None, Query(ge=0, max_digits=20, description="In units; needs a currency")
    ] = None,
    max_amount: Annotated[
        Decimal | None, Query(ge=0, max_digits=20, description="In units; needs a currency")
    ] = None,
    start: Annotated[datetime | None, Query(description="Opened at this time or later")] = None,
    end: Annotated[datetime | None, Query(description="Opened before this time")] = None,
    sort: Annotated[Literal["opened", "amount", "time"] | None, Query()] = None,
    ascending: Annotated[bool, Query()] = False,
    wait_for: WaitFor = None,
) -> Response:
    """An organization's payments, page by page: each once, also while others change."""
    query = ListPayments(
        principal.organization(organization),
        status,
        currency,
        limit,
        cursor,
        min_amount,
        max_amount,
        _utc(start),
        _utc(end),
        sort,
        ascending,
    )
    service: Service = request.app.state.service
    return _json(await service.answers.ask(query, principal, wait_for))


@router.get(
    "/payments/{payment_id:path}", response_model=PaymentResult, responses={200: examples.PAYMENT, **_NO}
)
async def payment(
    request: Request,
    principal: Reader,
    payment_id: PaymentId,
    version: Annotated[int | None, Query(ge=1, lt=2**63, description="As it was after this event")] = None,
    position: Annotated[int | None, Query(ge=0, lt=2**63, description="As it was at this position")] = None,
    at: Annotated[datetime | None, Query(description="As the ledger knew it then")] = None,
    wait_for: WaitFor = None,
) -> Response:
    """One payment, as it is, or as it was at a version, a position or an instant."""
    service: Service = request.app.state.service
    if (version, position, at) == (None, None, None):
        return _json(await service.answers.payment(payment_id, principal, wait_for))
    query = GetPaymentAt(payment_id, version, position, _utc(at))
    return _json(await service.answers.payment_at(query, principal))


@router.get("/audit/{payment_id:path}", response_model=AuditResult, responses={200: examples.AUDIT, **_NO})
async def audit(request: Request, principal: Auditor, payment_id: PaymentId) -> Response:
    """Who did what to a payment, when and why, and what it came to; refused commands too."""
    service: Service = request.app.state.service
    return _json(await service.answers.audit(payment_id, principal))


def _json(answer: Any) -> Response:
    return Response(as_json(answer), media_type="application/json")


def _figures(request: Request, found: Rendered) -> Response:
    headers = {"ETag": found.tag, "Cache-Control": "private, no-cache"}
    if matches(request.headers.get("if-none-match"), found.tag):
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers=headers, media_type="application/json")


def _utc(given: datetime | None) -> datetime | None:
    return given.replace(tzinfo=UTC) if given is not None and given.tzinfo is None else given
