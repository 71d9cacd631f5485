"""An executed notebook as one HTML page that needs no network.

Charts arrive as data and are drawn by the one copy of plotly.js in the page; the page itself forbids the
browser to fetch anything. Code is folded away: the page is for reading.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

_FIGURE = "application/vnd.plotly.v1+json"

# The policy makes "needs no network" a rule that the browser keeps, not a hope.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{meta}<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';\
 style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
{plotly}
</head>
<body>
<input type="checkbox" id="code"><label for="code">show code</label>
<main>
{body}
</main>
</body>
</html>
"""


def as_page(notebook: NotebookNode, meta: Mapping[str, str] | None = None) -> str:
    """The HTML text; `meta` becomes its meta tags. Replaces the chart data in `notebook` by what draws it."""
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs
    from pygments.formatters import HtmlFormatter

    charts = _draw(notebook)
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]  # it ships no types
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    tags = [
        f'<meta name="{html.escape(name)}" content="{html.escape(value)}">\n'
        for name, value in (meta or {}).items()
    ]
    style = (files("ledgerlake.notebook") / "page.css").read_text("utf-8")
    return _PAGE.format(
        title=html.escape(_heading(notebook)),
        meta="".join(tags),
        style=style + HtmlFormatter().get_style_defs(".highlight"),
        plotly=f"<script>{get_plotlyjs()}</script>" if charts else "",
        body=body,
    )


def _draw(notebook: NotebookNode) -> int:
    """Make charts and tables fit for the page, in place; how many charts there are."""
    from plotly.io import to_html

    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    charts = [output for output in outputs if _FIGURE in output.get("data", {})]
    for number, output in enumerate(charts, start=1):
        drawing = to_html(
            output["data"][_FIGURE],
            config={"displaylogo": False, "responsive": True},
            include_plotlyjs=False,
            full_html=False,
            div_id=f"chart-{number}",
            validate=False,
        )
        output["data"] = {"text/html": drawing}
    for output in outputs:
        frame = output.get("data", {}).get("text/html", "")
        if 'class="dataframe"' in frame:  # Polars puts text in quotes, which no reader wants in a table
            output["data"] = {"text/html": re.sub(r"<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>", frame)}
    return len(charts)


def _heading(notebook: NotebookNode) -> str:
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = (line for text in prose for line in text.splitlines() if line.startswith("# "))
    return str(next(headings, "# Notebook")).removeprefix("# ")
