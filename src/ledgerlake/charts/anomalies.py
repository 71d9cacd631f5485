"""Days that are not as such days usually are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from statistics import median

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import CurrencySeries, Frame, Measure, series_by_currency

_WEEKS = 4  # to either side: the weekday's level follows seasons and growth
_FEWEST = 3  # of the same weekday, without which there is no level
_UNUSUAL = 3.5  # usual deviations, after Iglewicz and Hoaglin (1993)
_NORMAL, _NORMAL_MEAN = (
    1.4826,
    1.2533,
)  # of the normal distribution: deviation / MAD, deviation / mean deviation


@dataclass(frozen=True, slots=True)
class Residuals:
    """Of each day: the usual value of its weekday and how far it is off, in whole numbers; None: not known.

    `spread` is the usual deviation: 1.4826 MAD, which is the standard deviation where that exists.
    """

    levels: tuple[int | None, ...]
    residuals: tuple[int | None, ...]
    spread: float

    def unusual(self) -> list[int]:
        """Indexes of the days further off than 3.5 usual deviations, the furthest first."""
        known = [(-abs(each), index) for index, each in enumerate(self.residuals) if each is not None]
        return [index for off, index in sorted(known) if self.spread and -off > _UNUSUAL * self.spread]


def anomalies(trends: Frame, measure: Measure = "gross", known_until: datetime | None = None) -> go.Figure:
    """How far each day is off what its weekday usually brings; the unusual ones are marked.

    Takes trends by day. Usual is the median of the same weekday in the four weeks before and after, the
    day itself left out; the band is 3.5 usual deviations (from the median of the deviations) wide to
    either side. Robust: the anomalies themselves move neither. A day that `known_until` lies in is shaded
    and not judged. A panel per currency.
    Raises ChartError when a column of TRENDS_COLUMNS is missing, or for a measure there is not.
    """
    every_series = series_by_currency(trends, "day")
    title = f"Unusual days (UTC): {theme.MEASURES.get(measure, measure)} above or below the weekday's usual"
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    found = [_residuals(each, measure, known_until) for each in shown]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each, measure, of) for each, of in zip(shown, found, strict=True)],
        heights=[180] * len(shown),
        note=theme.unfinished_note(shown[0].periods[-1], "day", known_until),
    )
    for row, (series, residuals) in enumerate(zip(shown, found, strict=True), start=1):
        _draw(figure, row, series, measure, residuals)
        theme.shade_unfinished(figure, row, series.periods, "day", known_until)
    theme.time_axis(figure, len(shown), "day", shown[0].periods)
    if any(each.unusual() for each in found):
        theme.name_unusual(figure, "unusual")
    return figure


def robust_residuals(values: Sequence[int], finished: Sequence[bool]) -> Residuals:
    """Of one value a day, without gaps; an unfinished day is neither judged nor a measure for others."""
    levels: list[int | None] = []
    residuals: list[int | None] = []
    for index, value in enumerate(values):
        near = range(index - 7 * _WEEKS, index + 7 * _WEEKS + 1, 7)
        alike = [values[day] for day in near if day != index and 0 <= day < len(values) and finished[day]]
        level = middle(alike) if len(alike) >= _FEWEST else None
        levels.append(level)
        residuals.append(value - level if level is not None and finished[index] else None)
    off = [abs(each) for each in residuals if each is not None]
    spread = _NORMAL * median(off) if off else 0.0
    if off and not spread:  # more than half of the days are exactly as usual
        spread = _NORMAL_MEAN * sum(off) / len(off)
    return Residuals(tuple(levels), tuple(residuals), spread)


def middle(values: Sequence[int]) -> int:
    """The median in whole numbers: of two in the middle their mean, half to even."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    half, odd = divmod(low + high, 2)
    return half + (odd and half % 2)


def _residuals(series: CurrencySeries, measure: Measure, known_until: datetime | None) -> Residuals:
    finished = [theme.is_finished(day, "day", known_until) for day in series.periods]
    return robust_residuals(series.of(measure), finished)


def _heading(series: CurrencySeries, measure: Measure, residuals: Residuals) -> str:
    judged = sum(each is not None for each in residuals.residuals)
    if not judged:
        return "too few weeks to know what is usual"
    unusual = residuals.unusual()
    if not unusual:
        return f"none of {judged:,} days unusual"
    off = residuals.residuals[unusual[0]] or 0
    return (
        f"{len(unusual):,} of {judged:,} days unusual, furthest"
        f" {theme.spelt(series.periods[unusual[0]], 'day')}: {_signed(series, measure, off)}"
    )


def _draw(
    figure: go.Figure, row: int, series: CurrencySeries, measure: Measure, residuals: Residuals
) -> None:
    days, values = list(series.periods), series.of(measure)
    texts = [
        "" if off is None or level is None else
        f"{series.told(measure, value)}, usual {series.told(measure, level)}:"
        f" {_signed(series, measure, off)}"
        for value, level, off in zip(values, residuals.levels, residuals.residuals, strict=True)
    ]  # fmt: skip
    drawn = [None if off is None else series.drawn(measure, off) for off in residuals.residuals]
    bound = series.drawn(measure, 1) * _UNUSUAL * residuals.spread
    noon = datetime.combine(days[0], time(12))
    edges = [noon - timedelta(days=1), noon + timedelta(days=len(days) - 1)]
    for sign, fill in ((-1, None), (1, "tonexty")):
        figure.add_scatter(
            x=edges, y=[sign * bound] * 2, name="usual", legendgroup="band", mode="lines",
            showlegend=row == 1 and fill is not None, line={"width": 0}, fill=fill, fillcolor=theme.BAND,
            hoverinfo="skip", row=row, col=1,
        )  # fmt: skip
    figure.add_bar(
        x=days, y=drawn, name="off the usual", legendgroup="off", showlegend=row == 1,
        marker_color=theme.GROSS, width=theme.bar_width("day"), **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    unusual = residuals.unusual()
    if unusual:
        figure.add_scatter(
            x=[days[index] for index in unusual], y=[drawn[index] for index in unusual], name="unusual",
            legendgroup="unusual", showlegend=False, mode="markers", hoverinfo="skip",
            marker={"color": theme.UNUSUAL, "size": 8, "symbol": "diamond"}, row=row, col=1,
        )  # fmt: skip
    if measure in ("gross", "refunds"):
        theme.money_axis(figure, row, series.currency)
    else:
        theme.count_axis(figure, row, measure, max(values))


def _signed(series: CurrencySeries, measure: Measure, off: int) -> str:
    return ("+" if off > 0 else "") + series.told(measure, off)
