"""How every chart looks: colours that the colour-blind tell apart, one panel per currency, exact hovers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ledgerlake.charts.measures import Granularity, period_after

# Like Okabe and Ito's palette, the light ones darkened: each has a contrast of 3 to 1 or more with white, and
# those that stand in one chart for different things are told apart with every common colour blindness.
GROSS = "#3A8FC8"
REFUNDS = "#D55E00"
NET = "#1B1B1B"
SUCCESS = "#0072B2"
UNUSUAL = "#D55E00"
NAMED = "#B34700"
QUIET = "#6B7280"
BAND = "rgba(0, 114, 178, 0.18)"
UNFINISHED = "rgba(107, 114, 128, 0.22)"
SCALE = ((0.0, "#E3EEF7"), (0.25, "#A9CCE6"), (0.5, "#5BA3D0"), (0.75, "#1F6FB0"), (1.0, "#08306B"))
"""Of a heat map: one hue, darker is more, so that it reads the same without colours."""

MEASURES = {
    "gross": "gross", "refunds": "refunds", "completed": "payments completed", "failed": "failed attempts",
    "refunded": "number of refunds",
}  # fmt: skip

MOST_PANELS = 8
"""A figure draws that many currencies, those with the most movements, and names the others."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Pixels from the top: the title, the line below it, the legend, the first panel's heading.
_TITLE, _LINE, _LEGEND, _HEADING = 42, 24, 26, 26
CODE = 42
"""Pixels that a currency's code takes before the heading of its panel."""
HEADING, CURRENCY = "heading", "currency"
"""Names of the annotations that head a panel."""
_HALF: dict[Granularity, timedelta] = {
    "day": timedelta(hours=12), "week": timedelta(days=3, hours=12), "month": timedelta(days=15),
}  # fmt: skip
_LONGEST_NAME = 34


def panels(
    title: str,
    currencies: Sequence[str],
    headings: Sequence[str],
    *,
    heights: Sequence[int] | None = None,
    share_x: bool = True,
    legend: bool = True,
    note: str = "",
) -> go.Figure:
    """An empty figure with a panel per currency below each other; panel `i` is row `i + 1`.

    `currencies` may be longer than `headings`, those of the panels: the rest is named as not shown, in the
    line below the title, where `note` is, too. `share_x`: the panels have one x axis, without a title.
    """
    heights = heights or [230] * len(headings)
    hidden = list(currencies)[len(headings) :]
    notes = [
        each
        for each in (note, f"not shown, with fewer movements: {', '.join(hidden)}" if hidden else "")
        if each
    ]
    below_title = _TITLE + (_LINE if notes else 0)
    top, gap = below_title + (_LEGEND if legend else 0) + _HEADING, 62 if share_x else 82
    bottom = 40 if share_x else 56
    height = top + bottom + sum(heights) + gap * (len(heights) - 1)
    figure = make_subplots(
        rows=len(headings),
        cols=1,
        shared_xaxes=share_x,
        subplot_titles=list(headings),
        row_heights=[float(part) for part in heights],
        vertical_spacing=gap / (height - top - bottom) if len(heights) > 1 else 0.0,
    )
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.0, "xref": "paper", "y": 1.0, "yref": "container", "yanchor": "top",
               "pad": {"t": 14, "l": 0}, "font": {"size": 17},
               "subtitle": {"text": ". ".join(notes), "font": {"size": 12, "color": QUIET}}},
        font={"family": _FONT, "size": 13, "color": NET},
        height=height,
        margin={"l": 80, "r": 24, "t": top, "b": bottom},
        showlegend=legend,
        legend={"orientation": "h", "x": 0.0, "y": 1 - below_title / height, "yref": "container",
                "yanchor": "top", "xanchor": "left", "title": {"text": ""}},
        hovermode="x unified",
        hoverlabel={"font": {"family": _FONT, "size": 13}, "namelength": -1},
    )  # fmt: skip
    figure.update_xaxes(title_font={"size": 12})
    figure.update_yaxes(title_font={"size": 12})
    # Left, where reading starts. The currency is a text by itself, and no text has markup: plotly draws it
    # with inline styles, which the content security policy of a web page may forbid.
    headed = [each.to_plotly_json() | {"x": 0.0, "xanchor": "left"} for each in figure.layout.annotations]
    figure.layout.annotations = [
        *(each | {"name": HEADING, "xshift": CODE, "font": {"size": 14}} for each in headed),
        *(
            each | {"name": CURRENCY, "text": currency, "font": {"size": 14, "weight": "bold"}}
            for each, currency in zip(headed, currencies, strict=False)
        ),
    ]
    return figure


