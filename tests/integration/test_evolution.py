"""Events of other programs in the log: what is not known is an error, or kept; never guessed, never lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Int64
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from ledgerlake.commands.payments import PaymentHandler
from ledgerlake.domain.commands import RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.registry import EventRegistry, Model, UnknownEvent, Upcaster
from ledgerlake.eventstore.columnar import MalformedEventError
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.lake.event_lake import EventLake
from tests.builders import insert_events, payment_history

Db = Database[dict[str, Any]]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
# A payment as a later program may write it, with fields that this one has never heard of.
LATER: dict[str, Any] = {
    "amountMinor": Int64(1000),
    "currency": "EUR",
    "attempt": 1,
    "terminal": {"id": "t-1", "checks": ["pin", None]},
}


def stored(store: EventStore, data: dict[str, Any], schema_version: int = 1, stream: str = "p") -> None:
    metadata = {"organizationId": "acme", "shift": 3}
    new = NewEvent("PaymentProcessed", data, NOON, "c", "c", metadata, schema_version)
    store.append(Append(stream, "Payment", [new], NO_STREAM, f"command of {stream}", "hash"))


def refund(command_id: str) -> RefundPayment:
    return RefundPayment(
        command_id=command_id,
        payment_id="p",
        organization_id="acme",
        amount=Money(400, "EUR"),
        occurred_at=NOON,
    )


def raw(db: Db) -> list[bytes]:
    options: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
    return [document.raw for document in db["events"].with_options(options).find().sort("position")]


def test_fields_that_this_program_does_not_know_are_read_past_and_kept(database: Db) -> None:
    with EventStore(database) as store:
        stored(store, LATER)
        assert PaymentHandler(store).handle(refund("r")).version == 2
        [first] = store.read_stream("p", to_version=1)
        assert first.data == LATER
        assert first.metadata["shift"] == 3
        # What is written again from what was read holds them too.
        stored(store, dict(first.data), stream="copy")
        assert store.read_stream("copy")[0].data == LATER


def test_an_event_of_a_later_schema_is_never_decided_on(database: Db) -> None:
    with EventStore(database) as store:
        stored(store, LATER, schema_version=2)
        with pytest.raises(UnknownEvent, match="'PaymentProcessed' with schema version 2.*upgrade"):
            PaymentHandler(store).handle(refund("r"))
        assert store.head() == 1


def test_an_event_of_a_later_schema_stops_the_lake_before_it(database: Db, tmp_path: Path) -> None:
    insert_events(database, payment_history(1, 60))
    lake = EventLake(tmp_path, 20)
    database["events"].update_one({"position": 42}, {"$set": {"schemaVersion": 2}})
    with pytest.raises(MalformedEventError, match="position 42 has the unknown schema version 2.*upgrade"):
        lake.refresh(database)
    assert lake.position() <= 40
    database["events"].update_one({"position": 42}, {"$set": {"schemaVersion": 1}})
    lake.refresh(database)
    assert lake.position() == 60


def test_reading_by_way_of_upcasters_leaves_the_log_as_it_was_written(database: Db) -> None:
    def named(data: dict[str, Any]) -> dict[str, Any]:
        data["terminal"]["name"] = data["terminal"].pop("id")
        return data

    registry = EventRegistry(
        [Model("PaymentProcessed", 3, lambda data: data["terminal"]["name"])],
        [Upcaster("PaymentProcessed", 1, named), Upcaster("PaymentProcessed", 2, dict)],
    )
    with EventStore(database) as store:
        stored(store, LATER)
        before = raw(database)
        for _ in range(2):
            [event] = store.read_stream("p")
            assert registry.read(event.event_type, event.schema_version, event.data) == "t-1"
            assert event.data == LATER
    assert raw(database) == before
