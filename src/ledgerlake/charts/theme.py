"""How every chart looks: colours that the colour-blind tell apart, one panel per currency, exact hovers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ledgerlake.charts.measures import Granularity, period_after

# From Okabe and Ito's palette: distinct with every common colour blindness, and in grey.
GROSS = "#56B4E9"
REFUNDS = "#D55E00"
NET = "#1B1B1B"
SUCCESS = "#0072B2"
UNUSUAL = "#D55E00"
QUIET = "#8A8F98"
UNFINISHED = "rgba(138, 143, 152, 0.22)"

MOST_PANELS = 8
"""A figure draws that many currencies, those with the most movements, and names the others."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_HALF_DAY = timedelta(hours=12)


def panels(
    title: str,
    currencies: Sequence[str],
    titles: Sequence[str],
    *,
    heights: Sequence[int] | None = None,
    share_x: bool = True,
) -> go.Figure:
    """An empty figure with a panel per currency below each other; panel `i` is row `i + 1`.

    `currencies` may be longer than `titles`: the rest is named as not shown.
    """
    heights = heights or [230] * len(titles)
    gap, margin = 62 if share_x else 78, 130
    height = margin + sum(heights) + gap * (len(heights) - 1)
    figure = make_subplots(
        rows=len(titles),
        cols=1,
        shared_xaxes=share_x,
        subplot_titles=list(titles),
        row_heights=[float(part) for part in heights],
        vertical_spacing=gap / (height - margin) if len(heights) > 1 else 0.0,
    )
    hidden = list(currencies)[len(titles) :]
    if hidden:
        title += f"<br><sup>not shown, with fewer movements: {', '.join(hidden)}</sup>"
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.0, "xref": "paper", "y": 1.0, "yref": "container", "yanchor": "top",
               "pad": {"t": 14, "l": 0}},
        font={"family": _FONT, "size": 13, "color": NET},
        height=height,
        margin={"l": 80, "r": 24, "t": 90, "b": 40},
        legend={"orientation": "h", "x": 0.0, "y": 1.0, "yref": "container", "yanchor": "top",
                "xanchor": "left", "title": {"text": ""}},
        hovermode="x unified",
        hoverlabel={"font": {"family": _FONT, "size": 13}, "namelength": -1},
    )  # fmt: skip
    figure.update_layout(legend_y=1 - 40 / height)
    for note in figure.layout.annotations:  # the panels' titles: left, where reading starts
        note.update(x=0.0, xanchor="left", font={"size": 14})
    return figure


def nothing_yet(title: str) -> go.Figure:
    """The figure for an empty frame."""
    figure = panels(title, [], [""])
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text="There are no payments to show yet.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper",
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


def time_axis(figure: go.Figure, rows: int, every: Granularity) -> None:
    """Dates on every panel, and the period spelt out in the hover."""
    spelt = {"day": "%a %-d %b %Y", "week": "week of %a %-d %b %Y", "month": "%B %Y"}[every]
    for row in range(1, rows + 1):
        figure.update_xaxes(row=row, col=1, type="date", hoverformat=spelt, showticklabels=True)


def is_finished(period: date, every: Granularity, known_until: datetime | None) -> bool:
    """Whether all of the period lies before `known_until`; every period does when that is None."""
    if known_until is None:
        return True
    end = datetime.combine(period_after(period, every), datetime.min.time(), UTC)
    return end <= known_until


def shade_unfinished(
    figure: go.Figure, row: int, periods: Sequence[date], every: Granularity, known_until: datetime | None
) -> None:
    """Shade the last period when the log reaches only into it: what is drawn there is not yet all."""
    if known_until is None or not periods or is_finished(periods[-1], every, known_until):
        return
    # A mark stands on its period's first midnight, so its column reaches half a day to either side.
    start = datetime.combine(periods[-1], datetime.min.time())
    figure.add_vrect(
        x0=start - _HALF_DAY, x1=start + _HALF_DAY if every == "day" else start + timedelta(days=3),
        fillcolor=UNFINISHED, line_width=0, layer="below", row=row, col=1,
    )  # fmt: skip
    if row == 1:
        figure.add_annotation(
            text=f"last {every} unfinished: known until {known_until:%-d %b %H:%M} UTC",
            x=1.0, xref="paper", xanchor="right", y=1.0, yref="y domain", yanchor="bottom",
            showarrow=False, font={"size": 11, "color": QUIET},
        )  # fmt: skip


def hover(text: Sequence[str]) -> dict[str, Any]:
    """Trace arguments that show `text` (exact figures) instead of the drawn floating-point value."""
    return {"customdata": list(text), "hovertemplate": "%{customdata}"}