def nothing_yet(title: str, text: str = "There are no payments to show yet.") -> go.Figure:
    """The figure for an empty frame."""
    figure = panels(title, [], [""], heights=[80], legend=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=text, showarrow=False, x=0.0, y=0.5, xref="paper", yref="paper", xanchor="left",
        font={"size": 16, "color": QUIET},
    )  # fmt: skip
    return figure


def money_axis(figure: go.Figure, row: int, currency: str, axis: str = "y") -> None:
    """Label the row's axis in units of the currency: 1.5M rather than 1500000."""
    update = figure.update_yaxes if axis == "y" else figure.update_xaxes
    update(
        row=row, col=1, title={"text": currency, "standoff": 4}, exponentformat="B", separatethousands=True,
        automargin=True,
    )  # fmt: skip


def share_axis(figure: go.Figure, row: int, what: str, axis: str = "y", **more: Any) -> None:
    """Label the row's axis in percent: 0.5%, 20%."""
    update = figure.update_yaxes if axis == "y" else figure.update_xaxes
    update(row=row, col=1, tickformat=".2~%", title={"text": what, "standoff": 4}, automargin=True, **more)


def count_axis(figure: go.Figure, row: int, what: str, most: int, axis: str = "y") -> None:
    """Label the row's axis in whole numbers of `what`, of which there are at most `most`."""
    update = figure.update_yaxes if axis == "y" else figure.update_xaxes
    update(
        row=row, col=1, title={"text": what, "standoff": 4}, separatethousands=True, automargin=True,
        dtick=1 if most < 6 else None,
    )  # fmt: skip


def names_axis(figure: go.Figure, row: int, names: Sequence[str]) -> None:
    """Names on the row's y axis, the first at the top; bar or mark `i` stands at y = i."""
    figure.update_yaxes(
        row=row, col=1, tickmode="array", tickvals=list(range(len(names))),
        ticktext=[shortened(name) for name in names], range=[len(names) - 0.5, -0.5],
        automargin=True, showgrid=False, zeroline=False,
    )  # fmt: skip


def shortened(name: str) -> str:
    """A name from the data as plotly text: not too long, and no markup."""
    return escape(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + "…")


def rows_height(rows: int) -> int:
    """Pixels of a panel with that many bars below each other."""
    return 40 + 24 * rows


def time_axis(figure: go.Figure, rows: int, every: Granularity, periods: Sequence[date]) -> None:
    """Dates on every panel from the first to the last of the periods, spelt out in the hover."""
    spelt = {"day": "%a %-d %b %Y", "week": "week of %a %-d %b %Y", "month": "%B %Y"}[every]
    first, last = (datetime.combine(each, datetime.min.time()) for each in (periods[0], periods[-1]))
    axis: dict[str, Any] = {"range": [first - 1.2 * _HALF[every], last + 1.2 * _HALF[every]]}
    if every == "month":  # a label to a month, or to every second, third ... one
        step = next(each for each in (1, 2, 3, 6, 12, len(periods)) if len(periods) <= 8 * each)
        axis |= {"tick0": first, "dtick": f"M{step}", "tickformat": "%b %Y"}
    elif len(periods) <= 8:  # no hours between two days
        axis |= {
            "tick0": first,
            "dtick": 86_400_000 * (7 if every == "week" else 1),
            "tickformat": "%-d %b<br>%Y",
        }
    for row in range(1, rows + 1):
        figure.update_xaxes(row=row, col=1, type="date", hoverformat=spelt, showticklabels=True, **axis)


