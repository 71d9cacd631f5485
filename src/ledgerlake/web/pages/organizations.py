"""The organizations that somebody sees, and one organization's months."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledgerlake.queries import AsOf, GetStatistics
from ledgerlake.queries.figures import units
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.pages import visible
from ledgerlake.web.pages.rendering import render
from ledgerlake.web.service import Service
from ledgerlake.web.shelf import Freshness, Month

router = APIRouter()

_PAGE: Final = 50
# So many are asked for one by one; more than that in one question about all.
_FEW: Final = 20


@dataclass(frozen=True, slots=True)
class _Volume:
    currency: str
    completed: int
    gross: Decimal
    refunded: Decimal

    @property
    def net(self) -> Decimal:
        return self.gross - self.refunded


@router.get("/")
async def organizations(
    request: Request,
    principal: Annotated[Principal, Depends(Allowed(None))],
    q: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """The organizations, fifty a page, or those whose name holds `q`."""
    service: Service = request.app.state.service
    names = await service.run(visible.names, service, principal)
    if len(names) == 1 and not q:
        return RedirectResponse(_target(principal, names[0]), 303)
    wanted = q.strip().casefold()
    found = [name for name in names if wanted in name.casefold()]
    shown = found[(page - 1) * _PAGE : page * _PAGE]
    figures = principal.may("statistics")
    volumes, as_of = await service.run(_volumes, service, shown) if figures else ({}, None)
    return render(
        request,
        "organizations.html",
        q=q.strip(),
        number=page,
        pages=-(-len(found) // _PAGE),
        all=len(names),
        found=len(found),
        figures=figures,
        as_of=as_of,
        rows=[(name, _target(principal, name), volumes.get(name, [])) for name in shown],
    )


@router.get("/organizations/{name}")
async def organization(
    request: Request, name: str, principal: Annotated[Principal, Depends(Allowed("reports"))]
) -> Response:
    """An organization's months, the last one first."""
    service: Service = request.app.state.service
    found = await visible.organization(request, principal, name)
    months, freshness = await service.run(_months, service, found)
    return render(
        request, "organization.html", organization=found, slug=name, months=months, freshness=freshness
    )


def _target(principal: Principal, name: str) -> str:
    address = f"/organizations/{visible.slug(name)}"
    return address if principal.may("reports") else f"{address}/payments"


def _months(service: Service, organization: str) -> tuple[list[Month], Freshness]:
    return service.shelf.months(organization), service.shelf.freshness()


def _volumes(service: Service, names: Sequence[str]) -> tuple[dict[str, list[_Volume]], AsOf | None]:
    """What the organizations have moved, a volume a currency, and how fresh that is."""
    asked = [GetStatistics(name) for name in names] if len(names) <= _FEW else [GetStatistics()]
    answers = [service.reads.queries.ask(question) for question in asked]
    wanted = set(names)
    sums: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for row in (row for answer in answers for row in answer.rows if row.organization_id in wanted):
        sums.setdefault((row.organization_id, row.currency), {})[row.status] = (row.count, row.total_minor)
    found: dict[str, list[_Volume]] = {}
    for (name, currency), by_status in sorted(sums.items()):
        completed, gross = by_status.get("completed", (0, 0))
        _, refunded = by_status.get("refunded", (0, 0))
        volume = _Volume(currency, completed, units(gross, currency), units(refunded, currency))
        found.setdefault(name, []).append(volume)
    return found, min((answer.as_of for answer in answers), key=lambda each: each.position, default=None)
