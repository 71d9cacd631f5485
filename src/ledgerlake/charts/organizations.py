"""Who moves the money."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    Frame,
    OrganizationTotals,
    busiest_first,
    counted,
    exact,
    organizations_by_currency,
    percent,
    units,
)


def top_organizations(trends: Frame, top: int = 10) -> go.Figure:
    """The `top` organizations of each currency by gross, with what they refunded; a panel per currency."""
    title = f"Top {top} organizations by gross"
    ranked = organizations_by_currency(trends)
    if not ranked:
        return theme.nothing_yet(title)
    movements = {
        currency: sum(each.completed + each.refunded for each in totals)
        for currency, totals in ranked.items()
    }
    currencies = busiest_first(movements)
    shown = currencies[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        currencies,
        [_heading(ranked[currency], top) for currency in shown],
        heights=[theme.rows_height(min(top, len(ranked[currency]))) for currency in shown],
        share_x=False,
    )
    for row, currency in enumerate(shown, start=1):
        _draw(figure, row, currency, ranked[currency][:top])
        theme.money_axis(figure, row, currency, axis="x")
    figure.update_layout(barmode="overlay", bargap=0.25, hovermode="closest")
    return figure


def _heading(totals: list[OrganizationTotals], top: int) -> str:
    everything = sum(each.gross for each in totals)
    share = sum(each.gross for each in totals[:top])
    currency = totals[0].currency
    if len(totals) <= top or not everything:
        return f"{counted(len(totals), 'organization')}, gross {exact(everything, currency)}"
    return (
        f"{top} of {len(totals)} organizations make {percent(share, everything)}"
        f" of gross {exact(everything, currency)}"
    )


def _draw(figure: go.Figure, row: int, currency: str, totals: list[OrganizationTotals]) -> None:
    names = [each.organization_id for each in totals]
    texts = [
        f"{escape(each.organization_id)}<br>"
        f"gross {exact(each.gross, currency)} {currency} in {counted(each.completed, 'payment')}<br>"
        f"refunds {exact(each.refunds, currency)} {currency} in {counted(each.refunded, 'refund')}<br>"
        f"net {exact(each.net, currency)} {currency}<extra></extra>"
        for each in totals
    ]
    bars = (
        ("gross", theme.GROSS, [units(each.gross, currency) for each in totals]),
        ("refunds", theme.REFUNDS, [units(each.refunds, currency) for each in totals]),
    )
    for name, colour, values in bars:
        figure.add_bar(
            y=names, x=values, orientation="h", name=name, legendgroup=name, showlegend=row == 1,
            marker_color=colour, hovertemplate=texts, width=0.75 if name == "gross" else 0.35,
            row=row, col=1,
        )  # fmt: skip
    figure.update_yaxes(
        row=row, col=1, type="category", autorange="reversed", automargin=True, tickmode="array",
        tickvals=names, ticktext=[theme.shortened(name) for name in names], showgrid=False,
    )  # fmt: skip
