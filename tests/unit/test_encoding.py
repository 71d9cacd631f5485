"""An event is encoded before its commit, and completed inside it, to exactly the event that was meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import bson
import pytest
from bson import Decimal128, Int64
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.encoding import complete, decode, encode
from ledgerlake.eventstore.model import Append, NewEvent

NOON = datetime(2026, 6, 1, 12, 0, 0, 123000, tzinfo=UTC)


def append(events: int = 1, command: str | None = "c") -> Append:
    data = {
        "amount": Decimal128("1.00"),
        "amountMinor": Int64(100),
        "currency": "EUR",
        "version": -1,
        "position": -1,
    }
    event = NewEvent("PaymentProcessed", data, NOON, "correlation", "causation", {"organizationId": "o"}, 1)
    return Append("p", "Payment", [event] * events, command_id=command, request_hash="h" if command else None)


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(-(10**12), 10**13).map(
        lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
)
def test_version_position_and_time_are_patched_and_nothing_else(
    version: int, position: int, recorded: datetime
) -> None:
    encoded = encode(append())[0]
    before = bson.decode(encoded)
    after = bson.decode(complete(encoded, version, position, recorded).raw, bson.CodecOptions(tz_aware=True))
    assert (after["version"], after["position"], after["recordedAt"]) == (version, position, recorded)
    changed = {"version", "position", "recordedAt", "timestamp"}
    assert {k: v for k, v in after.items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert after["eventData"]["version"] == after["eventData"]["position"] == -1


def test_the_completed_document_is_read_as_the_event() -> None:
    event = decode(complete(encode(append())[0], 3, 7, NOON))
    assert (event.stream_id, event.version, event.position, event.recorded_at) == ("p", 3, 7, NOON)
    assert (event.command_id, event.metadata["requestHash"], event.timestamp) == ("c", "h", NOON)


def test_only_the_last_event_of_an_append_carries_the_command() -> None:
    documents = [bson.decode(document) for document in encode(append(events=3))]
    assert [document.get("commandId") for document in documents] == [None, None, "c"]
    assert len({document["_id"] for document in documents}) == 3


def test_an_append_without_a_command_has_no_command_id() -> None:
    document = bson.decode(encode(append(command=None))[0])
    assert "commandId" not in document
    assert "requestHash" not in document["metadata"]


def test_what_is_no_bson_fails_at_the_writer() -> None:
    bad = NewEvent("PaymentProcessed", {"amount": object()}, NOON, "c", "c")
    with pytest.raises(bson.errors.InvalidDocument):
        encode(Append("p", "Payment", [bad]))
