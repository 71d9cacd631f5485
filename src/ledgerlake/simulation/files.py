"""Commands as a file that `ledgerlake import` reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

from ledgerlake.lake.files import write_atomically
from ledgerlake.simulation.business import COLUMNS, SimulationError

Rows = Iterable[dict[str, str]]


def write_commands(rows: Rows, path: Path) -> int:
    """Writes `rows` to `path` (.csv, .csv.gz, .jsonl or .parquet) and returns how many there were.

    The file appears whole or not at all, and the same rows give the same bytes. An absent value is an empty
    field in CSV and null elsewhere.
    Raises SimulationError for another suffix or a path that can't be written.
    """
    write = next((write for suffix, write in _WRITERS.items() if path.name.endswith(suffix)), None)
    if write is None:
        raise SimulationError(f"Can't write commands to {path}.", f"Name it {', '.join(_WRITERS)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary, temporary.open("wb") as target:
            return write(rows, target)
    except OSError as error:
        raise SimulationError(
            f"Can't write {path}: {error.strerror or error}.", "Choose a file in a folder you may write to."
        ) from error


def _write_csv(rows: Rows, target: IO[bytes] | gzip.GzipFile) -> int:
    count = 0
    with _text(target) as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _write_csv_gz(rows: Rows, target: IO[bytes]) -> int:
    # No name and no time in the header: the same commands are the same bytes.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0) as packed:
        return _write_csv(rows, packed)


def _write_jsonl(rows: Rows, target: IO[bytes]) -> int:
    count = 0
    with _text(target) as text:
        for row in rows:
            text.write(json.dumps({name: row[name] or None for name in COLUMNS}) + "\n")
            count += 1
    return count


def _write_parquet(rows: Rows, target: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    count, source = 0, iter(rows)
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        while block := list(islice(source, 50_000)):
            columns = [pa.array([row[name] or None for row in block], pa.string()) for name in COLUMNS]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(block)
    return count


@contextmanager
def _text(target: IO[bytes] | gzip.GzipFile) -> Iterator[io.TextIOWrapper]:
    """A UTF-8 text layer that leaves `target` open."""
    text = io.TextIOWrapper(target, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()


_WRITERS: dict[str, Callable[[Rows, IO[bytes]], int]] = {
    ".csv": _write_csv,
    ".csv.gz": _write_csv_gz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
