"""Reading rows of commands from CSV, CSV.gz, JSONL and Parquet, as a stream in bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ledgerlake.errors import LedgerLakeError

REQUIRED: Final = (
    "command",
    "command_id",
    "payment_id",
    "organization_id",
    "amount",
    "currency",
    "occurred_at",
)
OPTIONAL: Final = ("user_id", "reason")
COLUMNS: Final = frozenset((*REQUIRED, *OPTIONAL))
FORMATS: Final = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")

_MAX_FIELD: Final = 1_000_000


class BrokenFile(LedgerLakeError):
    """A file that can not be read to its end; `line` is where it broke (for Parquet the row), if known."""

    def __init__(self, path: Path, line: int | None, what: str, remedy: str) -> None:
        where = str(path) if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {what}", remedy)
        self.path = path
        self.line = line


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line in the file (for Parquet its number), from 1, and its fields by column."""

    line: int
    fields: Mapping[str, Any]


@dataclass(slots=True)
class RowFile:
    """An open file of rows. `ignored` is known once the first row was read."""

    path: Path
    size: int
    rows: Iterator[Row]
    # Compressed bytes (for Parquet: rows) read so far, of `size`: what a progress bar shows.
    read: Callable[[], int]
    ignored: list[str] = field(default_factory=list)


@contextmanager
def open_rows(path: Path) -> Iterator[RowFile]:
    """The rows of a file, its format told by its name.

    Raises:
        BrokenFile: here, or while the rows are read: no such file, another format, a missing column,
            bytes that are no UTF-8, a malformed line, a compressed file that ends too early.
    """
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            with _open_parquet(path) as file:
                yield file
        elif name.endswith((".csv", ".csv.gz", ".jsonl", ".jsonl.gz")):
            with path.open("rb") as raw:
                yield _text_file(path, raw, name)
        else:
            raise BrokenFile(path, None, "the format is not known.", f"Give one of {', '.join(FORMATS)}.")
    except FileNotFoundError as error:
        raise BrokenFile(path, None, "there is no such file.", "Check the path.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise BrokenFile(path, None, f"can not be read ({error.strerror}).", "Check the path.") from error


def _text_file(path: Path, raw: IO[bytes], name: str) -> RowFile:
    lines: Iterable[bytes] = gzip.open(raw) if name.endswith(".gz") else raw  # noqa: SIM115 - raw is closed by the caller
    file = RowFile(path, path.stat().st_size, iter(()), raw.tell)
    text = _Lines(path, lines)
    file.rows = _csv_rows(file, text) if ".csv" in name else _json_rows(file, text)
    return file


class _Lines:
    """The file's lines as text; `number` is that of the last one."""

    def __init__(self, path: Path, lines: Iterable[bytes]) -> None:
        self._path = path
        self._lines = iter(lines)
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BrokenFile(
                self._path,
                self.number + 1,
                f"the compressed file is damaged or ends too early ({error}).",
                "Fetch it again, then import it again: what was imported is not imported twice.",
            ) from error
        self.number += 1
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BrokenFile(
                self._path,
                self.number,
                f"the bytes are not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}).",
                "Convert the file to UTF-8, then import it again.",
            ) from error


def _csv_rows(file: RowFile, lines: _Lines) -> Iterator[Row]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            if not values:
                continue
            if header is None:
                header = [name.strip() for name in values]
                _check_columns(file, header, lines.number)
                continue
            if len(values) != len(header):
                raise BrokenFile(
                    file.path,
                    lines.number,
                    f"the row has {len(values)} fields, the header has {len(header)} columns.",
                    "Mend the row, or fetch the file again if it was cut off.",
                )
            yield Row(lines.number, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise BrokenFile(
            file.path, lines.number, f"this is not CSV ({error}).", "Mend the quotes of the row."
        ) from error
    if header is None:
        raise BrokenFile(file.path, 1, "the file is empty.", "It needs at least a header.")


def _json_rows(file: RowFile, lines: _Lines) -> Iterator[Row]:
    checked = False
    for line in lines:
        if not line.strip():
            continue
        try:
            # Numbers stay the text they are: a float would not hold cents.
            value = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
        except ValueError as error:
            raise BrokenFile(
                file.path, lines.number, f"this is not JSON ({error}).", "Mend the line."
            ) from error
        if not isinstance(value, dict):
            raise BrokenFile(
                file.path, lines.number, "the line is not a JSON object.", "One object a line, please."
            )
        if not checked:
            # A row may leave out what is null in it; which column it lacks, its own rejection says.
            _check_columns(file, list(dict.fromkeys([*value, "payment_id"])), lines.number)
            checked = True
        for name in value.keys() - COLUMNS:
            if name not in file.ignored:
                file.ignored.append(name)
        yield Row(lines.number, value)


@contextmanager
def _open_parquet(path: Path) -> Iterator[RowFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    progress = 0

    def rows(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[Row]:
        nonlocal progress
        try:
            for batch in parquet.iter_batches(batch_size=2_000, columns=columns):
                values = [_values(column) for column in batch.columns]
                for fields in zip(*values, strict=True):
                    progress += 1
                    yield Row(progress, dict(zip(columns, fields, strict=True)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BrokenFile(
                path, progress + 1, f"the Parquet data is damaged ({error}).", "Fetch the file again."
            ) from error

    try:
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise BrokenFile(path, None, f"this is not Parquet ({error}).", "Fetch the file again.") from error
    with parquet:
        names: list[str] = parquet.schema_arrow.names
        file = RowFile(path, parquet.metadata.num_rows, iter(()), lambda: progress)
        _check_columns(file, names, None)
        file.rows = rows(parquet, [name for name in names if name in COLUMNS])
        yield file


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    # An instant is kept in milliseconds; Python has no nanoseconds, and refuses them.
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values


def _check_columns(file: RowFile, names: list[str], line: int | None) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise BrokenFile(
            file.path,
            line,
            f"the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; there are {', '.join(names)}.",
            f"The columns are {', '.join((*REQUIRED, *OPTIONAL))}; {' and '.join(OPTIONAL)} may be left out.",
        )
    repeated = sorted({name for name in names if name in COLUMNS and names.count(name) > 1})
    if repeated:
        raise BrokenFile(
            file.path, line, f"the column {repeated[0]} is there twice.", "Keep the one that is meant."
        )
    file.ignored = [name for name in names if name not in COLUMNS]
