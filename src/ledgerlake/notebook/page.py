"""An executed notebook as one HTML page that needs no network.

Charts arrive as data and are drawn by the one copy of plotly.js in the page; the page itself forbids the
browser to fetch anything. It is for reading: code is folded away, unless the notebook's metadata say
`"ledgerlake": {"show_code": true}`, tables lose what only programmers ask of them, and links to notebooks
lead to their pages.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from importlib.resources import files
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

_FIGURE = "application/vnd.plotly.v1+json"
_FRAME = re.compile(r"<div><style>[^<]*</style>\s*<small>[^<]*</small>(<table .*?</table>)</div>", re.DOTALL)
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?( %)?|[–…]")
_LONG = 60  # characters: such a text is folded, a shorter one is not
_INTEGER = re.compile(r"[iu]\d+")

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
<input type="checkbox" id="code"{checked}><label for="code">show code</label>
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
    body = re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', body)
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
        body=_with_contents(body),
        checked=" checked" if notebook.metadata.get("ledgerlake", {}).get("show_code") else "",
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
        shown = output.get("data", {}).get("text/html", "")
        if _FRAME.search(shown):
            output["data"] = {"text/html": _FRAME.sub(_table, shown)}
    return len(charts)


def _table(found: re.Match[str]) -> str:
    """Polars' table for readers: without types and quotes, numbers to the right with thousands separated."""
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    names, kinds, *rest = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    cells = [[_cell(text, kind) for text, kind in zip(row, kinds, strict=True)] for row in rest]
    styles = [_style(column) for column in zip(*cells, strict=True)] or [""] * len(names)

    def line(tag: str, texts: list[str]) -> str:
        parts = (f"<{tag}{style}>{text}</{tag}>" for style, text in zip(styles, texts, strict=True))
        return f"<tr>{''.join(parts)}</tr>"

    head = line("th", [name.replace("_", " ") for name in names])
    body = "".join(line("td", row) for row in cells) or f'<tr><td colspan="{len(names)}">none</td></tr>'
    return f"<table class='frame'><thead>{head}</thead><tbody>{body}</tbody></table>"


def _style(column: tuple[str, ...]) -> str:
    if all(_NUMBER.fullmatch(text) for text in column):
        return ' class="number"'
    return ' class="long"' if max(map(len, column)) > _LONG else ""


def _cell(text: str, kind: str) -> str:
    if text == "null":
        return "–"
    if _INTEGER.fullmatch(kind) and re.fullmatch(r"-?\d+", text):
        return f"{int(text):,}"
    return text.removeprefix("&quot;").removesuffix("&quot;")


def _with_contents(body: str) -> str:
    """The body with links to its sections below its heading; without when there are hardly any."""
    sections = re.findall(r"<h2[^>]*>(.*?)</h2>", body)
    if len(sections) < 3:
        return body
    numbers = count(1)
    body = re.sub(r"<h2[^>]*>", lambda _: f'<h2 id="section-{next(numbers)}">', body)
    links = [f'<a href="#section-{number}">{title}</a>' for number, title in enumerate(sections, 1)]
    return body.replace("</h1>", f'</h1>\n<nav aria-label="Sections">{" ".join(links)}</nav>', 1)


def _heading(notebook: NotebookNode) -> str:
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = (line for text in prose for line in text.splitlines() if line.startswith("# "))
    return str(next(headings, "# Notebook")).removeprefix("# ")
