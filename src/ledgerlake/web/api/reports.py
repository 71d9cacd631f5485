"""Billing reports: an organization's months, what each comes to, and its files."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ledgerlake.domain.money import Money
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.answers import as_json
from ledgerlake.web.api.described import problems
from ledgerlake.web.api.fields import OrganizationQuery, only_known
from ledgerlake.web.files import file_response
from ledgerlake.web.service import Service, again
from ledgerlake.web.shelf import FILES, MEDIA_TYPES, Month, Report, Shelf

router = APIRouter(prefix="/api/v1/reports", tags=["reports"], dependencies=[Depends(only_known)])

Reader = Annotated[Principal, Depends(Allowed("reports"))]
Period = Annotated[
    str, Path(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", description="A month", examples=["2011-11"])
]
Edition = Annotated[
    str,
    Path(
        pattern=r"^(current|draft|revision-[1-9][0-9]{0,5})$",
        description="current, draft, or revision-1, revision-2 ... of a month that was closed",
        examples=["current"],
    ),
]
FileName = Annotated[
    str,
    Path(
        pattern=f"^({'|'.join(re.escape(name) for name in FILES)})$",
        description="Those in Parquet are always there; others are made when they are first asked for",
        examples=["itemised.parquet"],
    ),
]
_NO: Final = problems(401, 403, 404, 422, 429, 500, 503)


class CurrencySums(BaseModel):
    """What a report comes to in one currency; amounts in units, as text."""

    currency: str
    movements: int
    gross: str
    refunded: str
    net: str
    failures: int
    opening_balance: str
    closing_balance: str


class LateSums(BaseModel):
    """Movements of a closed month that are booked in a later one."""

    booked_in: str
    currency: str
    movements: int
    amount: str


class Revision(BaseModel):
    """A close or a reopening of a month."""

    action: str
    revision: int
    position: int
    at: datetime
    by: str
    reason: str | None


class MonthSummary(BaseModel):
    """A month of an organization as it stands."""

    period: str
    state: str = Field(
        description="open, closed, corrected: closed, and movements came late; or damaged: not as written"
    )
    edition: str | None = Field(description="The report that holds now; null while its files are written")
    position: int | None = Field(description="Every event up to it is in the report")
    lines: int | None
    totals: list[CurrencySums]
    late: list[LateSums]
    history: list[Revision]


class Months(BaseModel):
    """An organization's months, the last one first."""

    organization: str
    drafts_position: int | None = Field(
        description="Drafts hold every event up to it; null: there are none, or they are another version's"
    )
    drafts_due: bool = Field(
        description="The next refresh writes all drafts anew: a month was closed or reopened since"
    )
    months: list[MonthSummary]


class ReportFile(BaseModel):
    """A file that may be asked for; `bytes` and `sha256` null: it is made when it is."""

    name: str
    format: str
    media_type: str
    bytes: int | None
    sha256: str | None
    listed: bool = Field(description="It is one of those that the report's manifest vouches for")


class ReportSummary(BaseModel):
    """A report: what it comes to, its files, and its manifest."""

    organization: str
    period: str
    edition: str
    position: int
    lines: int
    corrections: int = Field(description="Lines that are movements of months closed before they came")
    totals: list[CurrencySums]
    files: list[ReportFile]
    manifest: dict[str, Any]


_SUMS: Final = {
    "currency": "EUR",
    "movements": 42,
    "gross": "5061.00",
    "refunded": "12.50",
    "net": "5048.50",
    "failures": 3,
    "opening_balance": "0.00",
    "closing_balance": "5048.50",
}
_MONTHS_EXAMPLE: Final = {
    "organization": "acme",
    "drafts_position": 1204,
    "drafts_due": False,
    "months": [
        {
            "period": "2011-11",
            "state": "open",
            "edition": "draft",
            "position": 1204,
            "lines": 45,
            "totals": [_SUMS],
            "late": [],
            "history": [],
        }
    ],
}
_REPORT_EXAMPLE: Final = {
    "organization": "acme",
    "period": "2011-11",
    "edition": "draft",
    "position": 1204,
    "lines": 45,
    "corrections": 0,
    "totals": [_SUMS],
    "files": [
        {
            "name": "itemised.parquet",
            "format": "parquet",
            "media_type": MEDIA_TYPES[".parquet"],
            "bytes": 5120,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "listed": True,
        }
    ],
    "manifest": {"report_id": "3b5d5c3712955042212316173ccf37be800e0a3b4c1e9b1b2f0e1f0a5c6d7e8f"},
}
_BINARY: Final = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
_FILE_HEADERS: Final = {
    "ETag": {"schema": {"type": "string"}, "description": "The SHA-256 of the whole file, in quotes"},
    "Repr-Digest": {"schema": {"type": "string"}, "description": "The same as RFC 9530 has it"},
    "Accept-Ranges": {"schema": {"type": "string"}},
}


