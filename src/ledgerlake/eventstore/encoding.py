"""Event documents as BSON, encoded by the writers before the commit and completed inside it.

What only the commit knows (version, position, the time of storing) stands first, in fields of fixed
size, so that the committer, which serves all writers one after the other, only patches three numbers
into bytes that were encoded while the batch before was committed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import bson
from bson import Int64, ObjectId
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from ledgerlake.eventstore.model import Append, EventTooLarge, StoredEvent

MAX_EVENT_BYTES: Final = 1_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_LATER: Final = Int64(0)

# Offsets of the values in a document that starts with _id, version, position, recordedAt: 4 bytes of length,
# then each element's type byte, its name with a NUL, and its value (12 bytes, then 8 each).
_VERSION_AT: Final = 4 + 1 + 4 + 12 + 1 + 8
_POSITION_AT: Final = _VERSION_AT + 8 + 1 + 9
_RECORDED_AT: Final = _POSITION_AT + 8 + 1 + 11
_PATCH_NUMBER: Final = struct.Struct("<q").pack_into

_UTC: Final[CodecOptions[Mapping[str, Any]]] = CodecOptions(tz_aware=True, tzinfo=UTC)


def encode(append: Append) -> list[bytes]:
    """The append's events as documents whose version, position and recordedAt are still to come."""
    last = len(append.events)
    encoded: list[bytes] = []
    for number, event in enumerate(append.events, start=1):
        metadata: Mapping[str, Any] = event.metadata
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "version": _LATER,
            "position": _LATER,
            "recordedAt": _EPOCH,
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
                metadata = {**metadata, "requestHash": append.request_hash}
        document["metadata"] = metadata
        document["schemaVersion"] = event.schema_version
        raw = bson.encode(document)
        if len(raw) > MAX_EVENT_BYTES:
            raise EventTooLarge(
                f"An event of {append.stream_id!r} takes {len(raw):,} bytes, over {MAX_EVENT_BYTES:,}.",
                "Keep large content elsewhere, and its address in the event.",
            )
        encoded.append(raw)
    return encoded


def complete(encoded: bytes, version: int, position: int, recorded_at: datetime) -> RawBSONDocument:
    """The document with what the commit knows, ready to be inserted."""
    document = bytearray(encoded)
    _PATCH_NUMBER(document, _VERSION_AT, version)
    _PATCH_NUMBER(document, _POSITION_AT, position)
    _PATCH_NUMBER(document, _RECORDED_AT, (recorded_at - _EPOCH) // _MILLISECOND)
    return RawBSONDocument(bytes(document))


def decode(document: RawBSONDocument) -> StoredEvent:
    """The event that a completed document holds."""
    return StoredEvent.from_document(bson.decode(document.raw, codec_options=_UTC))
