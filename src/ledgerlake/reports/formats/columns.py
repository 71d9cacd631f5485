"""The columns of a report's tables by what they hold, and the exact text of each value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import polars as pl

from ledgerlake.domain.money import exponent

MOST_DIGITS: Final = 4
"""No currency has more decimal places."""


class Kind(Enum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    MONEY = "money"
    RATE = "rate"
    INSTANT = "instant"
    LOCAL = "local time"
    DATE = "date"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a frame: its values as text, exact, null where there is none."""

    name: str
    kind: Kind

    @property
    def minor(self) -> str:
        """The column of integers that a number's digits are counted in: for money, its minor units."""
        return f"{self.name}_minor" if self.kind is Kind.MONEY else self.name

    def digits(self, frame: pl.DataFrame) -> pl.Expr:
        """Decimal places of each row's currency (integer); those of the reporting currency for fx_."""
        if not self.name.startswith("fx_"):
            return pl.col("exponent").cast(pl.Int64)
        currencies = frame["fx_currency"].drop_nulls().unique().to_list()
        places = {currency: exponent(currency) for currency in currencies}
        return pl.col("fx_currency").replace_strict(places, default=None, return_dtype=pl.Int64)

    def text(self, frame: pl.DataFrame) -> pl.Expr:
        """Money with its currency's digits, instants in ISO 8601 with Z, local times and days without."""
        column = pl.col(self.name)
        match self.kind:
            case Kind.MONEY:
                return _money(pl.col(self.minor), self.digits(frame), frame)
            case Kind.RATE:
                return column.cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".")
            case Kind.INSTANT:
                return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
            case Kind.LOCAL:
                return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f")
            case Kind.DATE:
                return column.dt.strftime("%Y-%m-%d")
            case _:
                return column.cast(pl.String)


def columns_of(frame: pl.DataFrame) -> list[Column]:
    """The frame's columns. A decimal `x` beside an integer `x_minor` is money."""
    return [Column(name, _kind(name, kind, frame)) for name, kind in frame.schema.items()]


def _kind(name: str, kind: pl.DataType, frame: pl.DataFrame) -> Kind:
    if isinstance(kind, pl.Datetime):
        return Kind.INSTANT if kind.time_zone else Kind.LOCAL
    if isinstance(kind, pl.Date):
        return Kind.DATE
    if isinstance(kind, pl.Decimal):
        return Kind.MONEY if f"{name}_minor" in frame.columns else Kind.RATE
    return Kind.INTEGER if kind.is_integer() else Kind.TEXT


def _money(minor: pl.Expr, digits: pl.Expr, frame: pl.DataFrame) -> pl.Expr:
    # On the text of the minor units: a cast between decimals of different scales would cut silently.
    text = minor.cast(pl.String)
    found = pl.lit(None, pl.String)
    for places in frame.select(digits.alias("digits"))["digits"].drop_nulls().unique().sort().to_list():
        if places:
            padded = pl.when(minor < 0).then(text.str.zfill(places + 2)).otherwise(text.str.zfill(places + 1))
            whole = pl.concat_str(padded.str.head(-places), pl.lit("."), padded.str.tail(places))
        else:
            whole = text
        found = pl.when(digits == places).then(whole).otherwise(found)
    return found
