"""Why attempts fail, and what becomes of the payments that failed at first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go
import polars as pl

from ledgerlake.charts import theme
from ledgerlake.charts.measures import ChartError, Frame, busiest_first, counted, exact, lazy, percent

EVENTS_COLUMNS = ("event_type", "currency", "reason", "amount_minor")
"""Columns of an events frame (Lake.events gives one) that failure_pareto needs: a row per event."""

FUNNEL_COLUMNS = ("currency", "unreferenced", "completed_at", "failures_before", "amount_minor")
"""Columns of a payments frame (Lake.payments gives one) that retry_funnel needs: a row per payment."""

_MOST_ATTEMPTS = 6  # that many rows in a funnel, the last for all later ones too
_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th")


@dataclass(frozen=True, slots=True)
class Reason:
    """Failed attempts for one reason: how many, and the minor units they were for."""

    name: str
    count: int
    amount: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of the payments that were tried a `number`-th time, and of how many minor units.

    `tried` = `completed` + `again` (failed, and tried once more) + `given_up` (failed, and not tried since).
    """

    number: int
    completed: int
    again: int
    given_up: int
    completed_amount: int
    given_up_amount: int

    @property
    def tried(self) -> int:
        return self.completed + self.again + self.given_up


def failure_pareto(events: Frame, top: int = 10) -> go.Figure:
    """Failed attempts by reason, most frequent first, with the share that the reasons so far make up.

    A panel per currency; reasons after the `top` ones are put together.
    Raises ChartError when a column of EVENTS_COLUMNS is missing or `top` is not positive.
    """
    title = "Failed attempts by reason"
    by_currency = reasons_by_currency(events)
    if not by_currency:
        return theme.nothing_yet(title, "There are no failed attempts.")
    if top < 1:
        raise ChartError(f"There is no chart of the top {top} reasons.", "Ask for one reason or more.")
    currencies = busiest_first({name: sum(each.count for each in of) for name, of in by_currency.items()})
    shown = currencies[: theme.MOST_PANELS]
    ranked = {currency: _top(by_currency[currency], top) for currency in shown}
    figure = theme.panels(
        title,
        currencies,
        [_pareto_heading(currency, by_currency[currency]) for currency in shown],
        heights=[theme.rows_height(len(ranked[currency])) for currency in shown],
        share_x=False,
    )
    for row, currency in enumerate(shown, start=1):
        _draw_pareto(figure, row, currency, ranked[currency])
    figure.update_layout(hovermode="closest", bargap=0.25)
    return figure


def reasons_by_currency(events: Frame) -> dict[str, list[Reason]]:
    """Per currency the reasons of failed attempts, the most frequent first; no reason is one, too."""
    rows = (
        lazy(events, EVENTS_COLUMNS, "Lake.events()")
        .filter(pl.col("event_type") == "PaymentFailed")
        .with_columns(pl.col("reason").replace("", None))
        .group_by("currency", "reason")
        .agg(pl.len().cast(pl.Int64), pl.col("amount_minor").cast(pl.Int128).sum())
        .collect()
        .rows()
    )
    found: dict[str, list[Reason]] = defaultdict(list)
    for currency, reason, count, amount in rows:
        found[currency].append(Reason("no reason given" if reason is None else reason, count, amount))
    for reasons in found.values():
        reasons.sort(key=lambda each: (-each.count, each.name))
    return dict(found)


def retry_funnel(payments: Frame) -> go.Figure:
    """What became of payments whose first attempt failed: tried again, completed at last, or given up.

    A panel per currency, a row per attempt. Payments that completed at once are in the heading only, and
    a failure that was told after completion is none before it.
    Raises ChartError when a column of FUNNEL_COLUMNS is missing.
    """
    title = "Retries: what became of payments that failed at first"
    by_currency = attempts_by_currency(payments)
    if not by_currency:
        return theme.nothing_yet(title)
    failed = {each: of for each, of in by_currency.items() if of[0].completed < of[0].tried}
    if not failed:
        return theme.nothing_yet(title, "No payment failed at its first attempt.")
    currencies = busiest_first({currency: of[0].tried for currency, of in failed.items()})
    shown = currencies[: theme.MOST_PANELS]
    without = ", ".join(sorted(by_currency.keys() - failed.keys()))
    figure = theme.panels(
        title,
        currencies,
        [_funnel_heading(by_currency[currency]) for currency in shown],
        heights=[theme.rows_height(len(by_currency[currency])) for currency in shown],
        share_x=False,
        note=f"No payment failed at first in {without}" if without else "",
    )
    for row, currency in enumerate(shown, start=1):
        _draw_funnel(figure, row, currency, by_currency[currency])
    figure.update_layout(barmode="stack", hovermode="closest", bargap=0.25)
    return figure


