"""A report in the formats that people and their programs open: CSV, XLSX, and a page of HTML.

Each is made of the report's two Parquet files alone, and states what they state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ledgerlake.lake.files import remove_leftovers, write_atomically
from ledgerlake.reports.errors import ReportError

__all__ = ["FILES_OF", "FORMATS", "OTHERS", "export"]

FILES_OF: Final[dict[str, tuple[str, ...]]] = {
    "parquet": ("itemised.parquet", "summary.parquet"),
    "csv": ("itemised.csv", "summary.csv"),
    "xlsx": ("report.xlsx",),
    "html": ("report.html",),
}
"""The files of each format."""
FORMATS: Final = tuple(FILES_OF)
"""What a report can be asked for in; parquet is always there."""
OTHERS: Final = frozenset(file for name in FORMATS if name != "parquet" for file in FILES_OF[name])
"""The files of the formats but parquet."""


def export(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Make the other formats of the report whose itemised.parquet and summary.parquet lie in `folder`.

    Returns the files, each of them whole or not there. The same Parquet files and formats give the same
    bytes.

    Raises:
        ReportError: an unknown format, or the two files are of different reports.
        CorruptFileError: one of the two is damaged.
        FileNotFoundError: one of the two is missing.
    """
    # Whoever asks for Parquet alone does not wait for Polars.
    from ledgerlake.reports.formats.csv import write_csv
    from ledgerlake.reports.formats.html import write_html
    from ledgerlake.reports.formats.source import Source
    from ledgerlake.reports.formats.xlsx import write_xlsx

    for name in formats:
        if name not in FILES_OF:
            raise ReportError(f"{name!r} is no format of a report.", f"Choose from {', '.join(FORMATS)}.")
    source = Source.open(folder)
    remove_leftovers(folder)
    beside = [file for name in FORMATS if name in formats or name == "parquet" for file in FILES_OF[name]]
    writers: dict[str, Callable[[Path], None]] = {
        "itemised.csv": lambda target: write_csv(target, source.no_lines, source.lines()),
        "summary.csv": lambda target: write_csv(target, source.summary, [source.summary]),
        "report.xlsx": lambda target: write_xlsx(target, source),
        "report.html": lambda target: write_html(target, source, beside[:-1]),
    }
    made = []
    for file in beside:
        if file in writers:
            with write_atomically(folder / file) as target:
                writers[file](target)
            made.append(folder / file)
    return made
