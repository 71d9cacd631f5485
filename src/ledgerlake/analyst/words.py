"""What people read: times, ages, near misses, and frames with amounts as one writes them."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from math import floor
from typing import Any, Final

import polars as pl

from ledgerlake.domain.money import exponent
from ledgerlake.lake.errors import LakeError

_MINOR = "_minor"
_SHARES = ("_rate", "_share")
_NOT_FOR_READING = ("exponent", "event_id", "line_id")
_WIDE: Final = Context(prec=100)


def readable(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame for reading: amounts as text in units, with thousands separated, and instants to the minute.

    Of every `x_minor` only `x` is left, in the exponent or else the currency that the row names; `x_rate` and
    `x_share` (0 to 1) become percentages, rounded down; ids of events and lines are left out. No amount is
    rounded. Frames without these columns stay as they are.
    """
    if "exponent" not in frame.columns and "currency" in frame.columns:
        currencies = {name: exponent(name) for name in frame["currency"].unique() if name is not None}
        frame = frame.with_columns(
            exponent=pl.col("currency").replace_strict(currencies, return_dtype=pl.Int8, default=None)
        )
    shown = []
    for name, kind in frame.schema.items():
        if name in _NOT_FOR_READING or (not name.endswith(_MINOR) and f"{name}{_MINOR}" in frame.columns):
            continue
        column = pl.col(name)
        if name.endswith(_MINOR) and "exponent" in frame.columns:
            shown.append(
                pl.struct(minor=column, exponent="exponent")
                .map_elements(_amount, return_dtype=pl.String)
                .alias(name.removesuffix(_MINOR))
            )
        elif name.endswith(_SHARES):
            shown.append(column.map_elements(_percent, return_dtype=pl.String))
        elif isinstance(kind, pl.Datetime):
            shown.append(column.dt.strftime("%Y-%m-%d %H:%M"))
        else:
            shown.append(column)
    return frame.select(shown)


def _amount(row: dict[str, Any]) -> str | None:
    minor, exponent = row["minor"], row["exponent"]
    if minor is None or exponent is None:
        return None
    # A sum of DuckDB's comes as a decimal, and an average has a fraction of a minor unit.
    return f"{Decimal(str(minor)).scaleb(-exponent, _WIDE):,f}"


def _percent(share: float) -> str:
    # A float may lie a hair below the hundredth that it means.
    return f"{floor(round(share * 10_000, 6)) / 100:.2f} %"


def unknown(what: str, name: str, known: Collection[str]) -> LakeError:
    """That there is no `what` of this name, and which come near."""
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, 3, 0.5)]
    some = ", ".join(repr(each) for each in (near or sorted(known)[:3]))
    hint = f"Is it {some}?" if near else f"There are {len(known):,}, such as {some}."
    return LakeError(f"No {what} {name!r} is in the lake.", hint if known else "It has none.")


def day(given: date | str) -> date:
    """A day that was given as one or as text.

    Raises:
        LakeError: the text is no day.
    """
    try:
        return date.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise LakeError(f"{given!r} is no day.", "Write it as 2026-06-30.") from None


def midnight(given: date | str) -> datetime:
    """The first instant of a day, UTC."""
    return datetime.combine(day(given), datetime.min.time(), UTC)


def instant(time: datetime) -> str:
    """An instant as one says it."""
    return f"{time:%-d %B %Y at %H:%M} UTC"


def ago(age: timedelta) -> str:
    """How long ago, in the unit that fits."""
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return "just now" if seconds < 60 else f"{seconds} seconds ago"
