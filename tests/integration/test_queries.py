"""Queries: exact answers that say how fresh they are, and clear errors for what can not be answered."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.projections import PROJECTIONS, advance, checkpoint
from ledgerlake.queries import (
    Freshness,
    GetPayment,
    GetStatistics,
    GetTrends,
    ListPayments,
    PaymentNotFound,
    QueryBus,
    QueryError,
    payments,
)
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]


@pytest.fixture
def bus(database: Db) -> QueryBus:
    return QueryBus(database)


def project(database: Db, documents: list[dict[str, Any]]) -> None:
    insert_events(database, documents)
    for projection in PROJECTIONS.values():
        advance(database, projection)


def test_a_payment_is_found_with_exact_amounts_and_its_freshness(database: Db, bus: QueryBus) -> None:
    at = datetime(2026, 6, 1, tzinfo=UTC)
    project(
        database,
        [
            event(1, "p", "PaymentFailed", 12_345, currency="BHD", at=at, reason="card_expired"),
            event(2, "p", "PaymentProcessed", 12_345, currency="BHD", at=at, version=2, attempt=2),
            event(3, "p", "PaymentRefunded", 345, currency="BHD", at=at, version=3),
        ],
    )
    found = bus.ask(GetPayment("p"))
    payment = found.payment
    assert (payment.status, payment.amount, payment.refunded, payment.net) == (
        "partially_refunded",
        Decimal("12.345"),
        Decimal("0.345"),
        Decimal("12.000"),
    )
    assert (payment.attempts, payment.failures, payment.last_failure_reason) == (2, 1, "card_expired")
    assert found.as_of.position == 3
    assert found.as_of.time == checkpoint(database, "payment_read_models").updated_at


def test_a_payment_that_is_not_there_is_a_clear_answer(database: Db, bus: QueryBus) -> None:
    with pytest.raises(PaymentNotFound, match=r"'nobody' \(as of position 0\).*refresh"):
        bus.ask(GetPayment("nobody"))


def test_statistics_and_trends_come_to_the_same_totals(database: Db, bus: QueryBus) -> None:
    history = payment_history(22, 500)
    project(database, history)
    expected: Counter[tuple[str, str, str]] = Counter()
    for d in history:
        status = {"PaymentProcessed": "completed", "PaymentFailed": "failed", "PaymentRefunded": "refunded"}
        key = (d["metadata"]["organizationId"], status[d["eventType"]], d["eventData"]["currency"])
        expected[key] += d["eventData"]["amountMinor"]
    everything = bus.ask(GetStatistics())
    assert {(r.organization_id, r.status, r.currency): r.total_minor for r in everything.rows} == expected
    ranged = bus.ask(GetStatistics(start=date(2020, 1, 1), end=date(2030, 1, 1)))
    assert ranged.rows == everything.rows
    assert ranged.payment_states == ()
    for granularity in ("day", "week", "month"):
        sums: Counter[tuple[str, str, str]] = Counter()
        for row in bus.ask(GetTrends(granularity=granularity)).rows:
            sums[row.organization_id, row.status, row.currency] += row.total_minor
        assert sums == expected
    states = everything.payment_states
    assert sum(s.count for s in states) == database["payment_read_models"].count_documents({})


def test_a_range_is_half_open_on_utc_days(database: Db, bus: QueryBus) -> None:
    midnight = datetime(2026, 2, 1, tzinfo=UTC)
    project(
        database,
        [
            event(1, "a", "PaymentProcessed", 1, at=midnight - timedelta(milliseconds=1)),
            event(2, "b", "PaymentProcessed", 10, at=midnight),
            event(3, "c", "PaymentProcessed", 100, at=midnight + timedelta(days=28, milliseconds=-1)),
            event(4, "d", "PaymentProcessed", 1_000, at=midnight + timedelta(days=28)),
        ],
    )
    february = bus.ask(GetStatistics("acme", date(2026, 2, 1), date(2026, 3, 1)))
    assert [(r.count, r.total_minor, r.min, r.max) for r in february.rows] == [
        (2, 110, Decimal("0.10"), Decimal("1.00"))
    ]
    months = bus.ask(GetTrends("acme", granularity="month")).rows
    assert [(r.period, r.total_minor) for r in months] == [
        (date(2026, 1, 1), 1),
        (date(2026, 2, 1), 110),
        (date(2026, 3, 1), 1_000),
    ]
    weeks = bus.ask(GetTrends("acme", granularity="week")).rows
    assert [(r.period, r.total_minor) for r in weeks] == [(date(2026, 1, 26), 11), (date(2026, 2, 23), 1_100)]
    assert bus.ask(GetStatistics("acme", date(2026, 2, 1), date(2026, 2, 1))).rows == ()
    assert bus.ask(GetStatistics("nobody")).rows == ()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ListPayments("o", status="lost"), "status 'lost' is none of failed, completed"),
        (ListPayments("o", limit=0), "limit 0 is not from 1"),
        (ListPayments("o", limit=1001), "limit 1001"),
        (ListPayments("o", cursor="!!"), "cursor '!!'"),
        (ListPayments("o", cursor="eyRuZTogMX0"), "cursor"),
        (GetTrends(granularity="year"), "granularity 'year' is none of day, week, month"),
        (GetStatistics(start=date(2026, 2, 1), end=date(2026, 1, 1)), "ends .* before it starts"),
        (ListPayments("o", limit=True), "limit True"),
        (GetStatistics(start=datetime(2026, 1, 1, 12, tzinfo=UTC)), "start is a day"),
        (GetTrends(end="2026-01-01"), "end is a day"),  # type: ignore[arg-type]
        (GetTrends(start=date(2026, 1, 1), end=datetime(2026, 2, 1, tzinfo=UTC)), "end is a day"),
        ("payments", "is no query"),
    ],
)
def test_a_question_that_can_not_be_answered_says_why(bus: QueryBus, query: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        bus.ask(query)


def test_an_operator_in_the_place_of_a_value_is_refused(database: Db, bus: QueryBus) -> None:
    """{"$ne": null} as an organization must not match every tenant."""
    project(database, payment_history(23, 50))
    hostile: Any = {"$ne": None}
    for query in (
        GetPayment(hostile),
        ListPayments(hostile),
        ListPayments("org 1", status=hostile),
        ListPayments("org 1", currency=hostile),
        ListPayments("org 1", cursor=hostile),
        GetStatistics(hostile),
        GetTrends(hostile),
        GetTrends(granularity=hostile),
    ):
        with pytest.raises(QueryError, match="is a text"):
            bus.ask(query)


def test_an_answer_is_of_one_moment_while_the_projection_moves(
    database: Db, bus: QueryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is read, the projection moves, the model is read: the answer is of before that."""
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    later = [event(2, "p", "PaymentRefunded", 30, version=2)]

    def read_and_then_move(*arguments: Any) -> Any:
        found = checkpoint(*arguments)
        project(database, later)
        later.clear()
        return found

    monkeypatch.setattr(payments, "checkpoint", read_and_then_move)
    for position in (1, 2):
        page = bus.ask(ListPayments("acme"))
        assert (page.as_of.position, page.payments[0].position) == (position, position)
        assert not later


