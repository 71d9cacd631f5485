"""How much of what was paid goes back."""

from __future__ import annotations

from datetime import datetime

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import CurrencySeries, Granularity, exact, percent, series_by_currency

_WINDOW: dict[Granularity, int] = {"day": 28, "week": 4, "month": 3}


def refund_rate(
    trends: pl.DataFrame, every: Granularity = "week", known_until: datetime | None = None
) -> go.Figure:
    """Amount refunded of the gross amount in the same period, and over the last 4 weeks (3 months).

    Both by the date of the movement: a refund counts when it is paid, not when its payment was. A panel
    per currency; a period without gross is a gap.
    """
    every_series = series_by_currency(trends, every)
    title = f"Refund rate per {every} (UTC): amount refunded of gross"
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each) for each in shown],
        heights=[180] * len(shown),
    )
    for row, series in enumerate(shown, start=1):
        _draw(figure, row, series, every)
        theme.shade_unfinished(figure, row, series.periods, every, known_until)
    theme.time_axis(figure, len(shown), every)
    return figure


def _heading(series: CurrencySeries) -> str:
    gross, refunds = sum(series.gross), sum(series.refunds)
    amount = f"{exact(refunds, series.currency)} refunded in {sum(series.refunded):,} refunds"
    return f"<b>{series.currency}</b>  " + (f"{percent(refunds, gross)}: {amount}" if gross else amount)


def _draw(figure: go.Figure, row: int, series: CurrencySeries, every: Granularity) -> None:
    currency, periods, window = series.currency, list(series.periods), _WINDOW[every]
    rates: list[float | None] = []
    smooth: list[float | None] = []
    texts: list[str] = []
    for end in range(1, len(periods) + 1):
        gross, refunds = series.gross[end - 1], series.refunds[end - 1]
        rates.append(refunds / gross if gross else None)
        share = f"{percent(refunds, gross)}: " if gross else ""
        texts.append(f"{share}{exact(refunds, currency)} of {exact(gross, currency)} {currency}")
        recent = sum(series.gross[max(0, end - window) : end])
        back = sum(series.refunds[max(0, end - window) : end])
        smooth.append(back / recent if end >= window and recent else None)
    figure.add_scatter(
        x=periods, y=rates, name=every, legendgroup="rate", showlegend=row == 1, mode="markers",
        marker={"color": theme.REFUNDS, "size": 6}, **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=periods, y=smooth, name=f"last {window} {every}s", legendgroup="smooth", showlegend=row == 1,
        mode="lines", line={"color": theme.NET, "width": 2.5},
        **theme.hover(["" if rate is None else f"{rate:.2%}" for rate in smooth]), row=row, col=1,
    )  # fmt: skip
    figure.update_yaxes(
        row=row, col=1, tickformat=".0%", rangemode="tozero", title={"text": "refunded"}, automargin=True
    )
