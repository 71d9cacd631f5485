"""Random legal histories of payments as event documents, and how they get into a log."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import Binary, Int64, ObjectId, encode
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.chain import GENESIS, Link, links_over
from ledgerlake.mongo.decimal128 import decimal128

if TYPE_CHECKING:
    from ledgerlake.reconciliation import NotedHead
    from ledgerlake.reconciliation.model import Check

Document = dict[str, Any]
START = datetime(2026, 1, 30, 21, 0, tzinfo=UTC)
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "BHD")
REASONS = ("insufficient_funds", "card_expired", None)


def event(position: int, payment: str, kind: str, minor: int, **change: Any) -> Document:
    """One event document; `change`: currency, organization, user, version, at, reason, attempt ..."""
    currency = change.get("currency", "EUR")
    data: Document = {
        "amount": decimal128(minor, exponent(currency)),
        "amountMinor": Int64(minor),
        "currency": currency,
    }
    if kind == "PaymentRefunded":
        data["reason"] = change.get("reason")
        if change.get("unreferenced"):
            data["unreferenced"] = True
    else:
        data["attempt"] = change.get("attempt", 1)
        if kind == "PaymentFailed":
            data["reason"] = change.get("reason")
    command = f"command-{position}"
    return {
        "_id": ObjectId(),
        "aggregateId": payment,
        "aggregateType": "Payment",
        "eventType": kind,
        "eventData": data,
        "version": Int64(change.get("version", 1)),
        "timestamp": change.get("at", START),
        "correlationId": command,
        "causationId": command,
        "metadata": {
            "userId": change.get("user"),
            "organizationId": change.get("organization", "acme"),
            "requestHash": "0" * 32,
        },
        "position": Int64(position),
        "commandId": command,
        "recordedAt": START + timedelta(days=400),
        "schemaVersion": 1,
    }


def payment_history(seed: int, events: int, payments: int = 60, after: int = 0) -> list[Document]:
    """`events` events of random legal payments, positions from `after` + 1, business times out of order.

    Five currencies, four organizations, failures and retries, failures after completion, partial and full
    refunds, credit notes, users that are missing, days around the end of a month.
    """
    chance = random.Random(seed)
    state: dict[str, dict[str, Any]] = {}
    documents: list[Document] = []
    while len(documents) < events:
        position = after + len(documents) + 1
        at = START + timedelta(minutes=chance.randrange(0, 60 * 24 * 40), milliseconds=chance.randrange(1000))
        if chance.random() < 0.05:
            name = f"credit-note/{seed}-{position}"
            change = {
                "currency": chance.choice(CURRENCIES),
                "organization": f"org {chance.randrange(4)}",
                "at": at,
                "reason": "goodwill",
                "unreferenced": True,
            }
            documents.append(event(position, name, "PaymentRefunded", chance.randrange(1, 9_000), **change))
            continue
        name = f"payment-{seed}-{chance.randrange(payments)}"
        payment = state.setdefault(
            name,
            {
                "version": 0,
                "attempts": 0,
                "left": None,
                "currency": chance.choice(CURRENCIES),
                "organization": f"org {chance.randrange(4)}",
                "user": chance.choice([None, "u1", "u2"]),
            },
        )
        common = {
            "currency": payment["currency"],
            "organization": payment["organization"],
            "user": payment["user"],
            "at": at,
            "version": payment["version"] + 1,
        }
        left = payment["left"]
        if left is None and chance.random() < 0.6:
            minor = chance.randrange(1, 100_000)
            payment["left"] = minor
            payment["attempts"] += 1
            made = event(position, name, "PaymentProcessed", minor, attempt=payment["attempts"], **common)
        elif left is None or left == 0 or chance.random() < 0.2:
            payment["attempts"] += 1
            minor = chance.randrange(1, 100_000)
            reason = chance.choice(REASONS)
            made = event(
                position, name, "PaymentFailed", minor, attempt=payment["attempts"], reason=reason, **common
            )
        else:
            minor = left if chance.random() < 0.3 else chance.randrange(1, left + 1)
            payment["left"] = left - minor
            made = event(position, name, "PaymentRefunded", minor, reason="returned", **common)
        payment["version"] += 1
        documents.append(made)
    return documents


def insert_events(db: Database[Document], documents: Sequence[Document]) -> None:
    """Put documents into the log, past the command side, and move the counter and chain to their end."""
    if documents:
        db["events"].insert_many(documents)
        db["counters"].update_one({"_id": "events"}, counter_update(db, documents), upsert=True)


def counter_update(
    db: Database[Document], documents: Sequence[Document], session: ClientSession | None = None
) -> Document:
    """What to do to the counter for documents past its end; also writes the links of the chain between."""
    counter = db["counters"].find_one({"_id": "events"}, session=session) or {"position": 0}
    ordered = sorted(documents, key=lambda document: int(document["position"]))
    last, head = Int64(ordered[-1]["position"]), int(counter["position"])
    if [document["position"] for document in ordered] != list(range(head + 1, last + 1)):
        # Out of order or with a gap, for a test of just that: the next append makes the chain anew.
        return {"$max": {"position": last}, "$unset": {"chain": 1}}
    links = links_over(Link(head, counter.get("chain", GENESIS)), [encode(document) for document in ordered])
    for link in links[:-1]:
        db["log_chain"].insert_one({"_id": Int64(link.position), "hash": Binary(link.hash)}, session=session)
    return {"$set": {"position": last, "chain": Binary(links[-1].hash)}}


def looked_at(db: Database[Document], noted: NotedHead | None = None) -> Check:
    """What `verify` says of the hash chain."""
    from ledgerlake.reconciliation.chain import check_chain
    from ledgerlake.reconciliation.log import Log

    with db.client.start_session(snapshot=True) as session:
        return check_chain(Log(db, session), noted)