def bar_width(every: Granularity) -> float:
    """Milliseconds of a date axis that the bar of a period takes, also where there is only one."""
    return 1.6 * _HALF[every].total_seconds() * 1000


def spelt(period: date, every: Granularity) -> str:
    """The period in words: "Fri 13 Mar 2026", "week of ..." or "March 2026"."""
    if every == "month":
        return f"{period:%B %Y}"
    return ("week of " if every == "week" else "") + f"{period:%a %-d %b %Y}"


def name_mark(figure: go.Figure, row: int, xs: Sequence[Any], index: int, y: float, text: str) -> None:
    """A text beside the mark at xs[index], towards the middle of the panel, so that it fits."""
    late = index > len(xs) / 2
    figure.add_annotation(
        text=text, x=xs[index], y=y, showarrow=True, arrowcolor=QUIET, ax=-24 if late else 24, ay=0,
        xanchor="right" if late else "left", font={"size": 12, "color": NAMED}, row=row, col=1,
    )  # fmt: skip


def is_finished(period: date, every: Granularity, known_until: datetime | None) -> bool:
    """Whether all of the period lies before `known_until`; every period does when that is None."""
    if known_until is None:
        return True
    end = datetime.combine(period_after(period, every), datetime.min.time(), UTC)
    return end <= known_until


def unfinished_note(last: date, every: Granularity, known_until: datetime | None) -> str:
    """What the shade on a period means, where there is one; else nothing."""
    if known_until is None or is_finished(last, every, known_until):
        return ""
    return f"Shaded: unfinished, known until {known_until:%-d %b %Y %H:%M} UTC"


def shade_unfinished(
    figure: go.Figure, row: int, periods: Sequence[date], every: Granularity, known_until: datetime | None
) -> None:
    """Shade the periods that the log reaches only into, or not yet: what is drawn there is not all."""
    unfinished = [each for each in periods if not is_finished(each, every, known_until)]
    if unfinished:
        # A mark stands on its period's first midnight, so its column reaches to either side.
        first, last = (
            datetime.combine(each, datetime.min.time()) for each in (unfinished[0], unfinished[-1])
        )
        figure.add_vrect(
            x0=first - _HALF[every], x1=last + _HALF[every], fillcolor=UNFINISHED, line_width=0,
            layer="below", row=row, col=1,
        )  # fmt: skip


def outline(figure: go.Figure, row: int, x: Any, y: int, half_width: Any = 0.5) -> None:
    """A frame around the cell of a heat map that is not yet all there is."""
    figure.add_shape(
        type="rect", x0=x - half_width, x1=x + half_width, y0=y - 0.5, y1=y + 0.5,
        line={"color": UNUSUAL, "width": 2.5}, row=row, col=1,
    )  # fmt: skip


def name_unusual(figure: go.Figure, name: str) -> None:
    """Have the legend name the diamond of what is unusual, also where the first panel has none."""
    figure.add_scatter(
        x=[None], y=[None], name=name, mode="markers", legendgroup="unusual",
        marker={"color": UNUSUAL, "size": 10, "symbol": "diamond"}, row=1, col=1,
    )  # fmt: skip


def hover(text: Sequence[str]) -> dict[str, Any]:
    """Trace arguments that show `text` (exact figures) instead of the drawn floating-point value."""
    return {"customdata": list(text), "hovertemplate": "%{customdata}"}


def to_json(figure: go.Figure) -> str:
    """{"data": [...], "layout": {...}} for Plotly.newPlot; plotly escapes what would end a script element."""
    text: str = figure.to_json()
    return text
