"""From gross to net."""

from __future__ import annotations

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    CurrencySeries,
    Frame,
    counted,
    exact,
    percent,
    series_by_currency,
    units,
)


def waterfall(trends: Frame) -> go.Figure:
    """Gross, less refunds, is net: of the whole frame, a panel per currency.

    Raises ChartError when a column of TRENDS_COLUMNS is missing.
    """
    title = "From gross to net"
    every_series = [each for each in series_by_currency(trends) if any(each.gross) or any(each.refunds)]
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each) for each in shown],
        heights=[theme.rows_height(3)] * len(shown),
        share_x=False,
        legend=False,
    )
    for row, series in enumerate(shown, start=1):
        _draw(figure, row, series)
    figure.update_layout(hovermode="closest", waterfallgap=0.25)
    return figure


def _heading(series: CurrencySeries) -> str:
    gross, refunds = sum(series.gross), sum(series.refunds)
    return (
        f"{percent(gross - refunds, gross)} of gross is left"
        if gross > refunds
        else "nothing of gross is left"
    )


def _draw(figure: go.Figure, row: int, series: CurrencySeries) -> None:
    currency, gross, refunds = series.currency, sum(series.gross), sum(series.refunds)
    net = gross - refunds
    steps = [("gross", gross), ("refunds", -refunds), ("net", net)]
    texts = [
        f"gross {exact(gross, currency)} {currency}<br>in {counted(sum(series.completed), 'payment')}",
        f"refunds {exact(refunds, currency)} {currency}<br>in {counted(sum(series.refunded), 'refund')}",
        f"net {exact(net, currency)} {currency}",
    ]
    figure.add_waterfall(
        orientation="h", y=[0, 1, 2], x=[units(value, currency) for _, value in steps],
        measure=["absolute", "relative", "total"], text=[exact(value, currency) for _, value in steps],
        textposition="auto", constraintext="none", cliponaxis=False, name="",
        decreasing={"marker": {"color": theme.REFUNDS}}, totals={"marker": {"color": theme.SUCCESS}},
        connector={"line": {"color": theme.QUIET, "width": 1}},
        **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    theme.names_axis(figure, row, [name for name, _ in steps])
    theme.money_axis(figure, row, currency, axis="x")
