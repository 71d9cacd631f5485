"""How many payment attempts succeed."""

from __future__ import annotations

from datetime import datetime
from math import sqrt

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import CurrencySeries, Granularity, percent, series_by_currency

_WINDOW: dict[Granularity, int] = {"day": 7, "week": 4, "month": 3}
_Z = 3.29  # 99.9 %, two-sided: over a year of a few currencies chance alone flags about one day


def success_rate(
    trends: pl.DataFrame, every: Granularity = "day", known_until: datetime | None = None
) -> go.Figure:
    """Completed attempts of all attempts per period, and over the last 7 days (4 weeks, 3 months).

    Periods whose rate is lower than chance explains (99.9 %, Wilson) are marked, the lowest is named.
    A panel per currency; a period without attempts is a gap.
    """
    every_series = series_by_currency(trends, every)
    title = f"Success rate of payment attempts per {every} (UTC)"
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
    # The legend names the mark even when the first panel has none to mark.
    figure.add_scatter(
        x=[None], y=[None], name="lower than chance explains", mode="markers", legendgroup="unusual",
        marker={"color": theme.UNUSUAL, "size": 10, "symbol": "diamond"}, row=1, col=1,
    )  # fmt: skip
    return figure


def unusual_periods(series: CurrencySeries) -> list[int]:
    """Indexes of the periods with a success rate lower than chance explains, the lowest rate first.

    A period counts when the upper end of its 99.9 % Wilson interval is below the rate of all the other
    periods together.
    """
    completed, attempts = sum(series.completed), sum(series.attempts)
    found = []
    for index, (good, tried) in enumerate(zip(series.completed, series.attempts, strict=True)):
        others = attempts - tried
        # Without a failure nothing is low, whatever the last bit of a float says.
        if good < tried and others and wilson_upper(good, tried) < (completed - good) / others:
            found.append((good / tried, index))
    return [index for _, index in sorted(found)]


def wilson_upper(good: int, tried: int, z: float = _Z) -> float:
    """The upper end of the Wilson interval of a proportion (E. B. Wilson, 1927)."""
    rate, square = good / tried, z * z
    centre = rate + square / (2 * tried)
    spread = z * sqrt(rate * (1 - rate) / tried + square / (4 * tried * tried))
    return min(1.0, (centre + spread) / (1 + square / tried))


def _heading(series: CurrencySeries) -> str:
    completed, failed = sum(series.completed), sum(series.failed)
    if not failed:
        return f"<b>{series.currency}</b>  no failed attempt among {completed:,}"
    rate = percent(completed, completed + failed)
    return f"<b>{series.currency}</b>  {rate} of {completed + failed:,} attempts, {failed:,} failed"


def _draw(figure: go.Figure, row: int, series: CurrencySeries, every: Granularity) -> None:
    periods, tried = list(series.periods), series.attempts
    rates = [good / all_ if all_ else None for good, all_ in zip(series.completed, tried, strict=True)]
    texts = [
        "" if rate is None else f"{percent(good, all_)}, {good:,} of {all_:,} attempts"
        for rate, good, all_ in zip(rates, series.completed, tried, strict=True)
    ]
    figure.add_scatter(
        x=periods, y=rates, name=every, legendgroup="rate", showlegend=row == 1, mode="lines+markers",
        line={"color": theme.GROSS, "width": 1}, marker={"size": 4, "color": theme.GROSS},
        **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    window = _WINDOW[every]
    smooth: list[float | None] = []
    for end in range(1, len(periods) + 1):
        recent = slice(max(0, end - window), end)
        attempts = sum(tried[recent])
        smooth.append(sum(series.completed[recent]) / attempts if end >= window and attempts else None)
    figure.add_scatter(
        x=periods, y=smooth, name=f"last {window} {every}s", legendgroup="smooth", showlegend=row == 1,
        mode="lines", line={"color": theme.SUCCESS, "width": 2.5},
        **theme.hover(["" if rate is None else f"{rate:.2%}" for rate in smooth]), row=row, col=1,
    )  # fmt: skip
    unusual = unusual_periods(series)
    if unusual:
        figure.add_scatter(
            x=[periods[index] for index in unusual], y=[rates[index] for index in unusual],
            name="lower than chance explains", legendgroup="unusual", showlegend=False, mode="markers",
            marker={"color": theme.UNUSUAL, "size": 10, "symbol": "diamond"}, hoverinfo="skip",
            row=row, col=1,
        )  # fmt: skip
        lowest = unusual[0]
        late = lowest > len(periods) / 2
        figure.add_annotation(
            text=f"{periods[lowest]:%a %-d %b %Y}: {texts[lowest]}", x=periods[lowest], y=rates[lowest],
            showarrow=True, arrowcolor=theme.QUIET, ax=-24 if late else 24, ay=0,
            xanchor="right" if late else "left", font={"size": 12, "color": theme.UNUSUAL},
            row=row, col=1,
        )  # fmt: skip
    known = [rate for rate in rates if rate is not None]
    lowest_rate = min(known, default=1.0)
    figure.update_yaxes(
        row=row, col=1, tickformat=".0%", range=[max(0.0, min(lowest_rate - 0.06, 0.89)), 1.02],
        title={"text": "success"}, automargin=True,
    )  # fmt: skip
