"""A chart for a screen as narrow as a phone's."""

from __future__ import annotations

from textwrap import wrap

import plotly.graph_objects as go

from ledgerlake.charts import theme

# Characters of a line that 340 pixels take, and pixels of a line.
_TITLE, _NOTE, _HEADING, _MARK = 34, 46, 42, 26
_TITLE_LINE, _NOTE_LINE, _HEADING_LINE, _ENTRY = 20, 16, 14, 20


def narrow(figure: go.Figure) -> go.Figure:
    """A copy of a chart for 340 to 600 pixels: smaller, texts in several lines, the legend as a list."""
    copy = go.Figure(figure)
    layout = copy.layout
    title, note = wrap(layout.title.text, _TITLE), wrap(layout.title.subtitle.text or "", _NOTE)
    lines = 1
    for text in layout.annotations:
        if text.name == theme.HEADING:
            parts = wrap(text.text, _HEADING)
            lines = max(lines, len(parts))
            text.update(text="<br>".join(parts), align="left", font={"size": 11}, xshift=theme.CODE - 6)
        elif text.name == theme.CURRENCY:
            text.font.size = 12
        elif text.showarrow:
            text.update(text="<br>".join(wrap(text.text, _MARK)), font={"size": 11}, align="left")
    entries = sum(trace.showlegend is not False for trace in copy.data) if layout.showlegend else 0
    below_title = 18 + _TITLE_LINE * len(title) + _NOTE_LINE * len(note)
    top = below_title + _ENTRY * entries + 12 + _HEADING_LINE * lines
    height = layout.height - layout.margin.t + top
    copy.update_layout(
        title={"text": "<br>".join(title), "font": {"size": 15}, "x": 0.0, "xref": "container",
               "pad": {"l": 8}, "subtitle": {"text": "<br>".join(note), "font": {"size": 11}}},
        font={"size": 11},
        height=height,
        margin={"l": 8, "r": 8, "t": top},
        legend={"orientation": "v", "tracegroupgap": 0, "y": 1 - below_title / height, "font": {"size": 11}},
        hoverlabel={"font": {"size": 11}},
    )  # fmt: skip
    return copy
