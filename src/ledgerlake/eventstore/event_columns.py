"""The columns of an event: names, types, where each lies in the document, and how amounts are derived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import bson
import pyarrow as pa
import pyarrow.compute as pc
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from ledgerlake.domain.events import SCHEMA_VERSION, PaymentRefunded
from ledgerlake.domain.money import exponent
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.bson_columns import Ints, Kind, WrongTypeError, decode
from ledgerlake.eventstore.encoding import REQUEST_HASH
from ledgerlake.settings import FREE_DETAILS, TOKEN_PREFIX

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
        pa.field("refund_reference", pa.string()),
        pa.field("unreferenced", pa.bool_(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
        pa.field("extra_data", pa.string()),
        pa.field("extra_metadata", pa.string()),
    ]
)

# Column -> path in the document. What is derived has none.
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
    "extra_data": "eventData",
    "extra_metadata": "metadata",
}
_DERIVED_FROM: Final[Mapping[str, tuple[str, ...]]] = {
    "exponent": ("amount_minor", "currency"),
    "amount": ("amount_minor", "currency"),
    "refund_reference": ("payment_id", "event_type", "unreferenced"),
}
# The columns that hold the rest of a document, and what is no part of it: the fields with columns of their
# own, the amount, which follows from the minor units, and the store's bookkeeping.
_REST_BESIDE: Final = {
    "extra_data": {"amount", "amountMinor", "currency", "reason", "attempt", "unreferenced"},
    "extra_metadata": {"userId", "organizationId", REQUEST_HASH},
}
_PERSONAL: Final = FREE_DETAILS.removeprefix("metadata.")
# In the place of a personal value that some appender left in clear: files can not be made to forget it.
WITHHELD: Final = "(withheld)"
# The paths above are those of one schema version: what another one holds there is anybody's guess.
_ALWAYS: Final = ("position", "schema_version")
_KINDS: Final = {
    pa.string(): Kind.STRING,
    pa.bool_(): Kind.BOOL,
    pa.int32(): Kind.INTEGER,
    pa.int64(): Kind.INTEGER,
    _TIME: Kind.DATE,
}

_ANY_INSTANT: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)

_UNITS: Final = pa.array([Decimal(1).scaleb(-places) for places in range(5)], pa.decimal128(5, 4))


class MalformedEventError(LedgerLakeError):
    """An event lacks a required field, holds a value of another type there, or is of an unknown schema."""

    def __init__(
        self,
        position: int | None,
        field: str,
        detail: str,
        remedy: str = "Events are written by the event store only: repair or restore this event.",
    ) -> None:
        where = f"at position {position}" if position is not None else "in the log"
        super().__init__(f"The event {where} has {detail} in field {field!r}.", remedy)
        self.position = position
        self.field = field


def schema_of(columns: Sequence[str] | None) -> pa.Schema:
    """SCHEMA, or the part of it with these columns in this order.

    Raises:
        ValueError: an unknown column, or none.
    """
    if columns is None:
        return SCHEMA
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown or not columns:
        raise ValueError(f"Unknown columns {unknown}: choose from {', '.join(SCHEMA.names)}.")
    return pa.schema([SCHEMA.field(name) for name in columns])


def columns_to_read(wanted: pa.Schema) -> tuple[str, ...]:
    """Columns that the documents must give for `wanted`: position and schema version, nothing derived."""
    names = [*_ALWAYS]
    for name in wanted.names:
        names += _DERIVED_FROM.get(name, (name,))
    return tuple(dict.fromkeys(names))


def decode_events(reply: bytes, starts: Ints, names: Iterable[str]) -> pa.Table:
    """The documents that start at `starts` as a table of these columns, with nulls and int64 for integers.

    Raises:
        MalformedEventError: a value of another type.
    """
    names = list(names)
    kinds = {PATHS[name]: _kind(name) for name in names if name not in _REST_BESIDE}
    rest = {PATHS[name]: _REST_BESIDE[name] for name in names if name in _REST_BESIDE}
    try:
        found = decode(reply, starts, kinds, rest)
        columns = [
            _as_json(name, found[PATHS[name]]) if name in _REST_BESIDE else found[PATHS[name]]
            for name in names
        ]
        return pa.Table.from_arrays(columns, names)
    except WrongTypeError as error:
        where = RawBSONDocument(_document(reply, int(starts[error.row]))).get("position")
        position = where if isinstance(where, int) else None
        raise MalformedEventError(position, error.path, error.detail) from error
    except pa.ArrowInvalid as error:
        raise MalformedEventError(None, "a text", f"bytes that are not UTF-8 ({error})") from error


def _as_json(name: str, rest: pa.Array) -> pa.Array:
    """BSON documents as JSON texts, each kind of document turned into text once.

    Raises:
        WrongTypeError: a document that is none.
    """
    if rest.null_count == len(rest):
        return pa.nulls(len(rest), pa.string())
    encoded = rest.dictionary_encode()
    texts = []
    for number, raw in enumerate(encoded.dictionary.to_pylist()):
        try:
            texts.append(_json(name, bson.decode(raw, _ANY_INSTANT)))
        except (BSONError, ValueError) as error:
            row = pc.index(encoded.indices, pa.scalar(number, encoded.indices.type)).as_py()
            raise WrongTypeError(row, PATHS[name], f"a value that can not be read ({error})") from error
    return pa.array(texts, pa.string()).take(encoded.indices)


def _json(name: str, document: dict[str, Any]) -> str:
    """MongoDB's relaxed Extended JSON, keys sorted: equal content is equal text."""
    if name == "extra_metadata" and _PERSONAL in document:
        document[_PERSONAL] = _sealed(document[_PERSONAL])
    return json_util.dumps(
        document,
        json_options=json_util.RELAXED_JSON_OPTIONS,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _sealed(value: Any) -> Any:
    """The free details about a person without what is no token: the command side lets nothing else in."""
    if isinstance(value, dict):
        return {key: _sealed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_sealed(inner) for inner in value]
    harmless = value is None or value == "" or (isinstance(value, str) and value.startswith(TOKEN_PREFIX))
    return value if harmless else WITHHELD


def _document(reply: bytes, start: int) -> bytes:
    return reply[start : start + int.from_bytes(reply[start : start + 4], "little")]


def _kind(name: str) -> Kind:
    return Kind.OBJECT_ID if name == "event_id" else _KINDS[SCHEMA.field(name).type]


def typed(found: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The columns wanted, typed as SCHEMA says, with what is derived.

    Raises:
        MalformedEventError: an unknown schema version, a null in a required column, an integer that does
            not fit, an unknown currency.
    """
    read = {name: found[name] for name in found.column_names}
    _refuse_other_schemas(read["schema_version"], read["position"])
    if "unreferenced" in read:
        read["unreferenced"] = pc.fill_null(read["unreferenced"], False)  # only true is ever stored
    for name, values in read.items():
        if values.null_count and not SCHEMA.field(name).nullable:
            at = pc.index(pc.is_null(values), pa.scalar(True)).as_py()
            raise MalformedEventError(read["position"][at].as_py(), PATHS[name], "no value")
    if "exponent" in wanted.names or "amount" in wanted.names:
        read["exponent"], read["amount"] = derive_amount(
            read["amount_minor"], read["currency"], read["position"]
        )
    if "refund_reference" in wanted.names:
        # A refund stands in the stream of the payment that it gives back.
        refund = pc.equal(read["event_type"], PaymentRefunded.__name__)
        referenced = pc.and_not(refund, read["unreferenced"])
        read["refund_reference"] = pc.if_else(referenced, read["payment_id"], pa.scalar(None, pa.string()))
    columns = []
    for field in wanted:
        values = read[field.name]
        try:
            columns.append(values if values.type == field.type else values.cast(field.type))
        except pa.ArrowInvalid as error:
            first = read["position"][0].as_py()
            raise MalformedEventError(first, PATHS[field.name], f"or one after it has {error}") from error
    return pa.Table.from_arrays(columns, schema=wanted)


def _refuse_other_schemas(versions: pa.ChunkedArray, positions: pa.ChunkedArray) -> None:
    at = pc.index(pc.not_equal(versions, SCHEMA_VERSION), pa.scalar(True)).as_py()
    if at >= 0:
        raise MalformedEventError(
            positions[at].as_py(),
            PATHS["schema_version"],
            f"the unknown schema version {versions[at].as_py()}",
            "A newer LedgerLake wrote it: upgrade this one.",
        )


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
