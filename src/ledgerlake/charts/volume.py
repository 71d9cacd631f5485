"""Gross, refunds and net over time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    WINDOW,
    CurrencySeries,
    Frame,
    Granularity,
    counted,
    exact,
    series_by_currency,
    units,
)


def volume(trends: Frame, every: Granularity = "day", known_until: datetime | None = None) -> go.Figure:
    """Bars of gross (up) and refunds (down) per period, with the trailing mean of net; a panel per currency.

    The mean is over 7 days (4 weeks, 3 months) and leaves out periods that `known_until`, the last
    moment the log knows of, lies in: those are shaded.
    """
    every_series = series_by_currency(trends, every)
    title = f"Gross, refunds and net per {every} (UTC)"
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each) for each in shown],
        note=theme.unfinished_note(shown[0].periods[-1], every, known_until),
    )
    for row, series in enumerate(shown, start=1):
        _draw(figure, row, series, every, known_until)
        theme.money_axis(figure, row, series.currency)
        theme.shade_unfinished(figure, row, series.periods, every, known_until)
    theme.time_axis(figure, len(shown), every, shown[0].periods)
    figure.update_layout(barmode="relative")
    return figure


def _heading(series: CurrencySeries) -> str:
    gross, refunds, net = (
        exact(sum(part), series.currency) for part in (series.gross, series.refunds, series.net)
    )
    return f"gross {gross} − refunds {refunds} = net {net}"


def _draw(
    figure: go.Figure, row: int, series: CurrencySeries, every: Granularity, known_until: datetime | None
) -> None:
    currency, periods = series.currency, list(series.periods)
    gross = [
        f"{exact(minor, currency)} {currency} in {counted(count, 'payment')}"
        for minor, count in zip(series.gross, series.completed, strict=True)
    ]
    refunds = [
        f"{exact(minor, currency)} {currency} in {counted(count, 'refund')}"
        for minor, count in zip(series.refunds, series.refunded, strict=True)
    ]
    net = [f"{exact(minor, currency)} {currency}" for minor in series.net]
    shared = {"x": periods, "showlegend": row == 1}
    bar = {"width": theme.bar_width(every)}
    figure.add_bar(
        y=[units(minor, currency) for minor in series.gross], name="gross", legendgroup="gross",
        marker_color=theme.GROSS, **theme.hover(gross), **bar, **shared, row=row, col=1,
    )  # fmt: skip
    figure.add_bar(
        y=[-units(minor, currency) for minor in series.refunds], name="refunds", legendgroup="refunds",
        marker_color=theme.REFUNDS, **theme.hover(refunds), **bar, **shared, row=row, col=1,
    )  # fmt: skip
    figure.add_scatter(
        y=[units(minor, currency) for minor in series.net], name="net", legendgroup="net", mode="markers",
        marker={"color": theme.NET, "size": 3.5}, **theme.hover(net), **shared, row=row, col=1,
    )  # fmt: skip
    means = trailing_means(
        series.net,
        WINDOW[every],
        [theme.is_finished(period, every, known_until) for period in series.periods],
    )
    name = f"net, mean of {WINDOW[every]} {every}s"
    figure.add_scatter(
        y=[None if mean is None else float(mean) / 10**series.exponent for mean in means],
        name=name, legendgroup="mean", mode="lines", line={"color": theme.NET, "width": 2.5},
        **theme.hover(["" if mean is None else f"{exact(int(mean), currency)} {currency}" for mean in means]),
        **shared, row=row, col=1,
    )  # fmt: skip


def trailing_means(values: Sequence[int], window: int, finished: Sequence[bool]) -> list[Decimal | None]:
    """The mean of each value and the `window - 1` before it, to whole minor units, half to even.

    None where there are not yet so many, and where one of them is not finished.
    """
    means: list[Decimal | None] = []
    for end in range(1, len(values) + 1):
        start = end - window
        if start < 0 or not all(finished[start:end]):
            means.append(None)
        else:
            mean = Decimal(sum(values[start:end])) / window
            means.append(mean.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    return means
