"""On how few organizations the money rests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    Frame,
    OrganizationTotals,
    busiest_first,
    exact,
    organizations_by_currency,
    percent,
)

_MOST_POINTS = 400  # of a curve: more than a screen shows


def concentration(trends: Frame) -> go.Figure:
    """Lorenz curve of gross over organizations, with Gini's coefficient; a panel per currency.

    Organizations come smallest first: the further the curve sags below the line of equality, the more
    of the money rests on a few. Those without gross in a currency are not in its curve.
    Raises ChartError when a column of TRENDS_COLUMNS is missing.
    """
    title = "Concentration: how gross spreads over organizations"
    ranked = {
        currency: earning
        for currency, totals in organizations_by_currency(trends).items()
        if (earning := [each for each in totals if each.gross > 0])
    }
    if not ranked:
        return theme.nothing_yet(title)
    currencies = busiest_first(
        {currency: sum(each.completed + each.refunded for each in of) for currency, of in ranked.items()}
    )
    shown = currencies[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        currencies,
        [_heading(currency, ranked[currency]) for currency in shown],
        heights=[240] * len(shown),
        share_x=False,
    )
    for row, currency in enumerate(shown, start=1):
        _draw(figure, row, currency, ranked[currency][::-1])
    figure.update_layout(hovermode="closest")
    return figure


def gini(amounts: Sequence[int]) -> float:
    """Gini's coefficient of amounts of at least 0: 0 when all are equal, (n - 1) / n when one has all.

    Exact until the one division. Raises ZeroDivisionError when there is nothing to divide.
    """
    ordered = sorted(amounts)
    weighted = sum(rank * amount for rank, amount in enumerate(ordered, start=1))
    total, count = sum(ordered), len(ordered)
    return (2 * weighted - (count + 1) * total) / (count * total)


def _heading(currency: str, totals: list[OrganizationTotals]) -> str:
    amounts = [each.gross for each in totals]
    if len(amounts) == 1:
        return f"a single organization has all of {exact(amounts[0], currency)}"
    half = next(
        count for count, reached in enumerate(accumulate(amounts), start=1) if reached * 2 >= sum(amounts)
    )
    make = f"{half} of {len(amounts)} organizations {'makes' if half == 1 else 'make'} half of gross"
    return f"Gini {gini(amounts):.2f}: {make}"


def _draw(figure: go.Figure, row: int, currency: str, smallest_first: list[OrganizationTotals]) -> None:
    count = len(smallest_first)
    reached = [0, *accumulate(each.gross for each in smallest_first)]
    step = -(-count // _MOST_POINTS)
    points = sorted({*range(0, count + 1, step), count})
    total = reached[-1]
    texts = [
        f"the smallest {point:,} of {count:,} organizations<br>make {percent(reached[point], total)}:"
        f" {exact(reached[point], currency)} of {exact(total, currency)} {currency}<br>"
        f"the other {count - point:,} make {exact(total - reached[point], currency)}"
        for point in points
    ]
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="all equal", legendgroup="equal", showlegend=row == 1,
        line={"color": theme.QUIET, "width": 1.5, "dash": "dash"}, hoverinfo="skip", row=row, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[point / count for point in points], y=[reached[point] / total for point in points],
        mode="lines+markers" if len(points) <= 100 else "lines", name="gross", legendgroup="gross",
        showlegend=row == 1, line={"color": theme.SUCCESS, "width": 2.5}, marker={"size": 5}, fill="tozeroy",
        fillcolor=theme.BAND, **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    theme.share_axis(figure, row, "of organizations, smallest first", axis="x", range=[-0.01, 1.01])
    theme.share_axis(figure, row, "of gross", range=[-0.02, 1.02])
