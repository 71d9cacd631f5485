"""How soon money goes back."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import Frame, busiest_first, lazy, percent

LATENCY_COLUMNS = ("currency", "completed_at", "first_refund_at")
"""Columns of a payments frame (Lake.payments gives one) that refund_latency needs: a row per payment."""

_HOUR, _WEEK_HOURS = 3_600_000, 168
_TICKS = {
    1: "1 hour", 6: "6 h", 24: "1 day", 72: "3 d", 168: "7 d", 720: "30 d", 2160: "90 d",
    8760: "1 year", 26280: "3 y", 87600: "10 y",
}  # fmt: skip


def refund_latency(payments: Frame) -> go.Figure:
    """Of the refunded payments, the share whose first refund came within so long after completion.

    A panel per currency, on a logarithmic axis of time: an hour and a year on one page. Steps are whole
    hours below seven days and whole days above, as GetRefundLatency has them; a refund that bears an
    earlier date than the completion counts at the left edge. Payments not refunded (yet) are left out.
    Raises ChartError when a column of LATENCY_COLUMNS is missing.
    """
    title = "Time from payment to first refund: share of refunded payments"
    by_currency = latencies_by_currency(payments)
    if not by_currency:
        return theme.nothing_yet(title, "There are no refunded payments.")
    currencies = busiest_first({currency: sum(of.values()) for currency, of in by_currency.items()})
    shown = currencies[: theme.MOST_PANELS]
    figure = theme.panels(
        title, currencies, [_heading(by_currency[currency]) for currency in shown],
        heights=[180] * len(shown),
    )  # fmt: skip
    longest = max(hours for of in by_currency.values() for hours in of)
    for row, currency in enumerate(shown, start=1):
        _draw(figure, row, by_currency[currency], max(longest, 24))
    figure.update_layout(hovermode="x")
    return figure


def latencies_by_currency(payments: Frame) -> dict[str, dict[int, int]]:
    """Per currency, payments by the hours within which they were first refunded, the soonest first.

    Hours are the end of a bucket: 1, 2, ... up to 168, then 192, 216 ...; 0 for a refund of an earlier date.
    """
    hours = (pl.col("first_refund_at") - pl.col("completed_at")).dt.total_milliseconds().floordiv(_HOUR)
    rows = (
        lazy(payments, LATENCY_COLUMNS, "Lake.payments()")
        .filter(pl.col("completed_at").is_not_null() & pl.col("first_refund_at").is_not_null())
        .group_by(
            "currency",
            pl.when(hours < 0)
            .then(0)
            .when(hours < _WEEK_HOURS)
            .then(hours + 1)
            .otherwise(hours.floordiv(24) * 24 + 24)
            .alias("within"),
        )
        .agg(pl.len().cast(pl.Int64))
        .sort("currency", "within")
        .collect()
        .rows()
    )
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for currency, within, count in rows:
        found[currency][within] = count
    return dict(found)


def reached_within(latencies: dict[int, int], percents: int) -> int:
    """The hours within which so many percent of the payments had their first refund."""
    total = sum(latencies.values())
    return next(
        hours
        for hours, reached in zip(latencies, accumulate(latencies.values()), strict=True)
        if reached * 100 >= total * percents
    )


def lasting(hours: int) -> str:
    """So many hours in words: hours below three days, days above."""
    if hours < 72:
        return f"{hours} hour{'' if hours == 1 else 's'}"
    days, rest = divmod(hours, 24)
    return f"{days} days" + (f" {rest} h" if rest else "")


def _heading(latencies: dict[int, int]) -> str:
    half, most = (lasting(reached_within(latencies, percents)) for percents in (50, 90))
    return f"half of {sum(latencies.values()):,} within {half}, nine tenths within {most}"


def _draw(figure: go.Figure, row: int, latencies: dict[int, int], longest: int) -> None:
    total = sum(latencies.values())
    # A logarithmic axis has no 0: what came before the first hour ended starts at its left edge.
    hours = [max(within, 0.5) for within in latencies]
    reached = list(accumulate(latencies.values()))
    texts = [
        f"within {lasting(within)}: {percent(count, total)}, {count:,} of {total:,}" if within
        else f"dated before the payment: {percent(count, total)}, {count:,} of {total:,}"
        for within, count in zip(latencies, reached, strict=True)
    ]  # fmt: skip
    figure.add_scatter(
        x=[0.5, *hours, longest * 1.1], y=[0.0, *(count / total for count in reached), 1.0], mode="lines",
        line={"color": theme.SUCCESS, "width": 2.5, "shape": "hv"}, name="refunded", showlegend=False,
        **theme.hover(["", *texts, ""]), row=row, col=1,
    )  # fmt: skip
    marks = (("half", 50, "circle"), ("nine tenths", 90, "diamond"))
    for name, percents, symbol in marks:
        within = reached_within(latencies, percents)
        share = sum(count for hours, count in latencies.items() if hours <= within) / total
        figure.add_scatter(
            x=[max(within, 0.5)], y=[share], mode="markers", name=f"{name} refunded", legendgroup=name,
            showlegend=row == 1, marker={"size": 10, "color": theme.REFUNDS, "symbol": symbol},
            hoverinfo="skip", row=row, col=1,
        )  # fmt: skip
    figure.update_xaxes(
        row=row, col=1, type="log", tickmode="array", tickvals=list(_TICKS), ticktext=list(_TICKS.values()),
        showticklabels=True, tickangle=0,
    )  # fmt: skip
    theme.share_axis(figure, row, "refunded", range=[0, 1.04])
