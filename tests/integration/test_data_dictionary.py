"""Every document that a ledger stores has the fields, of the types, that docs/data-dictionary.md says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.lake.parquet import read_footer
from ledgerlake.projections import OnPoison, advance, per_event
from ledgerlake.reconciliation.sums import ControlSums
from ledgerlake.settings import Settings
from ledgerlake.subscriptions import HandlingPolicy, OnFailure
from ledgerlake.web.tokens import AccessTokens
from scripts.data_dictionary import meanings, tables

_NOON = datetime(2011, 11, 3, 12, tzinfo=UTC)
_HELD = {
    "objectId": "ObjectId",
    "string": "str",
    "long": "Int64",
    "int": "int",
    "decimal": "Decimal128",
    "bool": "bool",
    "date": "datetime",
    "object": "dict",
    "array": "list",
    "binary": "bytes",
    "null": "NoneType",
}
# Objects whose members the page lists one by one.
_OPEN = ("eventData", "metadata")


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in document.items():
        inner = value if name in _OPEN else None
        found.update({f"{name}.{key}": each for key, each in inner.items()} if inner else {name: value})
    return found


def wrong(described: Mapping[str, str], document: Mapping[str, Any]) -> list[str]:
    fields = flat(document)
    found = [
        f"{name} is missing" for name in described if name not in fields and "absent" not in described[name]
    ]
    for name, value in fields.items():
        kinds = described.get(name, "").split(" or ")
        if type(value).__name__ not in [_HELD.get(kind) for kind in kinds]:
            found.append(f"{name} is a {type(value).__name__}, not {' or '.join(kinds)}")
    return found


def common(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "command_id": f"c{number}",
        "organization_id": "acme",
        "amount": Money(1_000, "EUR"),
        "occurred_at": _NOON,
        "user_id": "u",
        **fields,
    }


def fold(document: Any, event: Any) -> dict[str, Any]:
    raise KeyError("no such thing")


def handler(event: StoredEvent) -> None:
    raise RuntimeError("no")


def test_stored_documents_are_as_the_page_says(settings: Settings, database: Any) -> None:
    described = {
        name.removeprefix("mongodb/"): {row.name: row.type for row in rows}
        for name, rows in tables(meanings()).items()
        if name.startswith("mongodb/")
    }
    with LedgerLake.open(replace(settings, snapshot_every=2)) as ledger:
        for command in (
            FailPayment(payment_id="p", **common(1, reason="insufficient_funds")),
            ProcessPayment(payment_id="p", **common(2, personal={"name": "Alice"})),
            RefundPayment(payment_id="p", **common(3, amount=Money(400, "EUR"))),
            RefundPayment(payment_id=None, **common(4)),
        ):
            ledger.commands.dispatch(command)
        with pytest.raises(CommandRejected):
            ledger.commands.dispatch(ProcessPayment(payment_id="p", **common(5)))
        ledger.refresh()
        advance(
            ledger.db, per_event("broken", 1, key=lambda event: "x", fold=fold), on_poison=OnPoison.SET_ASIDE
        )
        policy = HandlingPolicy(OnFailure.PARK_EVENT, retries=0)
        ledger.subscriptions.consumer("mails", handler, policy=policy, live=False).run()
        ledger.forget("u")
        ledger.close_period("2011-11", by="finance")
        AccessTokens(ledger.db).create("till 4", "service", ["acme"], timedelta(days=1))
        ledger.verify()
        for _ in range(2):  # they are kept once they have not changed for a while
            ControlSums(ledger.db, "payment_trends").of_read_model("payment_trends")
            ledger.db["control_sums"].update_many({}, {"$set": {"seen": _NOON}})
        seen, differences = set(), []
        for name in ledger.db.list_collection_names():
            if name == "broken":
                continue
            for document in ledger.db[name].find():
                seen.add(name)
                differences += [f"{name}: {each}" for each in wrong(described[name], document)]
        assert differences == []
        assert seen == set(described) - {"log_chain"}, "one link about every thousand events"
        [segment] = (ledger.lake.root / "events").glob("*.parquet")
        assert set(read_footer(segment).stated) == set(meanings()["segment"])
        event = ledger.db["events"].find_one({}) or {}
        assert wrong(described["events"], {**event, "colour": "red", "position": 1.5}) == [
            "position is a float, not long",
            "colour is a str, not ",
        ]
