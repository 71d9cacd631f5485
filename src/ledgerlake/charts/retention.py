"""Whether organizations stay."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import Frame, busiest_first, lazy, percent, periods_between

RETENTION_COLUMNS = ("organization_id", "currency", "completed_at")
"""Columns of a payments frame (Lake.payments gives one) that retention needs: a row per payment."""

_MOST_WRITTEN = 14  # columns that still leave room for a number in each cell


@dataclass(frozen=True, slots=True)
class Stay:
    """Organizations that began in the month `first`: `active[n]` of `size` paid n months on."""

    first: date
    size: int
    active: tuple[int, ...]


def retention(payments: Frame, known_until: datetime | None = None) -> go.Figure:
    """Of the organizations that began in a month: the share with a completed payment n months on.

    A heat map per currency: a row per month of the first payment in that currency, a column per month
    since. The month that `known_until` lies in is unfinished: its cells are outlined, and may still grow.
    Raises ChartError when a column of RETENTION_COLUMNS is missing.
    """
    title = "Retention: organizations that still pay, by the month they began (UTC)"
    by_currency = stays_by_currency(payments)
    if not by_currency:
        return theme.nothing_yet(title)
    currencies = list(by_currency)
    shown = currencies[: theme.MOST_PANELS]
    last = _months(by_currency[shown[0]][0])[-1]
    figure = theme.panels(
        title,
        currencies,
        [_heading(by_currency[currency]) for currency in shown],
        heights=[theme.rows_height(len(by_currency[currency])) for currency in shown],
        share_x=False,
        legend=False,
        note=theme.unfinished_note(last, "month", known_until).replace("Shaded", "Outlined"),
    )
    for row, currency in enumerate(shown, start=1):
        _draw(figure, row, by_currency[currency], known_until)
    figure.update_layout(
        hovermode="closest",
        coloraxis={"colorscale": theme.SCALE, "cmin": 0, "cmax": 1, "showscale": False},
    )
    return figure


def stays_by_currency(payments: Frame) -> dict[str, list[Stay]]:
    """Per currency the months in which organizations began, up to the last one; busiest currency first."""
    rows = (
        lazy(payments, RETENTION_COLUMNS, "Lake.payments()")
        .filter(pl.col("completed_at").is_not_null())
        .group_by(
            "currency", "organization_id", pl.col("completed_at").dt.truncate("1mo").dt.date().alias("month")
        )
        .agg(pl.len().cast(pl.Int64))
        .collect()
        .rows()
    )
    active: dict[str, dict[str, set[date]]] = defaultdict(lambda: defaultdict(set))
    movements: dict[str, int] = defaultdict(int)
    for currency, organization, month, count in rows:
        active[currency][organization].add(month)
        movements[currency] += count
    last = max((row[2] for row in rows), default=date.min)
    found: dict[str, list[Stay]] = {}
    for currency in busiest_first(movements):
        organizations = active[currency]
        began: dict[date, list[set[date]]] = defaultdict(list)
        for months in organizations.values():
            began[min(months)].append(months)
        found[currency] = [
            Stay(
                first,
                len(began[first]),
                tuple(
                    sum(month in each for each in began[first])
                    for month in periods_between(first, last, "month")
                ),
            )
            for first in sorted(began)
        ]
    return found


def _heading(stays: list[Stay]) -> str:
    size, still = sum(each.size for each in stays), sum(each.active[-1] for each in stays)
    one = "organization" if size == 1 else "organizations"
    return f"{still:,} of {size:,} {one} paid in the last month"


def _draw(figure: go.Figure, row: int, stays: list[Stay], known_until: datetime | None) -> None:
    columns = len(stays[0].active)
    shares: list[list[float | None]] = []
    texts: list[list[str]] = []
    for each in stays:
        blank = columns - len(each.active)
        shares.append([count / each.size for count in each.active] + [None] * blank)
        texts.append(
            [
                f"began in {each.first:%B %Y}, {month:%B %Y}:<br>"
                f"{count:,} of {each.size:,} organizations paid, {percent(count, each.size)}"
                for month, count in zip(_months(each), each.active, strict=True)
            ]
            + [""] * blank
        )
    figure.add_heatmap(
        x=list(range(columns)), y=list(range(len(stays))), z=shares, coloraxis="coloraxis", xgap=2, ygap=2,
        name="", customdata=texts, hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
        texttemplate="%{z:.0%}" if columns <= _MOST_WRITTEN else "", row=row, col=1,
    )  # fmt: skip
    for index, each in enumerate(stays):
        if not theme.is_finished(_months(each)[-1], "month", known_until):
            theme.outline(figure, row, len(each.active) - 1, index)
    figure.update_xaxes(
        row=row, col=1, title={"text": "months since the first payment", "standoff": 4}, showgrid=False,
        zeroline=False, range=[-0.5, columns - 0.5], dtick=1 if columns <= 26 else 6,
    )  # fmt: skip
    theme.names_axis(figure, row, [f"{each.first:%b %Y} ({each.size:,})" for each in stays])


def _months(stay: Stay) -> tuple[date, ...]:
    last = stay.first.year * 12 + stay.first.month - 1 + len(stay.active) - 1
    return periods_between(stay.first, date(last // 12, last % 12 + 1, 1), "month")
