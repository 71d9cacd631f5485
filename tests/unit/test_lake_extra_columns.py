"""What has no column of its own goes into the lake as JSON: all of it, always the same, nothing personal."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId, json_util
from bson.codec_options import DatetimeConversion

from ledgerlake.eventstore.bson_columns import documents
from ledgerlake.eventstore.event_columns import (
    PATHS,
    SCHEMA,
    WITHHELD,
    MalformedEventError,
    columns_to_read,
    decode_events,
    typed,
)
from ledgerlake.privacy.token import PREFIX, Token
from tests.builders import event

ANY_INSTANT = json_util.RELAXED_JSON_OPTIONS.with_options(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
TOKEN = str(Token("0" * 32, b"sealed"))


def read(*some: dict[str, Any], name: str) -> list[Any]:
    stream = b"".join(bson.encode(each) for each in some)
    wanted = SCHEMA.empty_table().select(["position", name]).schema
    found = decode_events(stream, documents(stream), columns_to_read(wanted))
    return list(typed(found, wanted)[name].to_pylist())


def paid(position: int = 1, data: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    document = event(position, "p", "PaymentProcessed", 100)
    document["eventData"] |= data or {}
    document["metadata"] |= metadata
    return document


def test_every_type_comes_back_from_the_text_as_it_was_stored() -> None:
    content = {
        "when": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
        "long ago": DatetimeMS(-(2**60)),
        "much": Int64(2**62),
        "exact": Decimal128("1.10"),
        "float": 0.1,
        "nothing": None,
        "id": ObjectId("00ff00ff00ff00ff00ff00ff"),
        "bytes": Binary(b"\x00\xff", 5),
        "text": 'quotes " and \\, a NUL \0, ä and \U0001f600',
        "deep": [{"b": [1, True], "a": {}}],
    }
    [text] = read(paid(data=content), name="extra_data")
    assert json_util.loads(text, json_options=ANY_INSTANT) == content
    assert json.loads(text)["much"] == 2**62


def test_equal_content_is_equal_text_in_whatever_order_it_was_stored() -> None:
    one = paid(1, {"b": {"y": 1, "x": 2}, "a": 3})
    other = paid(2, {"a": 3, "b": {"x": 2, "y": 1}})
    assert read(one, other, name="extra_data") == ['{"a":3,"b":{"x":2,"y":1}}'] * 2


def test_where_nothing_is_left_there_is_no_text() -> None:
    plain = paid(1)
    assert "requestHash" in plain["metadata"]
    assert read(plain, plain, name="extra_data") == [None, None]
    assert read(plain, paid(2, channel="web"), name="extra_metadata") == [None, '{"channel":"web"}']


def test_every_field_of_the_columns_and_nothing_else_is_left_out() -> None:
    whole = {path.split(".")[1] for path in PATHS.values() if "." in path}
    some = [paid(), event(2, "p", "PaymentFailed", 5), event(3, "p", "PaymentRefunded", 5, unreferenced=True)]
    for each in some:
        stored = {*each["eventData"], *each["metadata"]}
        assert stored - whole == {"amount", "requestHash"}
    assert read(*some, name="extra_data") == read(*some, name="extra_metadata") == [None] * 3


def test_personal_details_are_there_as_tokens_only() -> None:
    details = {"name": TOKEN, "address": [TOKEN, "12 Rue des Lilas"], "age": 7, "none": None, "empty": ""}
    [text] = read(paid(personal=details), name="extra_metadata")
    expected = {"name": TOKEN, "address": [TOKEN, WITHHELD], "age": WITHHELD, "none": None, "empty": ""}
    assert json.loads(text) == {"personal": expected}
    assert TOKEN.startswith(PREFIX)
    assert read(paid(personal="Alice"), name="extra_metadata") == [f'{{"personal":"{WITHHELD}"}}']


def test_a_text_that_is_no_text_is_an_error_with_its_position() -> None:
    good = [paid(i, {"note": "fine"}) for i in range(1, 20)]
    stream = b"".join(bson.encode(each) for each in good)
    bad = bson.encode(paid(20, {"note": "xyzzy"})).replace(b"xyzzy", b"x\xff\xfezy")
    with pytest.raises(MalformedEventError, match="eventData") as refused:
        decode_events(stream + bad, documents(stream + bad), ["position", "extra_data"])
    assert refused.value.position == 20
