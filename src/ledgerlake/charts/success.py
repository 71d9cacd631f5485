"""How many payments succeed: by attempt, and by payment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from math import sqrt

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    WINDOW,
    Frame,
    Granularity,
    busiest_first,
    lazy,
    percent,
    periods_between,
    series_by_currency,
)

SUCCESS_COLUMNS = ("currency", "unreferenced", "completed_at", "first_at")
"""Columns of a payments frame (Lake.payments gives one) that success_by_payment needs: a row per payment."""

_EVERY: dict[Granularity, str] = {"day": "1d", "week": "1w", "month": "1mo"}
_Z = 3.29  # 99.9 %, two-sided: over a year of a few currencies chance alone flags about one day
_BAND_Z = 1.959964  # 95 %


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of so many succeeded in each period of one currency; `things` says of what."""

    currency: str
    things: str
    periods: tuple[date, ...]
    good: tuple[int, ...]
    tried: tuple[int, ...]


def success_rate(trends: Frame, every: Granularity = "day", known_until: datetime | None = None) -> go.Figure:
    """Completed attempts of all attempts per period, and over the last 7 days (4 weeks, 3 months).

    The band is that share's 95 % Wilson interval. Periods whose rate is lower than chance explains
    (99.9 %, Wilson) are marked, the lowest is named. A panel per currency; a period without attempts is a
    gap.
    """
    rates = [
        Rate(each.currency, "attempts", each.periods, each.completed, each.attempts)
        for each in series_by_currency(trends, every)
    ]
    return _figure(f"Success rate of payment attempts per {every} (UTC)", rates, every, known_until)


def success_by_payment(
    payments: Frame, every: Granularity = "week", known_until: datetime | None = None
) -> go.Figure:
    """Payments that completed, at whichever attempt, of all payments of the period of their first attempt.

    Drawn like success_rate, and never below it over all: here a retry makes up for a failure. Payments of
    the last periods may yet be tried again. Credit notes that name no payment are none.
    Raises ChartError when a column of SUCCESS_COLUMNS is missing.
    """
    return _figure(
        f"Success rate by payment per {every} (UTC)", payment_rates(payments, every), every, known_until
    )


def payment_rates(payments: Frame, every: Granularity) -> list[Rate]:
    """Completed of all payments per period of the first attempt, the currency with the most first."""
    rows = (
        lazy(payments, SUCCESS_COLUMNS, "Lake.payments()")
        .filter(~pl.col("unreferenced"))
        .group_by("currency", pl.col("first_at").dt.truncate(_EVERY[every]).dt.date().alias("period"))
        .agg(pl.col("completed_at").is_not_null().sum().cast(pl.Int64), pl.len().cast(pl.Int64))
        .collect()
        .rows()
    )
    if not rows:
        return []
    cells: dict[tuple[str, date], tuple[int, int]] = {}
    movements: dict[str, int] = defaultdict(int)
    for currency, period, good, tried in rows:
        cells[currency, period] = (good, tried)
        movements[currency] += tried
    known = [period for _, period in cells]
    periods = periods_between(min(known), max(known), every)
    return [
        Rate(
            currency,
            "payments",
            periods,
            tuple(cells.get((currency, period), (0, 0))[0] for period in periods),
            tuple(cells.get((currency, period), (0, 0))[1] for period in periods),
        )
        for currency in busiest_first(movements)
    ]


def unusual_periods(
    good: Sequence[int], tried: Sequence[int], finished: Sequence[bool] | None = None
) -> list[int]:
    """Indexes of the periods with a success rate lower than chance explains, the lowest rate first.

    A period counts when the upper end of its 99.9 % Wilson interval is below the rate of all the other
    periods together. An unfinished one is neither judged nor one of the others: it may yet turn out well.
    """
    counted = [True] * len(good) if finished is None else finished
    all_good, all_tried = (
        sum(n for n, counts in zip(each, counted, strict=True) if counts) for each in (good, tried)
    )
    found = []
    for index, (done, of) in enumerate(zip(good, tried, strict=True)):
        if not counted[index]:
            continue
        others = all_tried - of
        # Without a failure nothing is low, whatever the last bit of a float says.
        if done < of and others and wilson(done, of, _Z)[1] < (all_good - done) / others:
            found.append((done / of, index))
    return [index for _, index in sorted(found)]


