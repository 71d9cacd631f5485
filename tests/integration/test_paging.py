"""Paging: every payment once, in whatever order, while the ledger goes on; and cursors that mean one list."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.queries import ListPayments, Payment, QueryBus, QueryError
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
MODEL = "payment_read_models"
EAST = timezone(timedelta(hours=9))


@pytest.fixture
def bus(database: Db) -> QueryBus:
    return QueryBus(database)


def project(database: Db, documents: list[dict[str, Any]]) -> None:
    insert_events(database, documents)
    advance(database, PROJECTIONS[MODEL])


def pages(bus: QueryBus, query: ListPayments) -> Iterator[tuple[Payment, ...]]:
    while True:
        page = bus.ask(query)
        yield page.payments
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


ORDERS: list[dict[str, Any]] = [
    {},
    {"ascending": True},
    {"status": "completed"},
    {"currency": "EUR", "ascending": True},
    {"sort": "time"},
    {"sort": "time", "ascending": True, "currency": "EUR"},
    {"sort": "time", "start": datetime(2026, 2, 1, tzinfo=UTC), "end": datetime(2026, 3, 1, tzinfo=UTC)},
    {"sort": "amount", "currency": "EUR"},
    {"currency": "EUR", "min_amount": Decimal("50.00"), "max_amount": Decimal(900), "ascending": True},
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_payment_is_met_once_while_payments_arrive_and_are_refunded(
    database: Db, bus: QueryBus, order: dict[str, Any]
) -> None:
    """Business times are random: refunds come that are dated before the payment, and late payments."""
    history = payment_history(21, 340, payments=150)
    if "amount" in str(order):  # what is tried again with another amount is another matter, below
        history = _without_retries(payment_history(21, 600, payments=300))
    half = len(history) * 2 // 3
    project(database, history[:half])
    query = ListPayments("org 1", limit=3, **order)
    wanted = {payment.payment_id for page in pages(bus, replace(query, limit=1000)) for payment in page}
    assert len(wanted) > 6
    seen: list[Payment] = []
    taken = half
    for page in pages(bus, query):
        seen += page
        if "status" not in order:  # a status is that of the moment when its page is read
            project(database, history[taken : taken + 8])
            taken += 8
    ids = [payment.payment_id for payment in seen]
    assert len(ids) == len(set(ids))
    assert wanted <= set(ids)
    keys = [_key(query, payment) for payment in seen]
    assert keys == sorted(keys, reverse=not query.ascending)
    everything = [_key(query, p) for p in bus.ask(replace(query, limit=1000)).payments]
    assert everything == sorted(everything, reverse=not query.ascending)


def _without_retries(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without failed attempts, renumbered."""
    versions: dict[str, int] = {}
    kept = [each for each in history if each["eventType"] != "PaymentFailed"]
    for position, each in enumerate(kept, 1):
        stream = each["aggregateId"]
        versions[stream] = versions.get(stream, 0) + 1
        each.update(position=position, version=versions[stream])
    return kept


def _key(query: ListPayments, payment: Payment) -> Any:
    by_amount = query.sort == "amount" or query.min_amount is not None
    return payment.amount if by_amount else payment.opened_at if query.sort == "time" else 0


def test_equal_amounts_and_times_are_paged_one_by_one(database: Db, bus: QueryBus) -> None:
    at = datetime(2026, 6, 1, tzinfo=UTC)
    project(database, [event(n, f"p{n}", "PaymentProcessed", 999, at=at) for n in range(1, 24)])
    for sort in ("amount", "time"):
        for ascending in (False, True):
            query = ListPayments("acme", currency="EUR", sort=sort, ascending=ascending, limit=2)
            found = [payment.payment_id for page in pages(bus, query) for payment in page]
            wanted = [f"p{n}" for n in range(1, 24)]
            assert found == (wanted if ascending else wanted[::-1])


def test_ranges_hold_both_amounts_and_end_before_the_second_instant(database: Db, bus: QueryBus) -> None:
    start = datetime(2026, 6, 1, tzinfo=UTC)
    amounts = {"a": 100, "b": 101, "c": 200, "d": 201}
    project(
        database,
        [
            event(n, name, "PaymentProcessed", minor, at=start + timedelta(days=n))
            for n, (name, minor) in enumerate(amounts.items(), 1)
        ],
    )

    def found(**filters: Any) -> str:
        listed = bus.ask(ListPayments("acme", currency="EUR", ascending=True, **filters)).payments
        return "".join(payment.payment_id for payment in listed)

    assert found(min_amount=Decimal("1.01"), max_amount=Decimal("2.00")) == "bc"
    assert found(min_amount=Decimal(2)) == "cd"
    assert found(max_amount=Decimal("0.99")) == ""
    assert found(start=start + timedelta(days=2), end=start + timedelta(days=4)) == "bc"
    assert found(start=(start + timedelta(days=2)).astimezone(EAST)) == "bcd"
    assert found(min_amount=Decimal(1), end=start + timedelta(days=3), sort="time") == "ab"
    assert found(min_amount=Decimal(1), end=start + timedelta(days=3), sort="amount") == "ab"


def test_a_failed_payment_that_is_tried_again_with_another_amount_moves(database: Db, bus: QueryBus) -> None:
    """What the list says of itself: the amount of a failed payment is that of its last attempt."""
    project(database, [event(1, "a", "PaymentFailed", 100), event(2, "b", "PaymentProcessed", 200)])
    query = ListPayments("acme", currency="EUR", sort="amount", ascending=True, limit=1)
    first = bus.ask(query)
    assert [payment.payment_id for payment in first.payments] == ["a"]
    project(database, [event(3, "a", "PaymentProcessed", 300, version=2, attempt=2)])
    rest = [p.payment_id for page in pages(bus, replace(query, cursor=first.next_cursor)) for p in page]
    assert rest == ["b", "a"]