def attempts_by_currency(payments: Frame) -> dict[str, list[Attempt]]:
    """Per currency what became of the first, second ... attempt; the sixth stands for all later ones too."""
    rows = (
        lazy(payments, FUNNEL_COLUMNS, "Lake.payments()")
        .filter(~pl.col("unreferenced"))
        .group_by("currency", "failures_before", pl.col("completed_at").is_not_null().alias("done"))
        .agg(pl.len().cast(pl.Int64), pl.col("amount_minor").cast(pl.Int128).sum())
        .collect()
        .rows()
    )
    ended: dict[str, dict[tuple[int, bool], tuple[int, int]]] = defaultdict(dict)
    for currency, failures, done, count, amount in rows:
        # A payment ends with the attempt that went through, or with the last that failed.
        number = min(max(failures + done, 1), _MOST_ATTEMPTS)
        counted, summed = ended[currency].get((number, done), (0, 0))
        ended[currency][number, done] = counted + count, summed + amount
    found: dict[str, list[Attempt]] = {}
    for currency, ends in ended.items():
        later = 0
        attempts: list[Attempt] = []
        for number in range(max(number for number, _ in ends), 0, -1):
            completed, given_up = ends.get((number, True), (0, 0)), ends.get((number, False), (0, 0))
            attempts.append(Attempt(number, completed[0], later, given_up[0], completed[1], given_up[1]))
            later = attempts[-1].tried
        found[currency] = attempts[::-1]
    return found


def _top(reasons: list[Reason], top: int) -> list[Reason]:
    rest = reasons[top:]
    if len(rest) < 2:
        return reasons
    others = Reason(
        f"{len(rest)} other reasons", sum(each.count for each in rest), sum(each.amount for each in rest)
    )
    return [*reasons[:top], others]


def _pareto_heading(currency: str, reasons: list[Reason]) -> str:
    count, amount = sum(each.count for each in reasons), sum(each.amount for each in reasons)
    return f"{counted(count, 'failed attempt')} at {exact(amount, currency)}"


def _draw_pareto(figure: go.Figure, row: int, currency: str, reasons: list[Reason]) -> None:
    total, reached = sum(each.count for each in reasons), 0
    cumulative, texts = [], []
    for each in reasons:
        reached += each.count
        cumulative.append(reached)
        texts.append(
            f"{escape(each.name)}<br>{counted(each.count, 'failed attempt')}, {percent(each.count, total)}"
            f"<br>for {exact(each.amount, currency)} {currency}"
            f"<br>with those above: {reached:,}, {percent(reached, total)}"
        )
    rows = list(range(len(reasons)))
    figure.add_bar(
        x=[each.count / total for each in reasons], y=rows, orientation="h", name="failed attempts",
        legendgroup="bar", showlegend=row == 1, marker_color=theme.REFUNDS, **theme.hover(texts),
        row=row, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[count / total for count in cumulative], y=rows, name="this reason and those above",
        legendgroup="line", showlegend=row == 1, mode="lines+markers", line={"color": theme.NET, "width": 2},
        marker={"size": 6, "color": theme.NET}, **theme.hover(texts), row=row, col=1,
    )  # fmt: skip
    theme.share_axis(figure, row, "of failed attempts", axis="x", range=[0, 1.02])
    theme.names_axis(figure, row, [each.name for each in reasons])


def _funnel_heading(attempts: list[Attempt]) -> str:
    first = attempts[0]
    failed = first.tried - first.completed
    recovered = sum(each.completed for each in attempts[1:])
    return (
        f"{failed:,} of {first.tried:,} payments failed at first,"
        f" retries recovered {percent(recovered, failed)}"
    )


def _draw_funnel(figure: go.Figure, row: int, currency: str, attempts: list[Attempt]) -> None:
    names, texts = [], []
    for each in attempts:
        later = " and later" if each.number == _MOST_ATTEMPTS else ""
        names.append(f"{_ORDINALS[each.number - 1]} attempt{later}" if each.number > 1 else "1st failed")
        failed = each.again + each.given_up
        texts.append(
            f"{_ORDINALS[each.number - 1]} attempt{later}: {counted(each.tried, 'payment')} tried<br>"
            f"{each.completed:,} completed ({percent(each.completed, each.tried)}),"
            f" {exact(each.completed_amount, currency)} {currency}<br>"
            f"{failed:,} failed: {each.again:,} tried again,<br>"
            f"{each.given_up:,} not tried since, {exact(each.given_up_amount, currency)} {currency}"
        )
    parts = (
        ("completed", theme.SUCCESS, [0 if each.number == 1 else each.completed for each in attempts]),
        ("failed, tried again", theme.QUIET, [each.again for each in attempts]),
        ("failed, not tried since", theme.REFUNDS, [each.given_up for each in attempts]),
    )
    for name, colour, values in parts:
        figure.add_bar(
            x=values, y=list(range(len(attempts))), orientation="h", name=name, legendgroup=name,
            showlegend=row == 1, marker_color=colour, **theme.hover(texts), row=row, col=1,
        )  # fmt: skip
    theme.count_axis(figure, row, "payments", attempts[0].again + attempts[0].given_up, axis="x")
    theme.names_axis(figure, row, names)
