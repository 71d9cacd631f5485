"""Charts of a report's lines, as plotly's script takes them: drawn in the browser, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.pages import visible
from ledgerlake.web.problems import Problem
from ledgerlake.web.service import Service

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

router = APIRouter()

Theme = Literal["light", "dark"]
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
    match name:
        case "volume":
            figure = charts.volume(daily, "day")
        case "waterfall":
            figure = charts.waterfall(daily)
        case "success":
            figure = charts.success_rate(daily, "day")
        case _:
            raise Problem(404, "no_such_chart", "There is no such chart.", "Go back to the month.")
    # The days are those of the report's zone.
    title = (figure.layout.title.text or "").replace("(UTC)", f"({report.zone})")
    figure.update_layout(title_text=title, paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR)
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
