"""What was reported at first, and what it is now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    TRENDS_COLUMNS,
    CurrencySeries,
    Frame,
    Granularity,
    exact,
    lazy,
    series_by_currency,
    units,
)


@dataclass(frozen=True, slots=True)
class Restated:
    """One currency as first reported and now, over the same periods."""

    first: CurrencySeries
    now: CurrencySeries

    @property
    def gross(self) -> tuple[int, ...]:
        """By how much gross is more now, of each period; minor units."""
        return tuple(b - a for a, b in zip(self.first.gross, self.now.gross, strict=True))

    @property
    def refunds(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.first.refunds, self.now.refunds, strict=True))

    @property
    def net(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.first.net, self.now.net, strict=True))


def restatement(
    first: Frame, now: Frame, every: Granularity = "month", first_known_until: datetime | None = None
) -> go.Figure:
    """By how much gross, refunds and net of each period have changed since they were first reported.

    Both are trends frames by `every`: `first` from Lake.as_of(...) or from first revisions, `now` the
    present. Only periods that `first` reaches are compared, and of these only the ones that were over at
    `first_known_until`: what was added to the others is no restatement. A panel per currency in which
    something changed; the others are named.
    Raises ChartError when a column of TRENDS_COLUMNS is missing.
    """
    title = f"Restatement per {every} (UTC): now, less what was first reported"
    reported = lazy(first, TRENDS_COLUMNS, "Lake.trends()").select(TRENDS_COLUMNS).collect()
    if reported.is_empty():
        return theme.nothing_yet(title)
    periods = reported["period"].unique()
    over = [each for each in periods if theme.is_finished(each, every, first_known_until)]
    left_out = "" if len(over) == len(periods) else "Left out: periods that were not over when first reported"
    restated = restated_by_currency(reported.filter(pl.col("period").is_in(over)), now, every)
    if not restated:
        return theme.nothing_yet(title, "No period was over when it was first reported.")
    changed = [each for each in restated if any(each.gross) or any(each.refunds)]
    if not changed:
        return theme.nothing_yet(title, "Nothing has changed since it was first reported.")
    same = ", ".join(each.now.currency for each in restated if each not in changed)
    shown = changed[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.now.currency for each in changed],
        [_heading(each) for each in shown],
        heights=[180] * len(shown),
        note=". ".join(part for part in (f"Unchanged: {same}" if same else "", left_out) if part),
    )
    for row, each in enumerate(shown, start=1):
        _draw(figure, row, each, every)
        theme.money_axis(figure, row, each.now.currency)
    theme.time_axis(figure, len(shown), every, shown[0].now.periods)
    figure.update_layout(barmode="relative")
    return figure


def restated_by_currency(first: Frame, now: Frame, every: Granularity) -> list[Restated]:
    """Every currency of either frame over the periods of `first`, the busiest now first."""
    earlier, later = (
        lazy(frame, TRENDS_COLUMNS, "Lake.trends()").select(TRENDS_COLUMNS).collect()
        for frame in (first, now)
    )
    if earlier.is_empty():
        return []
    ends = pl.DataFrame({"period": [earlier["period"].min(), earlier["period"].max()]})
    later = later.filter(pl.col("period").is_between(*ends["period"]))
    # A row of nothing for each currency at both ends makes the two frames span the same.
    edges = pl.concat([earlier, later]).select("currency").unique().join(ends, how="cross").select(
        "period", pl.lit("").alias("organization_id"), "currency", pl.lit("completed").alias("status"),
        pl.lit(0).alias("count"), pl.lit(0).alias("total_minor"),
    )  # fmt: skip
    before, after = (
        {
            each.currency: each
            for each in series_by_currency(pl.concat([frame, edges], how="vertical_relaxed"), every)
        }
        for frame in (earlier, later)
    )
    return [Restated(before[currency], after[currency]) for currency in after]


def _heading(restated: Restated) -> str:
    currency, change = restated.now.currency, sum(restated.net)
    return (
        f"net {exact(sum(restated.first.net), currency)} is now"
        f" {exact(sum(restated.now.net), currency)}: {_signed(change, currency)}"
    )


def _draw(figure: go.Figure, row: int, restated: Restated, every: Granularity) -> None:
    currency, periods = restated.now.currency, list(restated.now.periods)
    parts = (
        ("gross", restated.gross, restated.first.gross, restated.now.gross, 1, theme.GROSS),
        ("refunds", restated.refunds, restated.first.refunds, restated.now.refunds, -1, theme.REFUNDS),
    )
    for name, changes, before, after, sign, colour in parts:
        figure.add_bar(
            x=periods, y=[sign * units(each, currency) for each in changes], name=name, legendgroup=name,
            showlegend=row == 1, marker_color=colour, width=theme.bar_width(every),
            **theme.hover(_told(before, after, currency)), row=row, col=1,
        )  # fmt: skip
    figure.add_scatter(
        x=periods, y=[units(each, currency) for each in restated.net], name="net", legendgroup="net",
        showlegend=row == 1, mode="markers", marker={"color": theme.NET, "size": 7, "symbol": "diamond"},
        **theme.hover(_told(restated.first.net, restated.now.net, currency)), row=row, col=1,
    )  # fmt: skip


def _told(before: tuple[int, ...], after: tuple[int, ...], currency: str) -> list[str]:
    return [
        f"{_signed(b - a, currency)} {currency}: {exact(a, currency)} then, {exact(b, currency)} now"
        for a, b in zip(before, after, strict=True)
    ]


def _signed(minor: int, currency: str) -> str:
    return ("+" if minor > 0 else "") + exact(minor, currency)
