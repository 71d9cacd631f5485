"""Parquet files whose bytes are a pure function of their rows, and reading that notices a flipped bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledgerlake.lake.errors import CorruptFileError

# Row groups are what engines prune by and read in parallel; 20,000 events are about 1 MB compressed.
ROW_GROUP: Final = 20_000
PREFIX: Final = "ledgerlake."

# What Arrow raises on damaged bytes, depending on where they lie (names of columns are decoded in Python).
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, OverflowError)

# Ids that share long prefixes and values that grow along the file: delta encodings make events a third
# smaller than plain ones, and cost less to write than dictionaries that overflow.
_DELTA_NUMBERS: Final = ("position", "occurred_at", "recorded_at", "line")
_DELTA_TEXTS: Final = ("event_id", "payment_id", "command_id", "correlation_id", "causation_id")


class DeterministicWriter:
    """Writes rows in row groups of exactly ROW_GROUP (the last may be shorter).

    Equal rows give equal bytes, in whatever portions they arrive. `row_hash` is the SHA-256 of the
    values written so far: per row group, the hash of each column in schema order.
    """

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        encodings = {name: "DELTA_BINARY_PACKED" for name in _DELTA_NUMBERS if name in schema.names}
        encodings |= {name: "DELTA_BYTE_ARRAY" for name in _DELTA_TEXTS if name in schema.names}
        self._schema = schema
        self._writer = pq.ParquetWriter(
            target,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in schema.names if name not in encodings],
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

    def close(self, metadata: Mapping[str, str]) -> None:
        """Put `metadata` into the footer, keys prefixed with `ledgerlake.`, and close the file."""
        stated = {PREFIX + key: value for key, value in metadata.items()}
        self._writer.add_key_value_metadata({**stated, PREFIX + "row_hash": self.row_hash})
        self._writer.close()

    def abandon(self) -> None:
        """Close the file without metadata, to be thrown away. Harmless after `close`."""
        self._writer.close()


def write_table(target: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write the whole table to `target`, deterministically."""
    writer = DeterministicWriter(target, table.schema)
    try:
        for group in row_groups([table]):
            writer.write(group)
        writer.close(metadata)
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
        for part in _value_bytes(column.combine_chunks()):
            digest.update(part)


def _value_bytes(values: Any) -> Iterator[Any]:
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    if values.null_count:
        yield pc.is_null(values).cast(pa.uint8()).to_numpy()
        values = pc.fill_null(values, _filler(values.type))
    if pa.types.is_string(values.type):
        yield pc.binary_length(values).to_numpy()
        offsets = np.frombuffer(values.buffers()[1], np.int32)[
            values.offset : values.offset + len(values) + 1
        ]
        if len(values) and values.buffers()[2] is not None:
            yield values.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    elif pa.types.is_boolean(values.type):
        yield values.cast(pa.uint8()).to_numpy()
    elif len(values):
        width = values.type.bit_width // 8
        yield values.buffers()[1].slice(values.offset * width, len(values) * width)


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


def read_footer(path: Path) -> Footer:
    """Read a file's footer.

    Raises:
        CorruptFileError: the footer can not be read.
        FileNotFoundError: there is no such file.
    """
    try:
        metadata = pq.read_metadata(path)
        return Footer(metadata.num_rows, _stated(metadata.metadata))
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise CorruptFileError(f"{path} is not a readable Parquet file ({error}).") from error


def _stated(found: Mapping[bytes, bytes] | None) -> dict[str, str]:
    prefix = PREFIX.encode()
    return {
        key[len(prefix) :].decode(): value.decode()
        for key, value in (found or {}).items()
        if key.startswith(prefix)
    }


def read_verified(path: Path, schema: pa.Schema) -> pa.Table:
    """All rows of the file, page checksums checked, and the row hash that its footer states.

    Raises:
        CorruptFileError: a checksum, the row hash or the schema does not fit.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as opened:  # one handle: a file replaced meanwhile can not mix in
            reader = pq.ParquetFile(opened, page_checksum_verification=True)
            found = _stated(reader.metadata.metadata)
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