def test_a_cursor_is_good_for_its_list_only(database: Db, bus: QueryBus) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 6)])
    query = ListPayments("acme", currency="EUR", sort="amount", limit=2)
    page = bus.ask(query)
    assert page.next_cursor is not None
    assert len(bus.ask(replace(query, cursor=page.next_cursor, limit=1)).payments) == 1
    others = (
        ListPayments("other", currency="EUR", sort="amount"),
        replace(query, currency="USD"),
        replace(query, currency=None, sort=None),
        replace(query, status="completed"),
        replace(query, sort="time"),
        replace(query, ascending=True),
        replace(query, min_amount=Decimal(1)),
        replace(query, end=datetime(2030, 1, 1, tzinfo=UTC)),
    )
    for other in others:
        with pytest.raises(QueryError, match="other filters, or in another order"):
            bus.ask(replace(other, cursor=page.next_cursor))
    # The order that a range brings by itself is the same list as when it is named.
    ranged = ListPayments("acme", currency="EUR", min_amount=Decimal("0.01"), limit=2)
    given = bus.ask(ranged).next_cursor
    assert bus.ask(replace(ranged, sort="amount", min_amount=Decimal("0.010"), cursor=given)).payments


def _tampered(cursor: str, change: tuple[int, bytes]) -> str:
    packed = bytearray(base64.urlsafe_b64decode(cursor + "=="))
    packed[change[0] : change[0] + len(change[1])] = change[1]
    return base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("=")


def test_a_hostile_cursor_is_refused_clearly(database: Db, bus: QueryBus) -> None:
    project(database, [event(n, f"p{n}", "PaymentProcessed", n) for n in range(1, 6)])
    query = ListPayments("acme", sort="time", limit=2)
    good = bus.ask(query).next_cursor
    assert good is not None
    hostile = [
        "",
        "!!",
        "eyRuZTogMX0",
        "cDEyMw",  # as a version before this one gave them
        good[:-1],
        good + "A",
        good + "=",
        good.replace(good[0], "é"),
        "\ud800",
        "A" * 100_000,
        " " + good,
        good[:-1] + chr(ord(good[-1]) + 1),  # the same bytes, written otherwise
        _tampered(good, (0, b"\x01")),
        _tampered(good, (17, struct.pack(">q", -1))),
        _tampered(good, (9, struct.pack(">q", 2**62))),
    ]
    for cursor in hostile:
        with pytest.raises(QueryError, match="cursor") as refused:
            bus.ask(replace(query, cursor=cursor))
        assert len(str(refused.value)) < 400
    # Whoever makes one up that is well formed begins elsewhere in a list that he may read anyway.
    made_up = _tampered(good, (9, struct.pack(">q", 0)))
    assert bus.ask(replace(query, cursor=made_up)).payments == ()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ListPayments("o", sort="status"), "sort 'status' is none of opened, amount, time"),
        (ListPayments("o", sort="amount"), "one currency: give currency"),
        (ListPayments("o", min_amount=Decimal(1)), "one currency: give currency"),
        (ListPayments("o", currency="EUR", min_amount=1.5), "min_amount is a Decimal"),  # type: ignore[arg-type]
        (ListPayments("o", currency="EUR", min_amount=Decimal("1.005")), "min_amount is no amount"),
        (ListPayments("o", currency="EUR", max_amount=Decimal("NaN")), "max_amount is no amount"),
        (ListPayments("o", currency="EUR", max_amount=Decimal("1e30")), "max_amount is no amount"),
        (ListPayments("o", currency="XXX", max_amount=Decimal(1)), "max_amount is no amount"),
        (ListPayments("o", start=datetime(2026, 1, 1)), "start is a datetime with a time zone"),
        (ListPayments("o", end="2026-01-01"), "end is a datetime with a time zone"),  # type: ignore[arg-type]
        (
            ListPayments("o", end=datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))),
            "end is a datetime",
        ),
        (ListPayments("o", ascending=1), "ascending is true or false"),  # type: ignore[arg-type]
        (
            ListPayments("o", start=datetime(2026, 2, 1, tzinfo=UTC), end=datetime(2026, 1, 1, tzinfo=UTC)),
            "ends .* before it starts",
        ),
        (
            ListPayments("o", sort="opened", start=datetime(2026, 2, 1, tzinfo=UTC)),
            "No index serves a range in the order of 'opened'",
        ),
    ],
)
def test_a_list_that_can_not_be_is_refused(bus: QueryBus, query: ListPayments, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        bus.ask(query)


def test_a_read_model_of_the_version_before_is_listed_until_it_is_rebuilt(
    database: Db, bus: QueryBus
) -> None:
    project(database, [event(1, "p", "PaymentProcessed", 1)])
    database[MODEL].update_many({}, {"$unset": {"openedAt": 1}})
    database["projections_metadata"].update_one({"_id": MODEL}, {"$set": {"version": 1}})
    [payment] = bus.ask(ListPayments("acme")).payments
    assert payment.opened_at == payment.first_at
    for query in (ListPayments("acme", sort="time"), ListPayments("acme", currency="EUR", sort="amount")):
        with pytest.raises(QueryError, match=r"version 1.*refresh"):
            bus.ask(query)
