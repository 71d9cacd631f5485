"""A report as one page: headline figures, charts, corrections, failures, and where the lines are.

The page loads nothing and runs nothing, and forbids the browser to do either; it needs no file beside it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final
from zoneinfo import ZoneInfo

import polars as pl

from ledgerlake.reports.formats import chart
from ledgerlake.reports.formats.columns import Kind, columns_of
from ledgerlake.reports.formats.digest import Digest, digest_of
from ledgerlake.reports.formats.source import Source
from ledgerlake.reports.formats.totals import CurrencyTotals, totals_of, units

_LONGEST: Final = 300  # characters of a text in a table
# Where a control character would be, there is a picture of it.
_PICTURES: Final = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}
_INVISIBLE: Final = _PICTURES | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

_CATEGORIES: Final = {
    "charge": "Charges",
    "refund": "Refunds",
    "unreferenced_credit": "Credits that name no payment",
    "failure": "Failed attempts",
    "correction": "Corrections of closed periods",
}
_MOST_REASONS: Final = 20
_KINDS: Final = {
    "charge": "charge",
    "refund": "refund",
    "unreferenced_credit": "credit",
    "failure": "failed attempt",
}


def write_html(target: Path, source: Source, beside: Sequence[str]) -> None:
    """Write the page of `source` to the file `target`; it links to the files `beside` it."""
    totals = totals_of(source.summary)
    digest = digest_of(source)
    parts = [_head(source, totals)]
    parts += [_currency(source, each, digest) for each in totals]
    if source.rows:
        parts += [_corrections(source, digest), _failures(digest, totals), _first_lines(source, digest)]
    parts += [_about(source, beside)]
    template = Template((files("ledgerlake.reports.formats") / "report.html").read_text("utf-8"))
    page = template.substitute(
        title=_text(f"Billing report: {source.organization}, {source.label}"),
        body="\n".join(part for part in parts if part),
        footer=f"Report {_text(source.stated.get('report_id', ''))}",
    )
    target.write_bytes(page.encode("utf-8"))


def _head(source: Source, totals: Sequence[CurrencyTotals]) -> str:
    start, end = (f"{each.astimezone(ZoneInfo(source.zone)):%Y-%m-%d %H:%M}" for each in source.interval)
    if not source.rows:
        said = "There were no movements in this period."
    elif len(totals) > 1:
        said = f"{len(totals)} currencies, each by itself: they are never added to one another."
    else:
        said = ""
    return (
        f'<header><p class="quiet">Billing report</p><h1><bdi>{_text(source.organization)}</bdi></h1>'
        f"<p><strong>{_text(source.label)}</strong>: from {start} to before {end}, {_text(source.zone)}"
        f' <span class="state">{_text(source.status)}</span></p>'
        f'<p class="quiet">As of position {_text(source.stated["position"])} of the log.'
        f" {said}</p></header>"
    )


def _currency(source: Source, totals: CurrencyTotals, digest: Digest) -> str:
    one = totals.currency
    tiles = [
        ("Gross", totals.gross_minor, _counted(totals.count - totals.refunds - totals.failures, "charge")),
        ("Refunds and credits", totals.refunded_minor, f"{totals.refunds:,} went back"),
        ("Net", totals.net_minor, "gross less refunds"),
        ("Failed attempts", totals.failed_minor, f"{totals.failures:,}, in no other figure"),
        ("Opening balance", totals.opening_minor, "before the period"),
        ("Closing balance", totals.closing_minor, "opening and net"),
    ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{totals.units(minor)} {_text(one)}<small>{note}</small></dd></div>"
        for name, minor, note in tiles
    )
    points = digest.points(one, totals.opening_minor)
    charts = ""
    if totals.count:
        charts = (
            f'<div class="charts">{chart.movements(points, one, totals.digits, digest.every)}'
            f"{chart.balance(points, totals.opening_minor, one, totals.digits, digest.every)}</div>"
            + _by_period(points, totals, digest.every)
        )
    return (
        f'<section aria-labelledby="in-{_text(one)}"><h2 id="in-{_text(one)}">{_text(one)}</h2>'
        f'<dl class="tiles">{shown}</dl>{charts}{_categories(source, totals)}</section>'
    )


def _by_period(points: Sequence[chart.Point], totals: CurrencyTotals, every: str) -> str:
    rows = [
        [point.label, *(totals.units(each) for each in (point.charged, point.returned, point.balance))]
        for point in points
    ]
    names = [every.capitalize(), "Charged", "Went back", "Balance after"]
    table = _table(f"{totals.currency} per {every}, by when it was booked", names, rows, numbers={1, 2, 3})
    return f"<details><summary>The figures of the charts</summary>{table}</details>"


def _categories(source: Source, totals: CurrencyTotals) -> str:
    found = source.summary.filter(pl.col("currency") == totals.currency)
    names = ["Category", "Count", "Gross", "Refunded", "Net", "Failed"]
    sums = ("gross_minor", "refunded_minor", "net_minor", "failed_minor")
    rows = [
        [_CATEGORIES.get(row["category"], row["category"]), f"{row['count']:,}"]
        + [totals.units(row[name]) for name in sums]
        for row in found.to_dicts()
    ]
    total = ["Total", f"{totals.count:,}", *(totals.units(getattr(totals, name)) for name in sums)]
    table = _table(f"{totals.currency} by category", names, rows, numbers={1, 2, 3, 4, 5}, total=total)
    return f"{table}{_converted(found)}"


def _converted(found: pl.DataFrame) -> str:
    """What the currency comes to in the reporting currency, where one was asked for."""
    if "fx_currency" not in found.columns or found["fx_currency"].drop_nulls().is_empty():
        return ""
    column = {each.name: each for each in columns_of(found)}["fx_net"]
    digits = found.select(column.digits(found).drop_nulls().first().alias("digits"))["digits"][0]
    currency = found["fx_currency"].drop_nulls()[0]
    gross, refunded, net = (
        units(int(found[f"fx_{name}_minor"].cast(pl.Int128).sum()), digits)
        for name in ("gross", "refunded", "net")
    )
    left = int(found["unconverted"].sum())
    note = f" {_counted(left, 'line')} without a rate not included." if left else ""
    return (
        f'<p class="quiet">In {_text(currency)}, line by line at the rate of the day:'
        f" gross {gross}, refunded {refunded}, net {net}.{note}</p>"
    )


def _corrections(source: Source, digest: Digest) -> str:
    if not digest.corrections_count:
        return ""
    count, shown = digest.corrections_count, digest.corrections.height
    first = f"The first {shown}; the others are in the files" if count > shown else "Corrections"
    names = ["Line", "Occurred", "Movement", "Payment", "Currency", "Amount", "Balance", "Reason"]
    return (
        '<section aria-labelledby="corrections"><h2 id="corrections">Corrections</h2>'
        f"<p>{_counted(count, 'movement')} of earlier periods arrived after those were closed."
        " The closed reports stay as they are; what came late is booked here.</p>"
        + _table(f"{first}, times in {source.zone}", names, _lines(digest.corrections, "movement"),
                 numbers={5, 6}, texts={7})
        + "</section>"
    )  # fmt: skip


def _failures(digest: Digest, totals: Sequence[CurrencyTotals]) -> str:
    if not digest.failures:
        return ""
    by_currency = {each.currency: each for each in totals}
    ranked = sorted(digest.failures.items(), key=lambda each: (-each[1][0], each[0][0], each[0][1] or ""))
    rows = [
        [reason or "(none stated)", f"{count:,}", currency, by_currency[currency].units(minor)]
        for (currency, reason), (count, minor) in ranked[:_MOST_REASONS]
    ]
    more = len(ranked) - len(rows)
    table = _table("Failed attempts by reason", ["Reason", "Attempts", "Currency", "Tried to charge"], rows,
                   numbers={1, 3}, texts={0})  # fmt: skip
    rest = f'<p class="quiet">{more:,} more reasons are among the lines.</p>' if more else ""
    return (
        f'<section aria-labelledby="failures"><h2 id="failures">Failed attempts</h2>{table}{rest}</section>'
    )


def _first_lines(source: Source, digest: Digest) -> str:
    shown = digest.first_lines.height
    names = ["Line", "Occurred", "Category", "Payment", "Currency", "Amount", "Balance", "Reason"]
    return (
        '<section aria-labelledby="lines"><h2 id="lines">Lines</h2>'
        f"<p>The first {shown:,} of {source.rows:,}. All of them are in the "
        '<a href="#files">files</a>.</p>'
        + _table(f"First lines, times in {source.zone}", names, _lines(digest.first_lines, "category"),
                 numbers={5, 6}, texts={7})
        + "</section>"
    )  # fmt: skip


def _lines(lines: pl.DataFrame, kind: str) -> list[list[str]]:
    exact = {each.name: each for each in columns_of(lines) if each.kind is Kind.MONEY}
    rows = lines.with_columns(
        exact[name].text(lines).alias(name) for name in ("amount", "balance")
    ).to_dicts()
    return [
        [
            str(row["line"]),
            f"{row['occurred_local']:%Y-%m-%d %H:%M:%S}",
            _KINDS.get(row[kind], row[kind]),
            row["payment_id"],
            row["currency"],
            _separated(row["amount"]),
            _separated(row["balance"]),
            row["reason"] or "",
        ]
        for row in rows
    ]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _separated(amount: str) -> str:
    sign = amount[: amount.startswith("-")]
    whole, dot, fraction = amount.removeprefix("-").partition(".")
    return f"{sign}{int(whole):,}{dot}{fraction}"


def _about(source: Source, beside: Sequence[str]) -> str:
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in beside)
    shown = "".join(
        f"<dt>{_text(name)}</dt><dd><bdi>{_text(value)}</bdi></dd>" for name, value in source.facts()
    )
    return (
        f'<section aria-labelledby="files"><h2 id="files">Files</h2><ul>{links}</ul></section>'
        '<section aria-labelledby="about"><h2 id="about">About this report</h2>'
        "<p>A charge counts when it is completed, a refund when it is paid. Gross never changes because of a"
        " refund; net is gross less refunds and credits. A balance is all charges less all"
        " that went back.</p>"
        f'<dl class="facts">{shown}</dl></section>'
    )


def _table(
    caption: str,
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: set[int],
    texts: frozenset[int] | set[int] = frozenset(),
    total: Sequence[str] | None = None,
) -> str:
    """A table whose first column heads its rows; wider than the window, it scrolls by itself."""

    def of(at: int) -> str:
        return ' class="number"' if at in numbers else ' class="text"' if at in texts else ""

    def line(cells: Sequence[str]) -> str:
        inner = "".join(f"<td{of(at)}><bdi>{_text(cell)}</bdi></td>" for at, cell in enumerate(cells) if at)
        return f'<tr><th scope="row"><bdi>{_text(cells[0])}</bdi></th>{inner}</tr>'

    heads = "".join(f'<th scope="col"{of(at)}>{_text(name)}</th>' for at, name in enumerate(names))
    foot = f"<tfoot>{line(total)}</tfoot>" if total else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(line(cells) for cells in rows)}</tbody>{foot}</table></div>"
    )


def visible(value: str) -> str:
    """Text that is not too long, and has pictures where characters are that nobody sees."""
    if len(value) > _LONGEST:
        value = f"{value[:_LONGEST]}… ({len(value):,} characters)"
    return value.translate(_INVISIBLE)


def _text(value: str) -> str:
    """The same as HTML."""
    return html.escape(visible(value))
