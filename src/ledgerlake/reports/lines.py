"""The lines of a report: numbered, in local time, converted where asked for, and added up to be checked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ledgerlake.domain.money import exponent
from ledgerlake.reports.billing_definition import CATEGORIES, ITEMISED_FILE, LINE_FX
from ledgerlake.reports.clock import Clock
from ledgerlake.reports.spec import ReportSpec

Row: TypeAlias = dict[str, Any]
_EXACT: Final = pa.decimal128(38, 0)  # a sum of 64-bit integers wraps silently


class LineMaker:
    """Makes the lines of reports with one zone, books and reporting currency. Not for several threads."""

    def __init__(self, spec: ReportSpec) -> None:
        self._spec = spec
        self._local = Clock(spec.interval.zone)
        self._books = self._local if spec.books.zone == spec.interval.zone else Clock(spec.books.zone)

    def make(self, movements: pa.Table, before: int) -> pa.Table:
        """ITEMISED rows as rows of ITEMISED_FILE; `before` lines of the same report came before them.

        Raises:
            ReportError: a line can not be converted.
        """
        occurred, booked = (
            movements[name].combine_chunks().cast(pa.int64()).to_numpy()
            for name in ("occurred_at", "booked_at")
        )
        local = self._local.local(occurred)
        period = self._books.months(booked)
        late = (booked != occurred).any()
        columns = {
            "line": pa.array(np.arange(before + 1, before + len(occurred) + 1)),
            "line_id": pc.binary_join_element_wise(
                pc.replace_substring(period, "-", ""), movements["position"].cast(pa.string()), "-"
            ),
            "occurred_local": pa.array(local).cast(pa.timestamp("ms")),
            "day": pa.array((local // 86_400_000).astype(np.int32)).cast(pa.date32()),
            "period": period,
            "occurred_period": self._books.months(occurred) if late else period,
        }
        if self._spec.currency is not None and self._spec.rates is not None:
            movements = self._spec.rates.convert(
                movements, self._spec.currency, self._spec.unconverted, self._spec.books.zone
            )
        else:
            columns |= {each.name: pa.nulls(len(occurred), each.type) for each in LINE_FX}
        found = [columns[name] if name in columns else movements[name] for name in ITEMISED_FILE.names]
        return pa.table(found, schema=ITEMISED_FILE)


@dataclass(slots=True)
class _Sum:
    count: int = 0
    gross_minor: int = 0
    refunds: int = 0
    refunded_minor: int = 0
    failures: int = 0
    failed_minor: int = 0
    fx_gross_minor: int = 0
    fx_refunded_minor: int = 0
    unconverted: int = 0
    oldest: date | None = None


@dataclass(slots=True)
class Sums:
    """What the lines of one report come to, per currency and category, and the balances they end at."""

    by_category: dict[tuple[str, str], _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    balances: dict[str, int] = field(default_factory=dict)

    def add(self, lines: pa.Table) -> None:
        """Add lines, which come after those that were added before."""
        keys = ("currency", "category", "movement")
        sums = ("amount_minor", "failed_minor", "fx_amount_minor")
        wide = lines.select([*keys, "position", "fx_rate_date"])
        for name in sums:
            wide = wide.append_column(name, lines[name].cast(_EXACT))
        grouped = wide.group_by(keys, use_threads=False).aggregate(
            [
                *((name, "sum") for name in sums),
                ("fx_amount_minor", "count"),
                ("position", "count"),
                ("fx_rate_date", "min"),
            ]
        )
        for row in grouped.to_pylist():
            self._add(row)
        for currency in pc.unique(lines["currency"]).to_pylist():
            of = lines["balance_minor"].filter(pc.equal(lines["currency"], currency))
            self.balances[currency] = of[-1].as_py()

    def _add(self, row: Row) -> None:
        found = self.by_category[row["currency"], row["category"]]
        count, minor, fx = (
            row["position_count"],
            int(row["amount_minor_sum"]),
            int(row["fx_amount_minor_sum"] or 0),
        )
        found.count += count
        found.unconverted += count - row["fx_amount_minor_count"]
        days = [day for day in (found.oldest, row["fx_rate_date_min"]) if day is not None]
        found.oldest = min(days, default=None)
        match row["movement"]:
            case "charge":
                found.gross_minor += minor
                found.fx_gross_minor += fx
            case "failure":
                found.failures += count
                found.failed_minor += int(row["failed_minor_sum"])
            case _:
                found.refunds += count
                found.refunded_minor -= minor
                found.fx_refunded_minor -= fx

    def differences(self, summary: list[Row]) -> list[str]:
        """How the lines differ from a report's summary, in words; nothing if they add up to it.

        Counts and sums per currency and category; the last running balance and opening + net against the
        closing balance.
        """
        found = []
        expected = {(row["currency"], row["category"]): row for row in summary}
        for key in sorted({*expected, *self.by_category}):
            mine, row = self.by_category.get(key, _Sum()), expected.get(key)
            for name in ("count", "gross_minor", "refunds", "refunded_minor", "failures", "failed_minor"):
                stated = 0 if row is None else row[name]
                if getattr(mine, name) != stated:
                    found.append(f"{key[0]} {key[1]}: {name} {getattr(mine, name)}, summary {stated}")
            if row is not None and row["net_minor"] != row["gross_minor"] - row["refunded_minor"]:
                found.append(f"{key[0]} {key[1]}: net is not gross - refunded")
        return found + self._balance_differences(summary)

    def _balance_differences(self, summary: list[Row]) -> list[str]:
        found = []
        for currency in sorted({row["currency"] for row in summary} | set(self.balances)):
            rows = [row for row in summary if row["currency"] == currency]
            ends = {(row["opening_minor"], row["closing_minor"]) for row in rows}
            if len(ends) != 1 or [row["category"] for row in rows] != list(CATEGORIES):
                found.append(f"{currency}: {len(rows)} rows with {len(ends)} pairs of balances")
                continue
            opening, closing = ends.pop()
            net = sum(
                each.gross_minor - each.refunded_minor
                for (of, _), each in self.by_category.items()
                if of == currency
            )
            if opening + net != closing or self.balances.get(currency, opening) != closing:
                last = self.balances.get(currency, opening)
                found.append(f"{currency}: opening {opening}, net {net}, last line {last}, closing {closing}")
        return found

    def converted(self, summary: list[Row], currency: str | None) -> list[Row]:
        """The summary's rows with the columns of SUMMARY_FX, as far as there is a reporting currency."""
        if currency is None:
            return summary
        places = exponent(currency)
        rows = []
        for row in summary:
            mine = self.by_category.get((row["currency"], row["category"]), _Sum())
            minor = {
                "gross": mine.fx_gross_minor,
                "refunded": mine.fx_refunded_minor,
                "net": mine.fx_gross_minor - mine.fx_refunded_minor,
            }
            amounts: Row = {f"fx_{name}_minor": value for name, value in minor.items()}
            amounts |= {f"fx_{name}": Decimal(value).scaleb(-places) for name, value in minor.items()}
            rows.append(
                {
                    **row,
                    **amounts,
                    "fx_currency": currency,
                    "unconverted": mine.unconverted,
                    "fx_oldest_rate_date": mine.oldest,
                }
            )
        return rows
