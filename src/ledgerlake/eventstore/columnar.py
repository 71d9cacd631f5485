"""The event log as Arrow tables, read in position ranges.

The server sends whole documents, which costs it least; `bson_columns` turns them into Arrow, and two
threads read disjoint ranges ahead of the consumer. Money is read as int64 minor units, which is exact;
the decimal amount is derived from them in Arrow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import ConnectionFailure
from pymongo.read_concern import ReadConcern

from ledgerlake.domain.money import exponent
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.bson_columns import Kind, WrongTypeError, decode, first_batch
from ledgerlake.eventstore.transaction import COUNTER_ID

Document: TypeAlias = dict[str, Any]

_TIME: Final = pa.timestamp("ms", tz="UTC")
AMOUNT: Final = pa.decimal128(38, 4)

SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("payment_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("occurred_at", _TIME, nullable=False),
        pa.field("recorded_at", _TIME, nullable=False),
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("exponent", pa.int8(), nullable=False),
        pa.field("amount", AMOUNT, nullable=False),
        pa.field("organization_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("correlation_id", pa.string(), nullable=False),
        pa.field("causation_id", pa.string(), nullable=False),
        pa.field("command_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("attempt", pa.int32()),
        pa.field("unreferenced", pa.bool_(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
    ]
)

# Column -> path in the document. `exponent` and `amount` are derived and have none.
PATHS: Final[Mapping[str, str]] = {
    "position": "position",
    "event_id": "_id",
    "payment_id": "aggregateId",
    "event_type": "eventType",
    "version": "version",
    "occurred_at": "timestamp",
    "recorded_at": "recordedAt",
    "amount_minor": "eventData.amountMinor",
    "currency": "eventData.currency",
    "organization_id": "metadata.organizationId",
    "user_id": "metadata.userId",
    "correlation_id": "correlationId",
    "causation_id": "causationId",
    "command_id": "commandId",
    "reason": "eventData.reason",
    "attempt": "eventData.attempt",
    "unreferenced": "eventData.unreferenced",
    "schema_version": "schemaVersion",
}
_DERIVED: Final = frozenset({"exponent", "amount"})
_KINDS: Final = {
    pa.string(): Kind.STRING,
    pa.bool_(): Kind.BOOL,
    pa.int32(): Kind.INTEGER,
    pa.int64(): Kind.INTEGER,
    _TIME: Kind.DATE,
}

# Ranges of 10,000 documents (some 6 MB) fit one reply and the processor's cache. A third thread measured
# slower: part of the decoding holds the interpreter's lock.
RANGE_EVENTS: Final = 10_000
THREADS: Final = 2

_UNITS: Final = pa.array([Decimal(1).scaleb(-places) for places in range(5)], pa.decimal128(5, 4))

# Replies as bytes: building a Python object per document would cost more than all the rest.
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)


class GapError(LedgerLakeError):
    """A position range of the log does not hold exactly one event per position."""

    def __init__(self, after: int, up_to: int, position: int, found: str) -> None:
        super().__init__(
            f"The event log has {found} at position {position} (read: {after + 1} to {up_to}).",
            "The log was changed from outside or restored in part: restore the events collection and"
            " its counter from one backup.",
        )
        self.after = after
        self.up_to = up_to
        self.position = position


class MalformedEventError(LedgerLakeError):
    """An event lacks a required field, or holds a value of another type there."""

    def __init__(self, position: int | None, field: str, detail: str) -> None:
        where = f"at position {position}" if position is not None else "in the log"
        super().__init__(
            f"The event {where} has {detail} in field {field!r}.",
            "Events are written by the event store only: repair or restore this event.",
        )
        self.position = position
        self.field = field


def head(db: Database[Document]) -> int:
    """Position of the last committed event; 0 for an empty log."""
    counters = db.get_collection("counters", read_concern=ReadConcern("majority"))
    counter = counters.find_one({"_id": COUNTER_ID})
    return 0 if counter is None else int(counter["position"])


def event_id_at(db: Database[Document], position: int) -> str | None:
    """Id of the event at a position, as hex text; None if there is none."""
    events = db.get_collection("events", read_concern=ReadConcern("majority"))
    found = events.find_one({"position": position}, {"_id": 1})
    return None if found is None else str(found["_id"])


def read_columns(
    db: Database[Document], after: int, up_to: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """The events with after < position <= up_to, one row each, sorted by position.

    Args:
        columns: names out of SCHEMA, in the order wanted; default all.

    Returns:
        Exactly `up_to - after` rows, typed as SCHEMA.

    Raises:
        GapError: a position is missing or held twice.
        MalformedEventError: a required field is missing or of another type.
        ValueError: an unknown column, or a range that ends before it starts.
    """
    tables = list(iter_columns(db, after, up_to, max(up_to - after, 1), columns))
    return tables[0] if tables else _arrow_schema(columns).empty_table()


def iter_columns(
    db: Database[Document],
    after: int,
    up_to: int,
    batch: int,
    columns: Sequence[str] | None = None,
) -> Generator[pa.Table, None, None]:
    """Tables of `batch` events each (the last may be shorter), in position order; see `read_columns`.

    Memory is bounded by one batch and four ranges of 10,000 events read ahead, however long the log is.
    """
    wanted = _arrow_schema(columns)
    if batch < 1 or up_to < after or after < 0:
        raise ValueError(f"Can not read positions {after + 1} to {up_to} in batches of {batch}.")
    parts: list[pa.Table] = []
    rows = 0
    for part in _read_ahead(db, wanted, _ranges(after, up_to, batch)):
        parts.append(part)
        rows += part.num_rows
        if rows == batch:
            yield pa.concat_tables(parts)
            parts, rows = [], 0
    if parts:
        yield pa.concat_tables(parts)


def _arrow_schema(columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return SCHEMA
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown or not columns:
        raise ValueError(f"Unknown columns {unknown}: choose from {', '.join(SCHEMA.names)}.")
    return pa.schema([SCHEMA.field(name) for name in columns])


def _ranges(after: int, up_to: int, batch: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most RANGE_EVENTS that never cross the end of a batch."""
    for start in range(after, up_to, batch):
        end = min(start + batch, up_to)
        for low in range(start, end, RANGE_EVENTS):
            yield low, min(low + RANGE_EVENTS, end)