@router.get(
    "",
    response_model=Months,
    responses={200: {"content": {"application/json": {"example": _MONTHS_EXAMPLE}}}, **_NO},
)
async def months(request: Request, principal: Reader, organization: OrganizationQuery = None) -> Response:
    """An organization's months: open, closed or corrected, and what each comes to."""
    service: Service = request.app.state.service
    wanted = principal.organization(organization)
    return _json(await service.run(_months, service.shelf, wanted))


@router.get(
    "/{period}/{edition}",
    response_model=ReportSummary,
    responses={200: {"content": {"application/json": {"example": _REPORT_EXAMPLE}}}, **_NO},
)
async def report(
    request: Request,
    principal: Reader,
    period: Period,
    edition: Edition,
    organization: OrganizationQuery = None,
) -> Response:
    """One report: a month's present one, its draft, or a revision of it."""
    service: Service = request.app.state.service
    wanted = principal.organization(organization)
    return _json(await service.look(_report, service.shelf, wanted, period, _edition(edition)))


@router.api_route(
    "/{period}/{edition}/{name}",
    methods=["GET"],
    response_class=Response,
    responses={
        200: {"description": "The file", "content": _BINARY, "headers": _FILE_HEADERS},
        206: {"description": "The range of it", "content": _BINARY, "headers": _FILE_HEADERS},
        304: {"description": "Its caller has it already"},
        **problems(416),
        **_NO,
    },
)
@router.head("/{period}/{edition}/{name}", include_in_schema=False)
async def report_file(
    request: Request,
    principal: Reader,
    period: Period,
    edition: Edition,
    name: FileName,
    organization: OrganizationQuery = None,
) -> Response:
    """A file of a report, whole or a range of bytes. ETag and Repr-Digest are its SHA-256."""
    service: Service = request.app.state.service
    wanted = principal.organization(organization)

    async def answer() -> Response:
        found = await service.run(_file, service.shelf, wanted, period, _edition(edition), name)
        return await file_response(request, found)

    # A draft may be written anew between the look and the reading.
    return await again(answer)


def _months(shelf: Shelf, organization: str) -> Months:
    freshness = shelf.freshness()
    return Months(
        organization=organization,
        drafts_position=freshness.position,
        drafts_due=freshness.due,
        months=[_month(month) for month in shelf.months(organization)],
    )


def _month(month: Month) -> MonthSummary:
    found = month.report
    return MonthSummary(
        period=month.period,
        state=month.state,
        edition=None if found is None else found.edition,
        position=None if found is None else found.position,
        lines=None if found is None else found.lines,
        totals=[] if found is None else _totals(found),
        late=[
            LateSums(
                booked_in=late.booked_in,
                currency=late.currency,
                movements=late.count,
                amount=_units(late.amount_minor, late.currency),
            )
            for late in month.late
        ],
        history=[
            Revision(
                action=each.action,
                revision=each.revision,
                position=each.position,
                at=each.at,
                by=each.by,
                reason=each.reason,
            )
            for each in month.history
        ],
    )


def _report(shelf: Shelf, organization: str, period: str, edition: str | None) -> ReportSummary:
    found = shelf.report(organization, period, edition)
    return ReportSummary(
        organization=organization,
        period=period,
        edition=found.edition,
        position=found.position,
        lines=found.lines,
        corrections=found.corrections,
        totals=_totals(found),
        files=[
            ReportFile(
                name=each.name,
                format=each.format,
                media_type=MEDIA_TYPES[each.name[each.name.rindex(".") :]],
                bytes=each.size,
                sha256=each.sha256,
                listed=each.listed,
            )
            for each in shelf.files(found)
        ],
        manifest=found.manifest.content,
    )


def _file(shelf: Shelf, organization: str, period: str, edition: str | None, name: str) -> Any:
    return shelf.file(shelf.report(organization, period, edition), name)


def _totals(found: Report) -> list[CurrencySums]:
    return [
        CurrencySums(
            currency=each.currency,
            movements=each.count,
            gross=_units(each.gross_minor, each.currency),
            refunded=_units(each.refunded_minor, each.currency),
            net=_units(each.net_minor, each.currency),
            failures=each.failures,
            opening_balance=_units(each.opening_minor, each.currency),
            closing_balance=_units(each.closing_minor, each.currency),
        )
        for each in found.totals
    ]


def _units(minor: int, currency: str) -> str:
    return format(Money(minor, currency).amount, "f")


def _edition(edition: str) -> str | None:
    return None if edition == "current" else edition


def _json(answer: Any) -> Response:
    return Response(as_json(answer), media_type="application/json")