def test_one_payment_is_at_least_as_fresh_as_it_says(database: Db, bus: QueryBus) -> None:
    """It is read without a snapshot, after the checkpoint: it lacks nothing up to there."""
    project(database, [event(1, "p", "PaymentProcessed", 100)])
    before = Freshness(database).now()
    project(database, [event(2, "p", "PaymentRefunded", 30, version=2)])
    found = GetPayment("p").answer_at(before)
    assert (found.as_of.position, found.payment.position) == (1, 2)
    assert bus.ask(GetPayment("p")).as_of.position == 2


def test_rows_and_states_each_say_how_fresh_they_are(database: Db, bus: QueryBus) -> None:
    insert_events(database, payment_history(25, 60))
    advance(database, PROJECTIONS["payment_statistics"], up_to=50)
    advance(database, PROJECTIONS["payment_read_models"], up_to=40)
    found = bus.ask(GetStatistics())
    assert found.states_as_of is not None
    assert (found.as_of.position, found.states_as_of.position) == (50, 40)
    assert sum(row.count for row in found.rows) == 50


def test_a_sum_that_does_not_fit_64_bits_is_refused_and_not_rounded(database: Db, bus: QueryBus) -> None:
    """Two days that fit on their own: the server gives their sum as a float."""
    first = datetime(2026, 1, 1, tzinfo=UTC)
    insert_events(
        database,
        [
            event(1, "a", "PaymentProcessed", 2**62 + 1, at=first),
            event(2, "b", "PaymentProcessed", 2**62 + 2, at=first + timedelta(days=1)),
        ],
    )
    advance(database, PROJECTIONS["payment_trends"])
    with pytest.raises(QueryError, match="64 bits"):
        bus.ask(GetStatistics(start=date(2026, 1, 1)))
    one_day = bus.ask(GetStatistics(start=date(2026, 1, 2))).rows
    assert [row.total_minor for row in one_day] == [2**62 + 2]
    month = bus.ask(GetTrends(granularity="month")).rows
    assert [row.total_minor for row in month] == [2**63 + 3]


def test_middleware_wraps_every_question(database: Db) -> None:
    asked: list[Any] = []

    def note(query: Any, ask: Any) -> Any:
        asked.append(query)
        return ask(query)

    QueryBus(database, [note]).ask(GetStatistics())
    assert asked == [GetStatistics()]
