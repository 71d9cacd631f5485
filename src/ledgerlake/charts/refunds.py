"""How much of what was paid goes back, by refund date and by cohort, and how soon."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import (
    CurrencySeries,
    Frame,
    Granularity,
    busiest_first,
    counted,
    exact,
    lazy,
    percent,
    periods_between,
    series_by_currency,
)

COHORT_COLUMNS = ("currency", "completed_at", "amount_minor", "refunded_minor")
"""Columns of a payments frame (Lake.payments gives one) that refund_cohorts needs: a row per payment."""

_WINDOW: dict[Granularity, int] = {"day": 28, "week": 4, "month": 3}


@dataclass(frozen=True, slots=True)
class Cohort:
    """Payments that completed in one month: how many, their minor units, and what of them went back since."""

    payments: int = 0
    amount: int = 0
    refunded_payments: int = 0
    refunded: int = 0


def refund_rate(trends: Frame, every: Granularity = "week", known_until: datetime | None = None) -> go.Figure:
    """Amount refunded of the gross amount in the same period, and over the last 4 weeks (3 months).

    Both by the date of the movement: a refund counts when it is paid, not when its payment was. A panel
    per currency; a period without gross is a gap.
    """
    every_series = series_by_currency(trends, every)
    title = f"Refund rate per {every} (UTC): amount refunded of gross"
    if not every_series:
        return theme.nothing_yet(title)
    shown = every_series[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        [each.currency for each in every_series],
        [_heading(each) for each in shown],
        heights=[180] * len(shown),
        note=theme.unfinished_note(shown[0].periods[-1], every, known_until),
    )
    for row, series in enumerate(shown, start=1):
        _draw(figure, row, series, every)
        theme.shade_unfinished(figure, row, series.periods, every, known_until)
    theme.time_axis(figure, len(shown), every, shown[0].periods)
    return figure


def refund_cohorts(payments: Frame, known_until: datetime | None = None) -> go.Figure:
    """Of the payments that completed in a month: what has been refunded of them since, of what they came to.

    A panel per currency. Unlike the rate by date it never exceeds 100 %, it grows after the month is over,
    and refunds that name no payment are in no cohort.
    Raises ChartError when a column of COHORT_COLUMNS is missing.
    """
    title = "Refund rate by month of the payment (UTC): refunded so far"
    by_currency = cohorts_by_currency(payments)
    if not by_currency:
        return theme.nothing_yet(title)
    currencies = busiest_first(
        {currency: sum(each.payments for each in of.values()) for currency, of in by_currency.items()}
    )
    shown = currencies[: theme.MOST_PANELS]
    figure = theme.panels(
        title,
        currencies,
        [_cohort_heading(currency, by_currency[currency]) for currency in shown],
        heights=[180] * len(shown),
        legend=False,
        note=theme.unfinished_note(max(by_currency[shown[0]]), "month", known_until),
    )
    for row, currency in enumerate(shown, start=1):
        months, cohorts = list(by_currency[currency]), list(by_currency[currency].values())
        texts = [
            f"{percent(each.refunded, each.amount)}: {exact(each.refunded, currency)} of"
            f" {exact(each.amount, currency)} {currency},"
            f" {each.refunded_payments:,} of {each.payments:,} payments"
            for each in cohorts
        ]
        figure.add_bar(
            x=months, y=[each.refunded / each.amount if each.amount else None for each in cohorts],
            name="refunded so far", showlegend=False, marker_color=theme.REFUNDS, **theme.hover(texts),
            width=theme.bar_width("month"),
            row=row, col=1,
        )  # fmt: skip
        theme.share_axis(figure, row, "refunded", rangemode="tozero")
        theme.shade_unfinished(figure, row, months, "month", known_until)
    theme.time_axis(figure, len(shown), "month", list(by_currency[shown[0]]))
    return figure


def cohorts_by_currency(payments: Frame) -> dict[str, dict[date, Cohort]]:
    """Per currency a cohort for every month from the first to the last in the frame."""
    rows = (
        lazy(payments, COHORT_COLUMNS, "Lake.payments()")
        .filter(pl.col("completed_at").is_not_null())
        .group_by("currency", pl.col("completed_at").dt.truncate("1mo").dt.date().alias("month"))
        .agg(
            pl.len().cast(pl.Int64),
            pl.col("amount_minor").cast(pl.Int128).sum(),
            (pl.col("refunded_minor") > 0).sum().cast(pl.Int64).alias("refunded_payments"),
            pl.col("refunded_minor").cast(pl.Int128).sum(),
        )
        .collect()
        .rows()
    )
    found: dict[str, dict[date, Cohort]] = defaultdict(dict)
    for currency, month, *figures in rows:
        found[currency][month] = Cohort(*figures)
    months = [month for of in found.values() for month in of]
    every = periods_between(min(months), max(months), "month") if months else ()
    return {currency: {month: of.get(month, Cohort()) for month in every} for currency, of in found.items()}


def _heading(series: CurrencySeries) -> str:
    gross, refunds = sum(series.gross), sum(series.refunds)
    amount = f"{exact(refunds, series.currency)} refunded in {counted(sum(series.refunded), 'refund')}"
    return f"{percent(refunds, gross)}: {amount}" if gross else amount


def _cohort_heading(currency: str, cohorts: dict[date, Cohort]) -> str:
    amount, refunded = (
        sum(getattr(each, name) for each in cohorts.values()) for name in ("amount", "refunded")
    )
    return f"{percent(refunded, amount)}: {exact(refunded, currency)} refunded of {exact(amount, currency)}"


def _draw(figure: go.Figure, row: int, series: CurrencySeries, every: Granularity) -> None:
    currency, periods, window = series.currency, list(series.periods), _WINDOW[every]
    rates: list[float | None] = []
    smooth: list[float | None] = []
    texts: list[str] = []
    means: list[str] = []
    for end in range(1, len(periods) + 1):
        gross, refunds = series.gross[end - 1], series.refunds[end - 1]
        rates.append(refunds / gross if gross else None)
        texts.append(_told(refunds, gross, currency))
        recent = sum(series.gross[max(0, end - window) : end])
        back = sum(series.refunds[max(0, end - window) : end])
        smooth.append(back / recent if end >= window and recent else None)
        means.append(_told(back, recent, currency) if end >= window else "")
    figure.add_scatter(
        x=periods, y=rates, name=every, legendgroup="rate", showlegend=row == 1, mode="markers",
        marker={"color": theme.REFUNDS, "size": 6}, cliponaxis=False, **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=periods, y=smooth, name=f"last {window} {every}s", legendgroup="smooth", showlegend=row == 1,
        mode="lines", line={"color": theme.NET, "width": 2.5}, **theme.hover(means), row=row, col=1,
    )  # fmt: skip
    theme.share_axis(figure, row, "refunded", rangemode="tozero")


def _told(refunds: int, gross: int, currency: str) -> str:
    share = f"{percent(refunds, gross)}: " if gross else ""
    return f"{share}{exact(refunds, currency)} of {exact(gross, currency)} {currency}"
