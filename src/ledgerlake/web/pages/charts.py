"""Charts of a report's lines, as plotly's script takes them: drawn in the browser, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.reports.revisions import DRAFT
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.pages import visible
from ledgerlake.web.problems import Problem
from ledgerlake.web.report import Report
from ledgerlake.web.service import Service

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

router = APIRouter()

Theme = Literal["light", "dark"]
# Business times are not quite in the order of the log.
_LAST_EVENTS: Final = 100
_CLEAR: Final = "rgba(0, 0, 0, 0)"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that a page has room for: its name in addresses, and what it shows."""

    name: str
    title: str


_VOLUME: Final = Chart("volume", "Gross, refunds and net, by day")
_WATERFALL: Final = Chart("waterfall", "From gross to net")
_SUCCESS: Final = Chart("success", "Attempts that went through, by day")


def of_days(daily: pl.DataFrame) -> list[Chart]:
    """The charts that say something of these days."""
    statuses = set(daily["status"])
    found = [_VOLUME] if statuses else []
    if {"completed", "refunded"} <= statuses:
        found.append(_WATERFALL)
    if "failed" in statuses:
        found.append(_SUCCESS)
    return found


def known_until(service: Service, report: Report, daily: pl.DataFrame) -> datetime | None:
    """Up to when a draft's days are all there, as a clock of the report's zone has it; None: it is closed.

    That is the latest business time among the last events in it and its own lines: of the day that it lies
    in more may come. One that is still to come says nothing.
    """
    if report.edition != DRAFT or daily.is_empty():
        return None
    position = max(report.position, service.shelf.freshness().position or 0)
    events = list(service.reads.store.read_all(max(0, position - _LAST_EVENTS), up_to=position))
    if not events:
        return None
    latest: datetime = max(*(each.timestamp for each in events), *daily["last"])
    latest = min(latest, max(each.recorded_at for each in events))
    return latest.astimezone(ZoneInfo(report.zone)).replace(tzinfo=UTC)


@router.get("/organizations/{name}/periods/{period}/{edition}/charts/{chart}")
async def chart(
    request: Request,
    principal: Annotated[Principal, Depends(Allowed("reports"))],
    name: str,
    period: str,
    edition: str,
    chart: str,
    theme: Theme = "light",
    narrow: bool = False,
) -> Response:
    """A chart's data and layout as JSON."""
    service: Service = request.app.state.service
    organization = await visible.organization(request, principal, name)
    text = await service.look(_json, service, organization, period, edition, chart, theme, narrow)
    return Response(text, media_type="application/json")


def _json(
    service: Service, organization: str, period: str, edition: str, name: str, theme: Theme, narrow: bool
) -> str:
    from ledgerlake import charts

    report = service.shelf.report(organization, period, edition)
    daily = report.daily()
    known = known_until(service, report, daily)
    match name:
        case "volume":
            figure = charts.volume(daily, "day", known)
        case "waterfall":
            figure = charts.waterfall(daily)
        case "success":
            figure = charts.success_rate(daily, "day", known)
        case _:
            raise Problem(404, "no_such_chart", "There is no such chart.", "Go back to the month.")
    # The days are those of the report's zone.
    title = (figure.layout.title.text or "").replace("(UTC)", f"({report.zone})")
    note = (figure.layout.title.subtitle.text or "").replace(" UTC", f" {report.zone}")
    figure.update_layout(title={"text": title, "subtitle_text": note})
    figure.update_layout(paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR)
    return _themed(charts.narrow(figure) if narrow else figure, theme)


def _themed(figure: go.Figure, theme: Theme) -> str:
    from ledgerlake.charts import theme as drawn
    from ledgerlake.charts import to_json

    if theme == "light":
        return to_json(figure)
    figure.update_layout(template="plotly_dark")
    text = to_json(figure)
    # What is drawn dark on a light page, or too dark for a dark one.
    for dark, light in {drawn.NET: "#E8EBEE", drawn.QUIET: "#A5AFB9", drawn.SUCCESS: "#56B4E9"}.items():
        text = text.replace(f'"{dark}"', f'"{light}"')
    return text
