"""Frames as Lake gives them, made by hand, and what a figure shows of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

START = date(2026, 3, 1)  # a Sunday
Row = tuple[int, str, str, str, int, int]
Payment = tuple[Any, ...]


def at(day: float) -> datetime:
    """So many days after the first midnight of START, in UTC."""
    return datetime(START.year, START.month, START.day, tzinfo=UTC) + timedelta(days=day)


def trends_frame(*rows: Row) -> pl.DataFrame:
    """Rows of (day from START, organization, currency, status, count, total of minor units)."""
    return pl.DataFrame(
        [(START + timedelta(days=day), *rest) for day, *rest in rows],
        schema={
            "period": pl.Date,
            "organization_id": pl.String,
            "currency": pl.String,
            "status": pl.String,
            "count": pl.Int64,
            "total_minor": pl.Int64,
        },
        orient="row",
    )


def payments_frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """A payment a row: 1.00 EUR of organization a, completed at START, unless the row says otherwise."""
    usual = {
        "organization_id": "a",
        "currency": "EUR",
        "unreferenced": False,
        "amount_minor": 100,
        "refunded_minor": 0,
        "failures_before": 0,
        "first_at": at(0),
        "completed_at": at(0),
        "first_refund_at": None,
    }
    instant = pl.Datetime("ms", "UTC")
    return pl.DataFrame(
        [usual | row for row in rows],
        schema={
            "organization_id": pl.String,
            "currency": pl.String,
            "unreferenced": pl.Boolean,
            "amount_minor": pl.Int64,
            "refunded_minor": pl.Int64,
            "failures_before": pl.Int64,
            "first_at": instant,
            "completed_at": instant,
            "first_refund_at": instant,
        },
    )


def events_frame(*rows: tuple[str, str, str | None, int]) -> pl.DataFrame:
    """Rows of (event type, currency, reason, amount in minor units)."""
    schema = {
        "event_type": pl.String, "currency": pl.String, "reason": pl.String, "amount_minor": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def traces(figure: Any, name: str) -> list[Any]:
    """The traces of that name, a panel each, from the top."""
    return [trace for trace in figure.data if trace.name == name]


def headings(figure: Any) -> dict[str, str]:
    """What stands above the panel of each currency."""
    told, currencies = (
        [note.text for note in figure.layout.annotations if note.name == name]
        for name in ("heading", "currency")
    )
    return dict(zip(currencies, told, strict=True))


def note(figure: Any) -> str:
    """The line below the title."""
    return figure.layout.title.subtitle.text or ""


def message(figure: Any) -> str:
    """The one text of a figure that has nothing to draw."""
    assert not figure.data
    [text] = [each.text for each in figure.layout.annotations if each.name is None]
    return str(text)
