"""Rows of a frame as rows of a spreadsheet's XML, made by Polars, whole columns at once.

A number is written as its decimal text, never by way of a float; text is always text: nothing here can write
a formula or a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from ledgerlake.reports.formats.columns import Column, Kind

MOST_UNITS: Final = 32_767
"""UTF-16 units that Excel allows in a cell."""
# Fifteen digits survive its floating point.
_MOST_NUMBER: Final = 10**15 - 1
_MOST_DIGITS: Final = 15

_DAY: Final = 86_400_000  # milliseconds
_EPOCH: Final = 25_569  # 1970-01-01, as Excel counts days
_FIRST_DAY: Final = 61  # 1900-03-01: before it, Excel counts a day that never was

# Cell formats, by their number in spreadsheet-styles.xml; that of money is _MONEY and its decimal places.
HEADER: Final = 1
_LONG_NUMBER, _MONEY = 8, 9
_STYLES: Final = {
    Kind.TEXT: 2, Kind.INTEGER: 3, Kind.RATE: 4, Kind.INSTANT: 5, Kind.LOCAL: 6, Kind.DATE: 7,
}  # fmt: skip

# XML can not hold control characters, and turns CR into LF. Excel writes them as _xHHHH_, and escapes what
# looks like that already.
_ESCAPES: Final = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "_x": "_x005F_x",
    **{chr(code): f"_x{code:04X}_" for code in (*range(9), 11, *range(12, 32), 0xFFFE, 0xFFFF)},
}


@dataclass(slots=True)
class Changes:
    """How many cells are not as a reader expects: text cut short, numbers and times written as text."""

    cut_texts: int = 0
    long_numbers: int = 0
    early_times: int = 0


def header_row(names: Sequence[str]) -> str:
    """The first row: names."""
    cells = (
        f'<c r="{letters(at)}1" s="{HEADER}" {_text_cell(escaped(name))}' for at, name in enumerate(names)
    )
    return f'<row r="1">{"".join(cells)}</row>'


def rows(frame: pl.DataFrame, columns: Sequence[Column], first: int, changes: Changes) -> str:
    """The frame's rows, the first of them with the number `first`; `changes` counts what it had to."""
    frame = _shortened(frame, columns, changes)
    number = pl.int_range(first, first + frame.height).cast(pl.String)
    parts: list[pl.Expr] = [pl.lit('<row r="'), number, pl.lit('">')]
    for at, column in enumerate(columns):
        start = pl.concat_str(pl.lit(f'<c r="{letters(at)}'), number, pl.lit('" s="'))
        parts.append(pl.concat_str(start, _cell(column, frame, changes)).fill_null(""))
    return "".join(frame.select(pl.concat_str(*parts, pl.lit("</row>")).alias("row"))["row"].to_list())


def letters(column: int) -> str:
    """The letters of a column that is counted from 0."""
    found = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        found = chr(ord("A") + rest) + found
    return found


def escaped(text: str) -> str:
    """Text as XML, with control characters as Excel writes them."""
    return str(pl.Series([text]).str.replace_many(_ESCAPES)[0])


def _cell(column: Column, frame: pl.DataFrame, changes: Changes) -> pl.Expr:
    """What follows `s="` in each cell; null where there is none."""
    text = column.text(frame)
    match column.kind:
        case Kind.TEXT:
            return _as_text(text.str.replace_many(_ESCAPES), _STYLES[column.kind])
        case Kind.MONEY | Kind.INTEGER:
            style = (
                column.digits(frame) + _MONEY if column.kind is Kind.MONEY else pl.lit(_STYLES[column.kind])
            )
            fits = pl.col(column.minor).is_between(-_MOST_NUMBER, _MOST_NUMBER)
            changes.long_numbers += _count(frame, ~fits)
            return pl.when(fits).then(_as_number(text, style)).otherwise(_as_text(text, _LONG_NUMBER))
        case Kind.RATE:
            digits = text.str.replace(".", "", literal=True).str.strip_chars("0-").str.len_bytes()
            changes.long_numbers += _count(frame, digits > _MOST_DIGITS)
            number = _as_number(text, pl.lit(_STYLES[column.kind]))
            return pl.when(digits <= _MOST_DIGITS).then(number).otherwise(_as_text(text, _LONG_NUMBER))
        case _:
            source = pl.col(column.name)
            if column.kind is Kind.DATE:
                days = source.cast(pl.Int32) + _EPOCH
            else:
                days = source.dt.epoch("ms") / _DAY + _EPOCH
            changes.early_times += _count(frame, days < _FIRST_DAY)
            number = _as_number(days.cast(pl.String), pl.lit(_STYLES[column.kind]))
            return pl.when(days >= _FIRST_DAY).then(number).otherwise(_as_text(text, _STYLES[Kind.TEXT]))


def _as_number(text: pl.Expr, style: pl.Expr) -> pl.Expr:
    return pl.concat_str(style.cast(pl.String), pl.lit('"><v>'), text, pl.lit("</v></c>"))


def _as_text(text: pl.Expr, style: int) -> pl.Expr:
    before, after = f'{style}" {_text_cell("|")}'.split("|")
    return pl.concat_str(pl.lit(before), text, pl.lit(after))


def _text_cell(text: str) -> str:
    return f't="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def _count(frame: pl.DataFrame, condition: pl.Expr) -> int:
    return int(frame.select(condition.sum().alias("count"))["count"][0] or 0)


def _shortened(frame: pl.DataFrame, columns: Sequence[Column], changes: Changes) -> pl.DataFrame:
    """The frame with its texts as long as a cell can hold; what is cut says so."""
    for column in columns:
        if column.kind is not Kind.TEXT:
            continue
        texts = frame[column.name]
        # A character is at most as many UTF-16 units as it has bytes.
        if frame.filter(pl.col(column.name).str.len_bytes() > MOST_UNITS).is_empty():
            continue
        cut = [text if text is None else _cut(text) for text in texts.to_list()]
        changes.cut_texts += sum(now != before for now, before in zip(cut, texts.to_list(), strict=True))
        frame = frame.with_columns(pl.Series(column.name, cut, pl.String))
    return frame


def _cut(text: str) -> str:
    if _units(text) <= MOST_UNITS:
        return text
    mark = f" [cut here; all {len(text)} characters are in the CSV and Parquet files]"
    kept = text[: MOST_UNITS - len(mark)]
    while _units(kept) > MOST_UNITS - len(mark):
        # Each character taken away is one or two units.
        kept = kept[: len(kept) - max(1, (_units(kept) - MOST_UNITS + len(mark)) // 2)]
    return kept + mark


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