def _read_ahead(
    db: Database[Document], wanted: pa.Schema, ranges: Iterator[tuple[int, int]]
) -> Iterator[pa.Table]:
    pending: deque[Future[pa.Table]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-events")
    try:
        for low, high in ranges:
            pending.append(pool.submit(_read_range, db, wanted, low, high))
            if len(pending) > THREADS + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also when the consumer stops early: no thread may use the connection after this returns.
        pool.shutdown(wait=True, cancel_futures=True)


def _read_range(db: Database[Document], wanted: pa.Schema, after: int, up_to: int) -> pa.Table:
    try:
        return _read_once(db, wanted, after, up_to)
    except ConnectionFailure:
        # As the driver does for its own reads: once more, on whichever server is primary by now.
        return _read_once(db, wanted, after, up_to)


def _read_once(db: Database[Document], wanted: pa.Schema, after: int, up_to: int) -> pa.Table:
    names = ["position", *(name for name in wanted.names if name not in _DERIVED | {"position"})]
    if _DERIVED & set(wanted.names):
        names += [name for name in ("amount_minor", "currency") if name not in names]
    kinds = {PATHS[name]: _kind(name) for name in names}
    parts: list[pa.Table] = []
    reached = after
    while reached < up_to:
        reply = _reply(db, reached, up_to)
        starts = first_batch(reply)
        if not len(starts):
            break
        arrays = _decode(reply, starts, kinds)
        part = pa.Table.from_arrays(list(arrays.values()), names)
        parts.append(part)
        reached = part["position"][-1].as_py()
    if not parts:
        raise GapError(after, up_to, after + 1, "no event")
    found = pa.concat_tables(parts)
    _check_positions(found["position"], after, up_to)
    return _typed(found, wanted)


def _reply(db: Database[Document], after: int, up_to: int) -> bytes:
    """As many events of the range as one reply holds, in position order: the BSON of its cursor field."""
    reply = db.command(
        {
            "find": "events",
            "filter": {"position": {"$gt": after, "$lte": up_to}},
            "sort": {"position": 1},
            # One more than there should be, so that a position held twice shows.
            "batchSize": up_to - after + 1,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        },
        codec_options=_RAW,
    )
    return bytes(reply["cursor"].raw)


def _kind(name: str) -> Kind:
    return Kind.OBJECT_ID if name == "event_id" else _KINDS[SCHEMA.field(name).type]


def _decode(reply: bytes, starts: Any, kinds: Mapping[str, Kind]) -> dict[str, pa.Array]:
    try:
        return decode(reply, starts, kinds)
    except WrongTypeError as error:
        document = RawBSONDocument(_document(reply, int(starts[error.row])))
        position = document.get("position")
        where = position if isinstance(position, int) else None
        raise MalformedEventError(where, error.path, f"a value of BSON type {error.found}") from error
    except pa.ArrowInvalid as error:
        raise MalformedEventError(None, "a text", f"bytes that are not UTF-8 ({error})") from error


def _document(reply: bytes, start: int) -> bytes:
    return reply[start : start + int.from_bytes(reply[start : start + 4], "little")]


def _check_positions(positions: pa.ChunkedArray, after: int, up_to: int) -> None:
    found = positions.to_numpy()
    expected = np.arange(after + 1, up_to + 1)
    if np.array_equal(found, expected):
        return
    shared = min(len(found), len(expected))
    differs = np.flatnonzero(found[:shared] != expected[:shared])
    at = int(differs[0]) if len(differs) else shared
    doubled = at < len(found) and at > 0 and found[at] == found[at - 1]
    position = int(found[at]) if doubled else int(expected[at])
    raise GapError(after, up_to, position, "two events" if doubled else "no event")


def _typed(found: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The columns wanted, with types and without nulls as SCHEMA says."""
    read = {name: found[name] for name in found.column_names}
    if "unreferenced" in read:
        read["unreferenced"] = pc.fill_null(read["unreferenced"], False)  # only true is ever stored
    for name, values in read.items():
        if values.null_count and not SCHEMA.field(name).nullable:
            at = pc.index(pc.is_null(values), pa.scalar(True)).as_py()
            raise MalformedEventError(read["position"][at].as_py(), PATHS[name], "no value")
    if _DERIVED & set(wanted.names):
        read["exponent"], read["amount"] = derive_amount(
            read["amount_minor"], read["currency"], read["position"]
        )
    columns = []
    for field in wanted:
        values = read[field.name]
        try:
            columns.append(values if values.type == field.type else values.cast(field.type))
        except pa.ArrowInvalid as error:
            first = read["position"][0].as_py()
            raise MalformedEventError(first, PATHS[field.name], f"or one after it has {error}") from error
    return pa.Table.from_arrays(columns, schema=wanted)


def derive_amount(
    minor: pa.ChunkedArray, currency: pa.ChunkedArray, positions: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """`exponent` (int8) and `amount` (decimal128(38, 4)) of int64 minor units, exact.

    Raises:
        MalformedEventError: a currency that is none of ISO 4217; names the first position that has it.
    """
    encoded = pc.dictionary_encode(currency).combine_chunks()
    exponents: list[int] = []
    for code in encoded.dictionary.to_pylist():
        try:
            exponents.append(exponent(code))
        except LedgerLakeError as error:
            at = pc.index(currency, pa.scalar(code)).as_py()
            detail = f"the unknown currency {code!r}"
            raise MalformedEventError(positions[at].as_py(), PATHS["currency"], detail) from error
    places = pa.chunked_array([pa.array(exponents, pa.int8()).take(encoded.indices)])
    return places, scale(minor, places)


def scale(minor: pa.ChunkedArray, exponents: pa.ChunkedArray) -> pa.ChunkedArray:
    """`minor` (int64) times 10^-exponent, as decimal128(38, 4), exact; null where `minor` is."""
    # No currency of ISO 4217 has more than four decimals, so the product is exact with scale 4.
    factors = _UNITS.take(exponents.combine_chunks())
    return pc.multiply(minor.cast(pa.decimal128(19, 0)), factors).cast(AMOUNT)
