"""A report as a spreadsheet: summary, lines, and a sheet about both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from ledgerlake.reports.formats.cells import MOST_UNITS, Changes
from ledgerlake.reports.formats.source import Source
from ledgerlake.reports.formats.spreadsheet import Spreadsheet
from ledgerlake.reports.formats.totals import totals_of

_READING: Final = {
    "gross": "All charges, before anything that went back.",
    "refunded": "Refunds, and credits that name no payment; a positive number.",
    "net": "Gross less refunded.",
    "failed": "What failed attempts tried to charge; in no other figure.",
    "opening, closing": "The balance of a currency before and after: all charges less all that went back.",
    "correction": "A movement of an earlier period that was closed when it arrived; booked here.",
    "amount": "What a line does to the balance: a charge is positive, a refund or credit negative.",
    "instants (…Z)": "UTC. Other times are local, in the zone of this report.",
    "currencies": "Never added to one another.",
}


def write_xlsx(target: Path, source: Source) -> None:
    """Write the report of `source` to the file `target`."""
    with Spreadsheet(target, f"Billing report: {source.organization}, {source.label}") as book:
        book.add("Summary", source.summary, [source.summary])
        book.add("Lines", source.no_lines, source.lines())
        about = pl.DataFrame(
            [*source.facts(), *_totals(source), *_READING.items(), *_notes(book.changes)],
            schema={"what": pl.String, "is": pl.String},
            orient="row",
        )
        book.add("About", about, [about], {"what": 36, "is": 100})


def _totals(source: Source) -> Iterator[tuple[str, str]]:
    for each in totals_of(source.summary):
        yield f"{each.currency}, movements", f"{each.count:,}"
        for name in ("opening", "gross", "refunded", "net", "closing", "failed"):
            yield f"{each.currency}, {name}", each.units(getattr(each, f"{name}_minor"))


def _notes(changes: Changes) -> Iterator[tuple[str, str]]:
    """What is not in this file as it is in the Parquet and CSV files."""
    yield (
        "texts cut",
        f"{changes.cut_texts} (a cell holds {MOST_UNITS:,} characters; cut ones end with a note)",
    )
    yield "numbers as text", f"{changes.long_numbers} (of more than 15 digits, which Excel would round)"
    yield "times as text", f"{changes.early_times} (before March 1900, when Excel's calendar begins)"
