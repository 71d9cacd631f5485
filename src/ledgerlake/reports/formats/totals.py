"""What a report comes to per currency, over all its categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

_SUMS: Final = ("count", "gross_minor", "refunds", "refunded_minor", "net_minor", "failures", "failed_minor")


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """Counts, and sums in minor units, of one currency. Balances are before and after the interval."""

    currency: str
    digits: int
    count: int
    gross_minor: int
    refunds: int
    refunded_minor: int
    net_minor: int
    failures: int
    failed_minor: int
    opening_minor: int
    closing_minor: int

    def units(self, minor: int) -> str:
        """An amount of the currency to its last digit, thousands separated."""
        return units(minor, self.digits)


def units(minor: int, digits: int) -> str:
    """Minor units as units: 123456 of two digits is 1,234.56."""
    whole, fraction = divmod(abs(minor), 10**digits)
    return ("-" if minor < 0 else "") + f"{whole:,}" + (f".{fraction:0{digits}d}" if digits else "")


def totals_of(summary: pl.DataFrame) -> list[CurrencyTotals]:
    """The totals of each currency of a summary, in its order. Sums are exact, however large."""
    found = summary.group_by("currency", maintain_order=True).agg(
        pl.col("exponent").first().cast(pl.Int64).alias("digits"),
        *(pl.col(name).cast(pl.Int128).sum() for name in _SUMS),
        pl.col("opening_minor", "closing_minor").first(),
    )
    return [CurrencyTotals(**row) for row in found.to_dicts()]
