"""A report's two Parquet files, read row group by row group and checked against their row hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import read_footer, update_hash
from ledgerlake.reports.errors import ReportError

ITEMISED: Final = "itemised.parquet"
SUMMARY: Final = "summary.parquet"
# Facts that are texts; the others are stated as JSON.
_TEXTS: Final = ("report_id", "type", "organization", "last_event_id")
# Facts of the report rather than of one file, what says most first.
_SHOWN: Final = (
    "organization", "interval", "state", "position", "last_event_id", "books", "currency", "rates",
    "unconverted", "report_id", "type", "definitions", "generator",
)  # fmt: skip
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Source:
    """A report as its Parquet files state it.

    `stated` are the facts in their metadata, as text or JSON text. `summary` is the whole table;
    `no_lines` has the columns of the lines, and no row.
    """

    folder: Path
    stated: Mapping[str, str]
    summary: pl.DataFrame
    no_lines: pl.DataFrame
    rows: int

    @classmethod
    def open(cls, folder: Path) -> Source:
        """The report in a folder.

        Raises:
            ReportError: the two files are of different reports.
            CorruptFileError: one of them is damaged.
            FileNotFoundError: one of them is missing.
        """
        lines, summary = read_footer(folder / ITEMISED), read_footer(folder / SUMMARY)
        # Not the row hash, which each has of its own rows.
        for fact in ("report_id", "organization", "position"):
            if lines.stated.get(fact) != summary.stated.get(fact):
                raise ReportError(
                    f"{ITEMISED} and {SUMMARY} in {folder} are of different reports: their {fact} differs.",
                    "Write the report again.",
                )
        return cls(
            folder,
            summary.stated,
            pl.concat([_empty(folder / SUMMARY), *_groups(folder / SUMMARY, summary.stated["row_hash"])]),
            _empty(folder / ITEMISED),
            lines.rows,
        )

    def lines(self) -> Iterator[pl.DataFrame]:
        """The lines, a row group (20,000 rows) at a time.

        Raises:
            CorruptFileError: the file is damaged. It may come after the last row: until then nothing that was
                made of the rows counts.
        """
        path = self.folder / ITEMISED
        yield from _groups(path, read_footer(path).stated["row_hash"])

    def fact(self, name: str) -> Any:
        """A fact as the manifest has it; None if it is not stated."""
        text = self.stated.get(name)
        if text is None or name in _TEXTS:
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def facts(self) -> Iterator[tuple[str, str]]:
        """What the report states of itself but its totals, as texts; names of several parts have dots."""
        for name in _SHOWN:
            yield from _flat(name, self.fact(name))

    @property
    def organization(self) -> str:
        """Whose report it is."""
        return self.stated["organization"]

    @property
    def label(self) -> str:
        """The name of the interval, such as 2011-11."""
        return str(self.fact("interval")["label"])

    @property
    def zone(self) -> str:
        """The zone of local times and days."""
        return str(self.fact("interval")["zone"])

    @property
    def interval(self) -> tuple[datetime, datetime]:
        """Its first instant, and the first one after it."""
        interval = self.fact("interval")
        return datetime.fromisoformat(interval["start"]), datetime.fromisoformat(interval["end"])

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last local day that it touches."""
        here = ZoneInfo(self.zone)
        start, end = self.interval
        return start.astimezone(here).date(), (end - timedelta(milliseconds=1)).astimezone(here).date()

    @property
    def status(self) -> str:
        """Draft, or which revision of a closed period."""
        state = self.fact("state") or {}
        name = str(state.get("state", "draft"))
        return f"{name}, revision {state['revision']}" if "revision" in state else name


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for part, each in value.items():
            yield from _flat(f"{name}.{part}", each)
    elif isinstance(value, list):
        for number, each in enumerate(value, start=1):
            yield from _flat(f"{name}.{number}", each)
    elif value is not None:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _empty(path: Path) -> pl.DataFrame:
    return _frame(pq.read_schema(path).empty_table())


def _frame(table: pa.Table) -> pl.DataFrame:
    return cast("pl.DataFrame", pl.from_arrow(table.replace_schema_metadata(None)))


def _groups(path: Path, row_hash: str) -> Iterator[pl.DataFrame]:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as opened:  # one handle: a file replaced meanwhile can not mix in
            reader = pq.ParquetFile(opened, page_checksum_verification=True)
            for number in range(reader.num_row_groups):
                group = reader.read_row_group(number, use_threads=False).combine_chunks()
                update_hash(digest, group)
                yield _frame(group)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is damaged ({error}).") from error
    if digest.hexdigest() != row_hash:
        raise CorruptFileError(f"{path} does not hold the rows that its row hash was made of.")
