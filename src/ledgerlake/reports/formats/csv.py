"""A report's tables as CSV (RFC 4180), in UTF-8 without a byte order mark.

An empty field is no value, "" is empty text. What a spreadsheet would take for a formula is kept from that
by an apostrophe that can be taken out again, so the data is exact all the same: see `guarded`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import polars as pl

from ledgerlake.reports.formats.columns import Kind, columns_of

# What spreadsheets begin formulas with, in the wide forms of East Asian keyboards too; and spaces, which
# they skip.
_SIGNS: Final = "=+\\-@＝＋－＠"
_SPACES: Final = " \u00a0\u3000"
_CONTROLS: Final = "\\x00-\\x1f\\x7f-\\x9f"
# A spreadsheet that is set to another separator begins cells there, and does not see the quotes.
_SEPARATORS: Final = "[;\\t\\r\\n]"
_LINE_END: Final = "\r\n"


def guarded(text: pl.Expr) -> pl.Expr:
    """Text in which no cell begins a formula, wherever a spreadsheet may begin one.

    An apostrophe is put in front of = + - @ and of control characters at the beginning, and in front of = + -
    @ after ; tab and line ends; also where spaces and apostrophes stand between. So one apostrophe taken away
    at each such place gives the text back.
    """
    inner = text.str.replace_all(f"({_SEPARATORS})('*[{_SPACES}]*[{_SIGNS}])", "${1}'${2}")
    return inner.str.replace(f"^('*[{_SPACES}]*[{_SIGNS}{_CONTROLS}])", "'${1}")


def write_csv(target: Path, header: pl.DataFrame, frames: Iterable[pl.DataFrame]) -> None:
    """Write the rows of `frames`, which have the columns of `header`, with CR LF after each."""
    columns = columns_of(header)
    with target.open("wb") as file:
        header.clear().write_csv(file, line_terminator=_LINE_END)
        for frame in frames:
            texts = [
                (guarded(column.text(frame)) if column.kind is Kind.TEXT else column.text(frame)).alias(
                    column.name
                )
                for column in columns
            ]
            frame.select(texts).write_csv(file, include_header=False, line_terminator=_LINE_END)
