"""A month of an organization: its report, what came late, its revisions, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final

import polars as pl
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.files import file_response
from ledgerlake.web.pages import charts, visible
from ledgerlake.web.pages.rendering import render
from ledgerlake.web.service import Service, again
from ledgerlake.web.shelf import FileFacts, Freshness, Month, Report, ShelfFile

router = APIRouter()

Signed = Annotated[Principal, Depends(Allowed("reports"))]

_MOST_CORRECTIONS: Final = 50
_CATEGORIES: Final = {
    "charge": "Charges",
    "refund": "Refunds",
    "unreferenced_credit": "Credits that name no payment",
    "failure": "Failed attempts",
    "correction": "Corrections of closed months",
}
_FORMATS: Final = {
    "parquet": "as Parquet",
    "csv": "as CSV",
    "xlsx": "as Excel (XLSX)",
    "html": "as a page to print (HTML)",
    "json": "(JSON)",
}
_CONTENTS: Final = {
    "itemised": ("Lines", "A line for each movement"),
    "summary": ("Summary", "A row for each currency and category"),
    "report": ("Report", "The summary and the lines"),
    "manifest": ("Manifest", "What the report is of, and the SHA-256 of its files"),
}


@dataclass(frozen=True, slots=True)
class _Day:
    """A day's figures of one currency in minor units, for the table beside the charts.

    `finished`: nothing more of it is to be expected.
    """

    day: date
    currency: str
    digits: int
    gross_minor: int
    refunded_minor: int
    failed: int
    finished: bool


@dataclass(frozen=True, slots=True)
class _View:
    """Everything that a report's page shows."""

    month: Month
    report: Report | None
    freshness: Freshness
    files: list[FileFacts]
    corrections: list[dict[str, Any]]
    days: list[_Day]
    charts: list[charts.Chart]


@router.get("/organizations/{name}/periods/{period}")
@router.get("/organizations/{name}/periods/{period}/{edition}")
async def period(
    request: Request, principal: Signed, name: str, period: str, edition: str | None = None
) -> Response:
    """A month's present report, or an edition of it: draft, revision-1."""
    service: Service = request.app.state.service
    organization = await visible.organization(request, principal, name)
    view = await service.look(_view, service, organization, period, edition)
    return render(
        request,
        "period.html",
        organization=organization,
        slug=name,
        edition=view.month.edition if view.report is None else view.report.edition,
        categories=_CATEGORIES,
        formats=_FORMATS,
        contents=_CONTENTS,
        most_corrections=_MOST_CORRECTIONS,
        zone="UTC" if view.report is None else view.report.zone,
        view=view,
    )


@router.api_route("/organizations/{name}/periods/{period}/{edition}/files/{file}", methods=["GET", "HEAD"])
async def file(
    request: Request, principal: Signed, name: str, period: str, edition: str, file: str
) -> Response:
    """A file of a report."""
    service: Service = request.app.state.service
    organization = await visible.organization(request, principal, name)

    def look() -> ShelfFile:
        return service.shelf.file(service.shelf.report(organization, period, edition), file)

    async def answer() -> Response:
        found = await service.run(look)
        return await file_response(request, found, f"{name}-{period}-{edition}-{found.name}")

    # A draft may be written anew between the look and the reading.
    return await again(answer)


def _view(service: Service, organization: str, period: str, edition: str | None) -> _View:
    shelf = service.shelf
    month = shelf.month(organization, period)
    if edition is None and month.report is None and month.state != "damaged":
        return _View(month, None, shelf.freshness(), [], [], [], [])
    report = shelf.report(organization, period, edition)
    daily = report.daily()
    return _View(
        month,
        report,
        shelf.freshness(),
        shelf.files(report),
        report.first_corrections(_MOST_CORRECTIONS),
        _days(report, daily, charts.known_until(service, report, daily)),
        charts.of_days(daily),
    )


def _days(report: Report, daily: pl.DataFrame, known_until: datetime | None) -> list[_Day]:
    from ledgerlake.charts.theme import is_finished

    digits = {each.currency: each.digits for each in report.totals}
    found: dict[tuple[str, date], dict[str, tuple[int, int]]] = {}
    for row in daily.iter_rows(named=True):
        cell = found.setdefault((row["currency"], row["period"]), {})
        cell[row["status"]] = (row["count"], row["total_minor"])
    return [
        _Day(
            day,
            currency,
            digits[currency],
            cell.get("completed", (0, 0))[1],
            cell.get("refunded", (0, 0))[1],
            cell.get("failed", (0, 0))[0],
            is_finished(day, "day", known_until),
        )
        for (currency, day), cell in sorted(found.items())
    ]
