"""Event documents as BSON, encoded by the writers before the commit and completed inside it.

What only the commit knows (version, position, the time of storing) stands first, in fields of fixed
size, so that the committer, which serves all writers one after the other, only puts three numbers
into bytes that were encoded while the batch before was committed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import bson
from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from ledgerlake.eventstore.model import Append, EventTooLarge, StoredEvent

MAX_EVENT_BYTES: Final = 1_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

# How a document starts: its length, then _id, version, position and recordedAt, each as type byte, name with
# a NUL, and value (12 bytes, then 8 each).
_HEAD: Final = struct.Struct("<i5s12s9sq10sq12sq")
_ID, _VERSION, _POSITION, _RECORDED_AT = (
    b"\x07_id\0",
    b"\x12version\0",
    b"\x12position\0",
    b"\x09recordedAt\0",
)
_LENGTH_BYTES: Final = 4
_NUMBERS: Final = struct.Struct("<q10sq12sq").pack
_NUMBERS_AT: Final = _HEAD.size - struct.calcsize("<q10sq12sq")

REQUEST_HASH: Final = "requestHash"

_UTC: Final[CodecOptions[Mapping[str, Any]]] = CodecOptions(tz_aware=True, tzinfo=UTC)


def encode(append: Append) -> list[bytes]:
    """The append's events as documents whose version, position and recordedAt are still to come.

    Raises:
        EventTooLarge: an event takes more than MAX_EVENT_BYTES.
        ValueError: the metadata has the store's own key, by which it tells a repetition from another request.
    """
    last = len(append.events)
    encoded: list[bytes] = []
    for number, event in enumerate(append.events, start=1):
        metadata: Mapping[str, Any] = event.metadata
        if REQUEST_HASH in metadata:
            raise ValueError(f"The metadata key {REQUEST_HASH!r} is the store's own: give request_hash.")
        document: dict[str, Any] = {
            "aggregateId": append.stream_id,
            "aggregateType": append.aggregate_type,
            "eventType": event.event_type,
            "eventData": event.data,
            "timestamp": event.timestamp,
            "correlationId": event.correlation_id,
            "causationId": event.causation_id,
        }
        # The last event carries the command id, so that a repetition finds the append's final version.
        if number == last and append.command_id is not None:
            document["commandId"] = append.command_id
            if append.request_hash is not None:
                metadata = {**metadata, REQUEST_HASH: append.request_hash}
        document["metadata"] = metadata
        document["schemaVersion"] = event.schema_version
        body = bson.encode(document)
        length = _HEAD.size + len(body) - _LENGTH_BYTES
        raw = (
            _HEAD.pack(length, _ID, ObjectId().binary, _VERSION, 0, _POSITION, 0, _RECORDED_AT, 0)
            + body[_LENGTH_BYTES:]
        )
        if len(raw) > MAX_EVENT_BYTES:
            raise EventTooLarge(
                f"An event of {append.stream_id!r} takes {len(raw):,} bytes, over {MAX_EVENT_BYTES:,}.",
                "Keep large content elsewhere, and its address in the event.",
            )
        encoded.append(raw)
    return encoded


def complete(encoded: bytes, version: int, position: int, recorded_at: datetime) -> RawBSONDocument:
    """The document with what the commit knows, ready to be inserted."""
    milliseconds = (recorded_at - _EPOCH) // _MILLISECOND
    numbers = _NUMBERS(version, _POSITION, position, _RECORDED_AT, milliseconds)
    return RawBSONDocument(encoded[:_NUMBERS_AT] + numbers + encoded[_HEAD.size :])


def decode(document: RawBSONDocument) -> StoredEvent:
    """The event that a completed document holds."""
    return StoredEvent.from_document(bson.decode(document.raw, codec_options=_UTC))
