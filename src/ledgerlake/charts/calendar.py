"""Every day of a currency at a glance, a column per week."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import CurrencySeries, Frame, Measure, series_by_currency

_MOST_WEEKS = 106  # two years: a narrower column could not be pointed at
_FEWEST_WEEKS = 4  # a narrower frame is filled up with empty ones
_LABELLED_WEEKS = 13  # up to a quarter's: labels are Mondays, above they are months
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def calendar(trends: Frame, measure: Measure = "gross", known_until: datetime | None = None) -> go.Figure:
    """The measure of each day of the last two years, darker for more; a heat map per currency.

    Takes trends by day. A day without movements has the palest colour, and the highest fiftieth of the days
    share the darkest, so that one of them does not fade all others. Days outside the frame have none, and
    the day that `known_until` lies in is outlined.
    Raises ChartError when a column of TRENDS_COLUMNS is missing, or for a measure there is not.
    """
    every_series = series_by_currency(trends, "day")
    title = f"Calendar: {theme.MEASURES.get(measure, measure)} per day (UTC)"
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each, measure) for each in shown],
        heights=[150] * len(shown),
        legend=False,
        note=theme.unfinished_note(shown[0].periods[-1], "day", known_until).replace("Shaded", "Outlined"),
    )
    for row, series in enumerate(shown, start=1):
        _draw(figure, row, series, measure, known_until)
    figure.update_layout(hovermode="closest")
    return figure


def monday(day: date) -> date:
    """The Monday of the day's week."""
    return day - timedelta(days=day.weekday())


def darkest(values: Sequence[int]) -> int:
    """The value from which on days are darkest: 98 % of those that are not 0 are at most it; at least 1."""
    ordered = sorted(value for value in values if value)
    return ordered[-(-len(ordered) * 98 // 100) - 1] if ordered else 1


def _heading(series: CurrencySeries, measure: Measure) -> str:
    values = series.of(measure)
    most = max(range(len(values)), key=values.__getitem__)
    if not values[most]:
        return "none on any day"
    told = series.told(measure, values[most])
    return f"most on {theme.spelt(series.periods[most], 'day')}: {told}"


def _draw(
    figure: go.Figure, row: int, series: CurrencySeries, measure: Measure, known_until: datetime | None
) -> None:
    last = monday(series.periods[-1])
    first = max(monday(series.periods[0]), last - timedelta(weeks=_MOST_WEEKS - 1))
    first = min(first, last - timedelta(weeks=_FEWEST_WEEKS - 1))
    weeks = [first + timedelta(weeks=number) for number in range((last - first).days // 7 + 1)]
    drawn: list[list[float | None]] = [[None] * len(weeks) for _ in _WEEKDAYS]
    texts = [[""] * len(weeks) for _ in _WEEKDAYS]
    for day, value in zip(series.periods, series.of(measure), strict=True):
        if day < first:
            continue
        week = (day - first).days // 7
        drawn[day.weekday()][week] = series.drawn(measure, value)
        texts[day.weekday()][week] = f"{theme.spelt(day, 'day')}<br>{series.told(measure, value)}"
        if not theme.is_finished(day, "day", known_until):
            theme.outline(
                figure, row, datetime.combine(weeks[week], time()), day.weekday(), timedelta(days=3, hours=12)
            )
    domain = figure.get_subplot(row, 1).yaxis.domain
    figure.add_heatmap(
        x=weeks, y=list(range(7)), z=drawn, colorscale=theme.SCALE, zmin=0,
        zmax=series.drawn(measure, darkest(series.of(measure))), xgap=1, ygap=1, name="",
        customdata=texts, hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
        colorbar={"y": sum(domain) / 2, "len": domain[1] - domain[0], "lenmode": "fraction", "thickness": 12,
                  "exponentformat": "B", "separatethousands": True, "nticks": 4, "outlinewidth": 0,
                  "title": {"text": series.unit(measure), "font": {"size": 12}}},
        row=row, col=1,
    )  # fmt: skip
    figure.update_xaxes(row=row, col=1, type="date", showgrid=False, zeroline=False, showticklabels=True)
    if len(weeks) <= _LABELLED_WEEKS:
        step = timedelta(weeks=-(-len(weeks) // 6)).total_seconds() * 1000
        figure.update_xaxes(row=row, col=1, tick0=first, dtick=step, tickformat="%-d %b<br>%Y")
    figure.update_yaxes(
        row=row, col=1, tickmode="array", tickvals=list(range(7)), ticktext=list(_WEEKDAYS),
        range=[6.5, -0.5], showgrid=False, zeroline=False, automargin=True,
    )  # fmt: skip