def wilson(good: int, tried: int, z: float = _BAND_Z) -> tuple[float, float]:
    """The lower and the upper end of the Wilson interval of a proportion (E. B. Wilson, 1927)."""
    rate, square = good / tried, z * z
    centre = rate + square / (2 * tried)
    spread = z * sqrt(rate * (1 - rate) / tried + square / (4 * tried * tried))
    whole = 1 + square / tried
    # At the ends the formula gives 0 and 1, and a float nearly.
    low = 0.0 if not good else max(0.0, (centre - spread) / whole)
    return low, 1.0 if good == tried else min(1.0, (centre + spread) / whole)


def _figure(title: str, rates: list[Rate], every: Granularity, known_until: datetime | None) -> go.Figure:
    if not rates:
        return theme.nothing_yet(title)
    shown = rates[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in rates],
        [_heading(each) for each in shown],
        heights=[180] * len(shown),
        note=theme.unfinished_note(shown[0].periods[-1], every, known_until),
    )
    any_unusual = False
    for row, rate in enumerate(shown, start=1):
        finished = [theme.is_finished(period, every, known_until) for period in rate.periods]
        unusual = unusual_periods(rate.good, rate.tried, finished)
        any_unusual = any_unusual or bool(unusual)
        _draw(figure, row, rate, every, unusual)
        theme.shade_unfinished(figure, row, rate.periods, every, known_until)
    theme.time_axis(figure, len(shown), every, shown[0].periods)
    if any_unusual:
        theme.name_unusual(figure, "lower than chance explains")
    return figure


def _heading(rate: Rate) -> str:
    good, tried = sum(rate.good), sum(rate.tried)
    one = rate.things.removesuffix("s")
    if good == tried:
        return f"no failed {one} among {tried:,}"
    return f"{percent(good, tried)} of {tried:,} {rate.things}, {tried - good:,} failed"


def _told(good: int, tried: int, things: str) -> str:
    if not tried:
        return ""
    low, high = wilson(good, tried)
    interval = f"95 %: {100 * low:.1f} to {100 * high:.1f} %"
    return f"{percent(good, tried)}, {good:,} of {tried:,} {things} ({interval})"


def _draw(figure: go.Figure, row: int, rate: Rate, every: Granularity, unusual: Sequence[int]) -> None:
    periods, window = list(rate.periods), WINDOW[every]
    rates = [good / tried if tried else None for good, tried in zip(rate.good, rate.tried, strict=True)]
    texts = [_told(good, tried, rate.things) for good, tried in zip(rate.good, rate.tried, strict=True)]
    sums = [
        (sum(rate.good[end - window : end]), sum(rate.tried[end - window : end])) if end >= window else (0, 0)
        for end in range(1, len(periods) + 1)
    ]
    ends = [wilson(good, tried) if tried else (None, None) for good, tried in sums]
    shared = {"x": periods, "row": row, "col": 1}
    for bound, fill in ((0, None), (1, "tonexty")):
        figure.add_scatter(
            y=[each[bound] for each in ends], name=f"95 % of the last {window} {every}s", legendgroup="band",
            showlegend=row == 1 and fill is not None, mode="lines", line={"width": 0}, fill=fill,
            fillcolor=theme.BAND, hoverinfo="skip", **shared,
        )  # fmt: skip
    figure.add_scatter(
        y=rates, name=every, legendgroup="rate", showlegend=row == 1, mode="markers",
        marker={"size": 5, "color": theme.GROSS}, cliponaxis=False, **theme.hover(texts), **shared,
    )  # fmt: skip
    figure.add_scatter(
        y=[good / tried if tried else None for good, tried in sums], name=f"last {window} {every}s",
        legendgroup="smooth", showlegend=row == 1, mode="lines", line={"color": theme.SUCCESS, "width": 2.5},
        **theme.hover([_told(good, tried, rate.things) for good, tried in sums]), **shared,
    )  # fmt: skip
    if unusual:
        figure.add_scatter(
            x=[periods[index] for index in unusual], y=[rates[index] for index in unusual],
            name="lower than chance explains", legendgroup="unusual", showlegend=False, mode="markers",
            marker={"color": theme.UNUSUAL, "size": 10, "symbol": "diamond"}, hoverinfo="skip",
            row=row, col=1,
        )  # fmt: skip
        lowest = unusual[0]
        good, tried = rate.good[lowest], rate.tried[lowest]
        theme.name_mark(
            figure, row, periods, lowest, good / tried,
            f"{theme.spelt(periods[lowest], every)}: {percent(good, tried)}, {good:,} of {tried:,}"
            f" {rate.things}",
        )  # fmt: skip
    known = [each for each in rates if each is not None]
    least = max(0.0, min(min(known, default=1.0) - 0.06, 0.89))
    theme.share_axis(figure, row, "success", range=[least, 1.02])
