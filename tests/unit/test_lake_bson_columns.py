"""BSON to Arrow columns: the same values as the driver's own decoder, or an error that says where."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import pyarrow as pa
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledgerlake.eventstore.bson_columns import Kind, WrongTypeError, decode, documents, first_batch

COLUMNS = {
    "_id": Kind.OBJECT_ID,
    "n": Kind.INTEGER,
    "a.text": Kind.STRING,
    "a.b.flag": Kind.BOOL,
    "when": Kind.DATE,
    "long key that takes more than sixteen bytes": Kind.STRING,
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.integers(-(2**40), 2**42).map(
    lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
)
# Whatever else may lie in a document: every type that BSON has but the ones without a stated length.
others = st.sampled_from(
    [
        1.5,
        "text",
        {"x": {"y": [1, {"z": None}]}},
        [1, "2", {"3": 3}],
        b"bytes",
        None,
        True,
        7,
        Int64(2**60),
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal128("1.10"),
        Timestamp(1, 2),
        MinKey(),
        MaxKey(),
        Code("x=1"),
        ObjectId(b"123456789012"),
    ]
)
maybe = st.none() | st.booleans()


@st.composite
def documents_of_few_shapes(draw: st.DrawFn) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if draw(st.booleans()):
        document["_id"] = draw(st.binary(min_size=12, max_size=12).map(ObjectId))
    for key in draw(st.lists(st.sampled_from(["x", "extra field", "n2", "long key", "an"]), unique=True)):
        document[key] = draw(others)
    if draw(st.booleans()):
        document["n"] = draw(st.none() | st.integers(-(2**31), 2**31 - 1) | st.integers().map(_long))
    if draw(st.booleans()):
        inner: dict[str, Any] = {"first": draw(others)}
        if draw(st.booleans()):
            inner["text"] = draw(st.none() | texts)
        inner["b"] = draw(st.just({"flag": draw(maybe)}) | st.just({}) | st.none() | st.just(5))
        document["a"] = inner
    if draw(st.booleans()):
        document["when"] = draw(st.none() | instants)
    if draw(st.booleans()):
        document["long key that takes more than sixteen bytes"] = draw(texts)
    return document


def _long(value: int) -> Int64:
    return Int64(value % 2**64 - 2**63)


def expected(document: dict[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return str(value) if isinstance(value, ObjectId) else value


LONG = "long key that takes more than sixteen bytes"


@given(st.lists(documents_of_few_shapes(), max_size=8), st.integers(1, 9))
@example([{LONG: "a key that is longer than the documents after it"}, {}, {}], 5)
@example([{LONG[:9]: 1.5}, {LONG[:10]: 1.5}, {"x": 1}, {}], 5)
def test_columns_hold_what_the_drivers_decoder_says(some: list[dict[str, Any]], times: int) -> None:
    # Repeated, so that groups are walked in step, and interleaved, so that they have to be split.
    many = some * times
    stream = b"".join(bson.encode(each) for each in many)
    arrays = decode(stream, documents(stream), COLUMNS)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    decoded = [bson.decode(bson.encode(each), options) for each in many]
    for path in COLUMNS:
        arrays[path].validate(full=True)
        assert arrays[path].to_pylist() == [expected(each, path) for each in decoded], path


KNOWN = {"a": ["text", "b"], "a.b": [], "x": ["y"]}


@settings(max_examples=40)
@given(st.lists(documents_of_few_shapes(), max_size=8), st.integers(1, 9))
@example([{"a": {"first": 1}}, {"a": 5}, {}, {"a": {"text": "t"}}], 5)
def test_the_rest_of_a_document_is_what_the_drivers_decoder_says(
    some: list[dict[str, Any]], times: int
) -> None:
    many = some * times
    stream = b"".join(bson.encode(each) for each in many)
    arrays = decode(stream, documents(stream), COLUMNS, KNOWN)
    assert list(arrays) == [*COLUMNS, *KNOWN]
    for path, known in KNOWN.items():
        arrays[path].validate(full=True)
        for raw, document in zip(arrays[path].to_pylist(), many, strict=True):
            inside: Any = document
            for name in path.split("."):
                inside = inside.get(name) if isinstance(inside, dict) else None
            inside = inside if isinstance(inside, dict) else {}
            left = {key: value for key, value in inside.items() if key not in known}
            # As bytes: that keeps the order, and every type.
            assert raw == (bson.encode(left) if left else None)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 100, 101, 1000, 1001, 12_345])
def test_every_document_of_a_reply_is_found(count: int) -> None:
    cursor = bson.encode(
        {
            "partial": False,
            "atClusterTime": Timestamp(1, 1),
            "firstBatch": [{"n": i} for i in range(count)],
            "id": Int64(0),
            "ns": "d.c",
        }
    )
    found = decode(cursor, first_batch(cursor), {"n": Kind.INTEGER})["n"]
    assert found.to_pylist() == list(range(count))


def test_a_reply_without_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="no firstBatch"):
        first_batch(bson.encode({"id": Int64(0), "nextBatch": []}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("n", 1.0),
        ("n", True),
        ("n", "1"),
        ("n", Decimal128("1")),
        ("a.text", 5),
        ("a.text", b"x"),
        ("when", Int64(5)),
        ("when", "2026-01-01"),
        ("a.b.flag", 1),
        ("_id", "65a000000000000000000000"),
        ("other", Regex("x")),
    ],
)
@pytest.mark.parametrize("count", [1, 40])
def test_a_value_of_another_type_is_refused_and_located(path: str, value: Any, count: int) -> None:
    wrong: Any = value
    for name in reversed(path.split(".")):
        wrong = {name: wrong}
    good = {"_id": ObjectId(), "n": 1}
    some = [good] * count
    some[count // 2] = wrong
    stream = b"".join(bson.encode(each) for each in some)
    with pytest.raises(WrongTypeError) as refused:
        decode(stream, documents(stream), COLUMNS)
    assert (refused.value.row, refused.value.path) == (count // 2, path)


def test_text_that_is_not_utf8_is_refused() -> None:
    stream = bson.encode({"a": {"text": "xyz"}}).replace(b"xyz", b"\xff\xfe\xfd")
    with pytest.raises(pa.ArrowInvalid):
        decode(stream, documents(stream), COLUMNS)


def test_documents_that_all_differ_are_read_too() -> None:
    some = [{f"key {i}": i, "n": i, "a": {f"k{i}": i, "text": str(i)}} for i in range(500)]
    stream = b"".join(bson.encode(each) for each in some)
    arrays = decode(stream, documents(stream), COLUMNS)
    assert arrays["n"].to_pylist() == list(range(500))
    assert arrays["a.text"].to_pylist() == [str(i) for i in range(500)]
