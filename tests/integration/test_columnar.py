"""The log as Arrow tables: exactly the events of a range, in order and typed, or an error that says where."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pymongo
import pytest
from bson import Decimal128, Int64
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore import columnar
from ledgerlake.eventstore.columnar import (
    SCHEMA,
    GapError,
    MalformedEventError,
    event_id_at,
    head,
    iter_columns,
    read_columns,
)
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]


def as_row(document: dict[str, Any]) -> dict[str, Any]:
    """The row that an event is, written out by hand."""
    data, metadata = document["eventData"], document["metadata"]
    return {
        "position": document["position"],
        "event_id": str(document["_id"]),
        "payment_id": document["aggregateId"],
        "event_type": document["eventType"],
        "version": document["version"],
        "occurred_at": document["timestamp"],
        "recorded_at": document["recordedAt"],
        "amount_minor": data["amountMinor"],
        "currency": data["currency"],
        "exponent": exponent(data["currency"]),
        "amount": data["amount"].to_decimal(),
        "organization_id": metadata["organizationId"],
        "user_id": metadata["userId"],
        "correlation_id": document["correlationId"],
        "causation_id": document["causationId"],
        "command_id": document.get("commandId"),
        "reason": data.get("reason"),
        "attempt": data.get("attempt"),
        "refund_reference": refund_reference(document),
        "unreferenced": data.get("unreferenced", False),
        "schema_version": document["schemaVersion"],
        "extra_data": as_json(data, "amount amountMinor currency reason attempt unreferenced"),
        "extra_metadata": as_json(metadata, "userId organizationId requestHash"),
    }


def refund_reference(document: dict[str, Any]) -> str | None:
    refund = document["eventType"] == "PaymentRefunded"
    unreferenced = document["eventData"].get("unreferenced", False)
    return document["aggregateId"] if refund and not unreferenced else None


def as_json(document: dict[str, Any], without: str) -> str | None:
    rest = {key: value for key, value in document.items() if key not in without.split()}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if rest else None


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "RANGE_EVENTS", 70)


def test_rows_are_the_documents_of_the_range_in_position_order(database: Db, small_ranges: None) -> None:
    documents = payment_history(1, 1000)
    insert_events(database, list(reversed(documents)))
    table = read_columns(database, 100, 900)
    table.validate(full=True)
    assert table.schema == SCHEMA
    assert table.to_pylist() == [as_row(document) for document in documents[100:900]]


def test_what_no_column_holds_is_there_as_json_and_a_refund_names_its_payment(
    database: Db, small_ranges: None
) -> None:
    documents = payment_history(12, 300)
    for number, document in enumerate(documents):
        if number % 3 == 0:
            document["eventData"] |= {"method": "cärd", "acquirer": {"id": number % 5}}
        if number % 7 == 0:
            document["metadata"] = {"channel": "web", **document["metadata"], "ip": "::1"}
    insert_events(database, documents)
    table = read_columns(database, 0, 300)
    assert table.to_pylist() == [as_row(document) for document in documents]
    assert 0 < table["refund_reference"].null_count < 300
    assert table["extra_data"].null_count == 200
    names = ["extra_metadata", "refund_reference", "extra_data"]
    assert read_columns(database, 0, 300, names).equals(table.select(names))


def test_batches_cover_the_range_without_gap_or_overlap(database: Db, small_ranges: None) -> None:
    insert_events(database, payment_history(2, 1000))
    sizes = []
    positions: list[int] = []
    for table in iter_columns(database, 37, 1000, 250, ["position", "amount_minor"]):
        sizes.append(table.num_rows)
        positions += table["position"].to_pylist()
    assert sizes == [250, 250, 250, 213]
    assert positions == list(range(38, 1001))


def test_only_the_columns_asked_for_in_the_order_asked(database: Db) -> None:
    documents = payment_history(3, 50)
    insert_events(database, documents)
    names = ["amount", "event_id", "unreferenced", "exponent"]
    table = read_columns(database, 0, 50, names)
    assert table.column_names == names
    assert table.to_pylist() == [{name: as_row(each)[name] for name in names} for each in documents]


def test_amounts_keep_every_digit_in_every_currency(database: Db) -> None:
    largest = 2**63 - 1
    cases = [
        ("JPY", 7),
        ("JPY", largest),
        ("EUR", 1),
        ("EUR", largest),
        ("BHD", 1),
        ("BHD", largest),
        ("CLF", largest),
    ]
    insert_events(
        database,
        [
            event(i, f"p{i}", "PaymentProcessed", minor, currency=currency)
            for i, (currency, minor) in enumerate(cases, 1)
        ],
    )
    table = read_columns(database, 0, len(cases), ["amount_minor", "exponent", "amount"])
    assert table["amount_minor"].to_pylist() == [minor for _, minor in cases]
    assert table["exponent"].to_pylist() == [0, 0, 2, 2, 3, 3, 4]
    assert table["amount"].to_pylist() == [
        Decimal(minor).scaleb(-exponent(currency)) for currency, minor in cases
    ]


def test_an_empty_range_is_an_empty_table(database: Db) -> None:
    assert head(database) == 0
    assert read_columns(database, 0, 0).schema == SCHEMA
    assert list(iter_columns(database, 0, 0, 10)) == []


def test_the_head_and_the_event_there(database: Db) -> None:
    documents = payment_history(4, 5)
    insert_events(database, documents)
    assert head(database) == 5
    assert event_id_at(database, 5) == str(documents[4]["_id"])
    assert event_id_at(database, 6) is None


@pytest.mark.parametrize(("missing", "first"), [([1], 1), ([100], 100), ([57, 58], 57), ([69, 71], 69)])
def test_a_missing_position_stops_the_read_and_is_named(
    database: Db, small_ranges: None, missing: list[int], first: int
) -> None:
    insert_events(database, [each for each in payment_history(5, 100) if each["position"] not in missing])
    with pytest.raises(GapError, match=f"no event at position {first} ") as refused:
        read_columns(database, 0, 100)
    assert refused.value.position == first
    assert read_columns(database, 0, first - 1).num_rows == first - 1


def test_positions_beyond_the_head_are_a_gap(database: Db) -> None:
    insert_events(database, payment_history(6, 10))
    with pytest.raises(GapError, match="no event at position 11"):
        read_columns(database, 5, 12)
    with pytest.raises(GapError, match="no event at position 11"):
        read_columns(database, 10, 12)


@pytest.mark.parametrize("doubled", [1, 50, 70, 100])
def test_a_position_held_twice_stops_the_read(database: Db, small_ranges: None, doubled: int) -> None:
    unique = [
        name
        for name, index in database["events"].index_information().items()
        if index.get("unique") and index["key"] == [("position", 1)]
    ]
    for name in unique:
        database["events"].drop_index(name)
    documents = payment_history(7, 100)
    another = {**event(doubled, "another", "PaymentProcessed", 5), "commandId": "another"}
    insert_events(database, [*documents, another])
    with pytest.raises(GapError, match=f"two events at position {doubled} "):
        read_columns(database, 0, 100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eventData.amountMinor", 12.0),
        ("eventData.amountMinor", Decimal128("12")),
        ("eventData.amountMinor", "12"),
        ("eventData.currency", 978),
        ("timestamp", "2026-01-01"),
        ("metadata.organizationId", 5),
        ("eventData.unreferenced", "true"),
        ("schemaVersion", "1"),
    ],
)
def test_a_value_of_another_type_is_an_error_and_never_converted(
    database: Db, field: str, value: Any
) -> None:
    insert_events(database, payment_history(8, 60))
    database["events"].update_one({"position": 42}, {"$set": {field: value}})
    with pytest.raises(MalformedEventError, match=field) as refused:
        read_columns(database, 0, 60)
    assert refused.value.position == 42


@pytest.mark.parametrize("columns", [None, ["currency"]])
@pytest.mark.parametrize("version", [0, 2, Int64(2**40)])
def test_an_event_of_another_schema_version_stops_the_read_whatever_columns_are_wanted(
    database: Db, columns: list[str] | None, version: int
) -> None:
    insert_events(database, payment_history(8, 60))
    database["events"].update_one({"position": 42}, {"$set": {"schemaVersion": version}})
    assert read_columns(database, 0, 41, columns).num_rows == 41
    with pytest.raises(MalformedEventError, match=f"unknown schema version {version}.*upgrade") as refused:
        read_columns(database, 0, 60, columns)
    assert refused.value.position == 42


@pytest.mark.parametrize("name", [field.name for field in SCHEMA if not field.nullable])
def test_a_required_field_that_is_missing_is_an_error_with_its_position(database: Db, name: str) -> None:
    path = columnar.PATHS.get(name)
    if path in (None, "_id", "position") or name == "unreferenced":
        return  # derived, or always there, or absent by definition where it is false
    insert_events(database, payment_history(9, 60))
    database["events"].update_one({"position": 17}, {"$unset": {path: 1}})
    with pytest.raises(MalformedEventError, match=path) as refused:
        read_columns(database, 0, 60)
    assert refused.value.position == 17


def test_an_unknown_currency_is_an_error_with_its_position(database: Db) -> None:
    insert_events(database, payment_history(10, 60))
    database["events"].update_one({"position": 33}, {"$set": {"eventData.currency": "XYZ"}})
    with pytest.raises(MalformedEventError, match="XYZ") as refused:
        read_columns(database, 0, 60)
    assert refused.value.position == 33


def test_events_too_large_for_one_reply_are_read_in_several(database: Db) -> None:
    documents = payment_history(11, 12)
    for each in documents:
        each["metadata"]["note"] = "x" * 3_000_000
    insert_events(database, documents)
    table = read_columns(database, 0, 12)
    assert table.to_pylist() == [as_row(each) for each in documents]


def test_free_metadata_of_every_shape_does_not_matter(database: Db) -> None:
    documents = payment_history(12, 300)
    for i, each in enumerate(documents):
        each["metadata"] = {f"free{i % 7}": {"deep": [i, {"x": None}]}, **each["metadata"], f"key {i}": i}
    insert_events(database, documents)
    assert read_columns(database, 0, 300).to_pylist() == [as_row(each) for each in documents]


def test_stopping_early_leaves_no_reader_behind(database: Db, small_ranges: None) -> None:
    insert_events(database, payment_history(13, 1000))
    before = set(threading.enumerate())
    for table in iter_columns(database, 0, 1000, 100):
        assert isinstance(table, pa.Table)
        break
    left = [each.name for each in set(threading.enumerate()) - before if each.name.startswith("read-events")]
    assert left == []


def test_a_connection_that_breaks_once_does_not_break_the_read(database: Db) -> None:
    insert_events(database, payment_history(14, 100))
    admin = database.client.admin
    name = database.client.options.pool_options.appname
    fail = {"failCommands": ["find"], "closeConnection": True, **({"appName": name} if name else {})}
    try:
        admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fail)
    except pymongo.errors.OperationFailure as error:
        pytest.skip(f"not applicable: a server without fail points ({error})")
    try:
        assert read_columns(database, 0, 100).num_rows == 100
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.mark.parametrize("columns", [["nonsense"], []])
def test_unknown_columns_are_refused(database: Db, columns: list[str]) -> None:
    with pytest.raises(ValueError, match="choose from position"):
        read_columns(database, 0, 0, columns)
