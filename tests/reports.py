"""A billing report's two Parquet files, made of a few movements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from ledgerlake.domain.money import exponent
from ledgerlake.lake.parquet import write_table
from ledgerlake.reports.billing_definition import CATEGORIES, ITEMISED_FILE, SUMMARY_FILE
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import facts_of, stated, totals_of
from ledgerlake.reports.spec import ReportSpec

OPENING = 5_000
"""Minor units of every currency before the report."""


def movement(kind: str, minor: int, currency: str = "EUR", **change: Any) -> dict[str, Any]:
    """A line as far as a test says it; `kind` is the movement, `minor` a positive number."""
    return {"movement": kind, "minor": minor, "currency": currency, **change}


def write_report(
    folder: Path,
    movements: Sequence[dict[str, Any]],
    *,
    organization: str = "alpine",
    period: str = "2011-11",
    zone: str = "Europe/Berlin",
    state: dict[str, Any] | None = None,
) -> Path:
    """Write itemised.parquet and summary.parquet; a line's columns may be given in its movement."""
    interval = Interval.parse(period, zone)
    lines = list(_lines(movements, interval, organization))
    summary = pa.Table.from_pylist(_summary(lines, organization), SUMMARY_FILE)
    facts = facts_of(ReportSpec(interval), organization, len(lines) + 10, "e" * 32)
    metadata = stated(facts, state, totals_of(summary))
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "itemised.parquet", pa.Table.from_pylist(lines, ITEMISED_FILE), metadata)
    write_table(folder / "summary.parquet", summary, metadata)
    return folder


def _lines(movements: Iterable[dict[str, Any]], interval: Interval, organization: str) -> Any:
    balances: dict[str, int] = {}
    for number, given in enumerate(movements, start=1):
        kind, minor, currency = given["movement"], given["minor"], given["currency"]
        amount = {"charge": minor, "failure": 0}.get(kind, -minor)
        failed = minor if kind == "failure" else None
        balances[currency] = balances.get(currency, OPENING) + amount
        at = given.get("occurred_at", interval.start + timedelta(hours=number, milliseconds=7))
        local = at.astimezone(ZoneInfo(interval.zone)).replace(tzinfo=None)
        line = {
            "line": number,
            "line_id": f"{interval.label.replace('-', '')}-{number + 10}",
            "organization_id": organization,
            "event_id": f"{number:032x}",
            "position": number + 10,
            "payment_id": f"payment-{number}",
            "attempt": 1 if kind in ("charge", "failure") else None,
            "category": kind,
            "occurred_at": at,
            "booked_at": max(at, interval.start),
            "occurred_local": local,
            "day": local.date(),
            "period": interval.label,
            "occurred_period": f"{local:%Y-%m}",
            "exponent": exponent(currency),
            "amount_minor": amount,
            "amount": in_units(amount, currency),
            "failed_minor": failed,
            "failed": None if failed is None else in_units(failed, currency),
            "balance_minor": balances[currency],
            "balance": in_units(balances[currency], currency),
            "correlation_id": f"correlation-{number}",
        }
        yield {**line, **{name: value for name, value in given.items() if name != "minor"}}


def _summary(lines: list[dict[str, Any]], organization: str) -> list[dict[str, Any]]:
    rows = []
    for currency in sorted({line["currency"] for line in lines}):
        own = [line for line in lines if line["currency"] == currency]
        for category in CATEGORIES:
            found = [line for line in own if line["category"] == category]
            sums = {
                "gross": sum(max(line["amount_minor"], 0) for line in found),
                "refunded": sum(max(-line["amount_minor"], 0) for line in found),
                "net": sum(line["amount_minor"] for line in found),
                "failed": sum(line["failed_minor"] or 0 for line in found),
                "opening": OPENING,
                "closing": own[-1]["balance_minor"],
            }
            rows.append(
                {
                    "organization_id": organization,
                    "currency": currency,
                    "exponent": exponent(currency),
                    "category": category,
                    "count": len(found),
                    "refunds": sum(line["movement"] in ("refund", "unreferenced_credit") for line in found),
                    "failures": sum(line["movement"] == "failure" for line in found),
                    **{f"{name}_minor": minor for name, minor in sums.items()},
                    **{name: in_units(minor, currency) for name, minor in sums.items()},
                    **_converted(
                        found, next((line["fx_currency"] for line in own if "fx_currency" in line), None)
                    ),
                }
            )
    return rows


def _converted(lines: list[dict[str, Any]], currency: str | None) -> dict[str, Any]:
    if currency is None:
        return {}
    found = [line["fx_amount_minor"] for line in lines if line.get("fx_amount_minor") is not None]
    sums = {
        "fx_gross": sum(max(minor, 0) for minor in found),
        "fx_refunded": sum(max(-minor, 0) for minor in found),
        "fx_net": sum(found),
    }
    return {
        "fx_currency": currency,
        "unconverted": len(lines) - len(found),
        **{f"{name}_minor": minor for name, minor in sums.items()},
        **{name: in_units(minor, currency) for name, minor in sums.items()},
    }


def in_units(minor: int, currency: str) -> Decimal:
    """Minor units as units."""
    return Decimal(minor).scaleb(-exponent(currency))


def at(text: str) -> datetime:
    """An instant of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
