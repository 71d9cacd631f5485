"""Parquet files whose bytes are a pure function of their rows, and reading that notices a flipped bit."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.footer import (
    CONTENT_HASH,
    PREFIX,
    UNHASHED,
    check_footer,
    entries_in,
    footer_of,
    state_hashes,
)

# Row groups are what engines prune by and read in parallel; 20,000 events are about 1 MB compressed.
ROW_GROUP: Final = 20_000

# What Arrow raises on damaged bytes, depending on where they lie (names of columns are decoded in Python).
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, OverflowError)

# Ids that share long prefixes and values that grow along the file: delta encodings make events a third
# smaller than plain ones, and cost less to write than dictionaries that overflow.
_DELTA_NUMBERS: Final = (
    "position",
    "occurred_at",
    "recorded_at",
    "line",
    "occurred_local",
    "booked_at",
    "balance_minor",
)
_DELTA_TEXTS: Final = (
    "line_id",
    "original_event_id",
    "event_id",
    "payment_id",
    "command_id",
    "correlation_id",
    "causation_id",
    "refund_reference",
)
# Amounts hardly ever repeat, and users do so rarely: a dictionary costs time and a third more bytes.
_PLAIN: Final = (
    "amount_minor",
    "amount",
    "failed_minor",
    "failed",
    "balance",
    "fx_rate",
    "fx_amount_minor",
    "fx_amount",
    "user_id",
    "original_at",
)
# Nobody asks for a range of these: their smallest and largest value lead no reader past rows.
_WITHOUT_STATISTICS: Final = tuple(name for name in _DELTA_TEXTS if name != "payment_id")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What was written: rows and their hash, and size in bytes and SHA-256 (hex) of the whole file."""

    rows: int
    row_hash: str
    bytes: int
    sha256: str


class DeterministicWriter:
    """Writes rows in row groups of exactly ROW_GROUP (the last may be shorter).

    Equal rows give equal bytes, in whatever portions they arrive. `row_hash` is the SHA-256 of the
    values written so far: per row group, the hash of each column in schema order.
    """

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        encodings = {name: "DELTA_BINARY_PACKED" for name in _DELTA_NUMBERS if name in schema.names}
        encodings |= {name: "DELTA_BYTE_ARRAY" for name in _DELTA_TEXTS if name in schema.names}
        self._target = target
        self._writer = pq.ParquetWriter(
            target,
            schema,
            compression="zstd",
            compression_level=1,  # higher ones take longer, and find nothing more in columns like these
            use_dictionary=[name for name in schema.names if name not in encodings and name not in _PLAIN],
            write_statistics=[name for name in schema.names if name not in _WITHOUT_STATISTICS],
            column_encoding=encodings,
            write_page_checksum=True,
        )
        self._hash = hashlib.sha256()
        self.rows = 0

    def write(self, group: pa.Table) -> None:
        """Write one row group; all but the last one have ROW_GROUP rows (see `row_groups`)."""
        update_hash(self._hash, group)
        self._writer.write_table(group, row_group_size=max(group.num_rows, 1))
        self.rows += group.num_rows

    @property
    def row_hash(self) -> str:
        """Hex digest over the rows written so far."""
        return self._hash.hexdigest()

    def close(self, metadata: Mapping[str, str]) -> WrittenFile:
        """Put `metadata` and hashes into the footer, keys prefixed with `ledgerlake.`, and close the file."""
        own = {"row_hash": self.row_hash, **UNHASHED}
        stated = {PREFIX + key: value for key, value in {**metadata, **own}.items()}
        self._writer.add_key_value_metadata(stated)
        self._writer.close()
        return WrittenFile(self.rows, own["row_hash"], *state_hashes(self._target))

    def abandon(self) -> None:
        """Close the file without metadata, to be thrown away. Harmless after `close`."""
        self._writer.close()


def write_table(target: Path, table: pa.Table, metadata: Mapping[str, str]) -> WrittenFile:
    """Write the whole table to `target`, deterministically."""
    writer = DeterministicWriter(target, table.schema)
    try:
        for group in row_groups([table]):
            writer.write(group)
        return writer.close(metadata)
    finally:
        writer.abandon()


def row_groups(tables: Iterable[pa.Table], rows: int = ROW_GROUP) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows each (the last may be shorter), one chunk a column."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        rest = table
        while count + rest.num_rows >= rows:
            held.append(rest.slice(0, rows - count))
            rest = rest.slice(rows - count)
            yield pa.concat_tables(held).combine_chunks()
            held, count = [], 0
        if rest.num_rows:
            held.append(rest)
            count += rest.num_rows
    if held:
        yield pa.concat_tables(held).combine_chunks()


def update_hash(digest: Any, group: pa.Table) -> None:
    """Add one row group's values to `digest`: independent of buffers, offsets and what lies under nulls."""
    for column in group.columns:
        for part in _value_bytes(_one_array(column)):
            digest.update(part)


def _one_array(column: pa.ChunkedArray) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)  # putting it together would copy it
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _value_bytes(values: Any) -> Iterator[Any]:
    if not len(values):
        return
    if values.null_count == len(values):
        # What the rest would come to: every one is null, and then the filler's values.
        yield b"\1" * len(values)
        yield bytes(len(values) * _width(values.type))
        return
    if values.null_count:
        yield pc.is_null(values).cast(pa.uint8()).to_numpy()
        values = pc.fill_null(values, _filler(values.type))
    if pa.types.is_string(values.type):
        offsets = np.frombuffer(values.buffers()[1], np.int32)[
            values.offset : values.offset + len(values) + 1
        ]
        yield np.diff(offsets)
        if values.buffers()[2] is not None:
            yield values.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    elif pa.types.is_boolean(values.type):
        yield values.cast(pa.uint8()).to_numpy()
    else:
        width = _width(values.type)
        yield values.buffers()[1].slice(values.offset * width, len(values) * width)


def _width(kind: pa.DataType) -> int:
    """Bytes that a value of the type adds to the hash, or its length if it is a text."""
    if pa.types.is_string(kind):
        return 4
    return 1 if pa.types.is_boolean(kind) else int(kind.bit_width) // 8


def _filler(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_string(kind):
        return pa.scalar("")
    if pa.types.is_boolean(kind):
        return pa.scalar(False)
    return pa.scalar(0, pa.int32() if pa.types.is_date32(kind) else pa.int64()).cast(kind)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a Parquet file's footer says: its rows, and its `ledgerlake.` entries without the prefix."""

    rows: int
    stated: dict[str, str]


def read_footer(path: Path, *, unhashed_too: bool = False) -> Footer:
    """Read a file's footer, which is to hold the hash that it states.

    Raises:
        CorruptFileError: a bit of the footer is not as it was written, or it states no hash of itself and
            `unhashed_too` is not set.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as opened:
            footer = footer_of(opened)
            check_footer(path, footer, unhashed_too=unhashed_too)
            opened.seek(0)
            metadata = pq.read_metadata(opened)
            return Footer(metadata.num_rows, _stated(metadata.metadata))
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is not a readable Parquet file ({error}).") from error


def read_stated(path: Path) -> dict[str, str] | None:
    """The `ledgerlake.` entries of a footer that holds the hash it states; None if it states none.

    A tenth of the cost of `read_footer`, since nothing else is taken out of the footer.

    Raises:
        CorruptFileError: a bit of the footer is not as it was written.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as opened:
            footer = footer_of(opened)
        if not check_footer(path, footer, unhashed_too=True):
            return None
        return dict(entries_in(footer))
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is not a readable Parquet file ({error}).") from error


def read_verified(path: Path, schema: pa.Schema) -> pa.Table:
    """All rows of the file, if every bit of it is as it was written, and they have the row hash stated.

    Raises:
        CorruptFileError: a hash, a page checksum or the schema does not fit.
        FileNotFoundError: there is no such file.
    """
    try:
        content = path.read_bytes()  # at once: a file replaced meanwhile can not mix in
        footer = footer_of(io.BytesIO(content))
        check_footer(path, footer)
        before = memoryview(content)[: len(content) - len(footer)]
        reader = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        found = _stated(reader.metadata.metadata)
        if hashlib.sha256(before).hexdigest() != found.get(CONTENT_HASH):
            raise CorruptFileError(f"{path} does not hold the bytes that its content hash was made of.")
        table = reader.read(use_threads=False)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is damaged ({error}).") from error
    if not table.schema.equals(schema, check_metadata=False):
        raise CorruptFileError(f"{path} has other columns than this version writes.")
    table = table.replace_schema_metadata(None)
    digest = hashlib.sha256()
    for group in row_groups([table]):
        update_hash(digest, group)
    if digest.hexdigest() != found.get("row_hash"):
        raise CorruptFileError(f"{path} does not hold the rows that its row hash was made of.")
    return table


def _stated(found: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {
        key.decode().removeprefix(PREFIX): value.decode()
        for key, value in (found or {}).items()
        if key.startswith(PREFIX.encode())
    }
