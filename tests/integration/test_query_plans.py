"""Every query is served by an index, among 100,000 payments: nothing is read to be left out or sorted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from bson import Int64
from pymongo.database import Database

from ledgerlake.domain.payment import Status
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.queries import (
    DocumentQuery,
    GetAudit,
    GetFailureReasons,
    GetOrganization,
    GetPayment,
    GetPaymentAt,
    GetRefundLatency,
    GetRetryRecovery,
    GetStatistics,
    GetTrends,
    ListPayments,
    LogQuery,
    PaymentNotFound,
    Query,
    QueryBus,
)
from ledgerlake.queries.payments import SORTS
from ledgerlake.settings import Settings
from tests.builders import START, insert_events, payment_history

Db = Database[dict[str, Any]]
PAYMENTS = 100_000
MODEL = "payment_read_models"
RANGED = ("payments_organization_amount", "payments_organization_time")


@pytest.fixture(scope="module")
def crowded(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Db]:
    """A database with a small log, its read models, and 100,000 payments, half of one organization."""
    settings = Settings(
        home=tmp_path_factory.mktemp("plans"), mongodb_uri=mongo_uri, database="test_query_plans"
    )
    db = open_database(settings)
    db.client.drop_database(db.name)
    db.client.close()
    db = open_database(settings)
    try:
        insert_events(db, payment_history(31, 300))
        for projection in PROJECTIONS.values():
            advance(db, projection)
        seeds = list(db[MODEL].find())
        for first in range(0, PAYMENTS, 20_000):
            documents = (_copy(seeds[n % len(seeds)], n) for n in range(first, first + 20_000))
            db[MODEL].insert_many(documents, ordered=False)
        yield db
    finally:
        db.client.drop_database(db.name)
        db.client.close()


def _copy(seed: dict[str, Any], number: int) -> dict[str, Any]:
    name = f"copy-{number}"
    return {
        **seed,
        "_id": name,
        "paymentId": name,
        "organizationId": "org 1" if number % 2 else f"org {number % 40}",
        "firstPosition": Int64(1_000 + number),
        # Every third of one amount: pages must not read them all again to get past them.
        "amountMinor": Int64(999 if number % 3 == 0 else number % 20_000),
        "openedAt": START + timedelta(seconds=number * 7919 % 5_000_000),
    }


@pytest.fixture
def watched(crowded: Db) -> Iterator[Db]:
    """The database, which keeps a profile of all that it is asked."""
    crowded.command("profile", 0)
    crowded["system.profile"].drop()
    crowded.create_collection("system.profile", capped=True, size=64_000_000)
    crowded.command("profile", 2)
    try:
        yield crowded
    finally:
        crowded.command("profile", 0)


def stages(db: Db, op: dict[str, Any]) -> set[str]:
    """The stages of a profiled command's plan, its pipeline included."""
    asked = {
        key: value
        for key, value in op["command"].items()
        if not key.startswith("$") and key not in ("lsid", "readConcern", "txnNumber")
    }
    plan = db.command("explain", asked, verbosity="queryPlanner")
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "stage":
                    found.add(value)
                elif key.startswith("$"):
                    found.add(key)
                elif key not in ("rejectedPlans", "parsedQuery", "slotBasedPlan", "command", "indexBounds"):
                    walk(value)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk({key: plan[key] for key in ("queryPlanner", "stages") if key in plan})
    return found


def asked_of(db: Db) -> list[dict[str, Any]]:
    """What the database was asked since it is watched, but for the explanations."""
    kinds = ("find", "aggregate", "count", "distinct")
    return [
        op
        for op in db["system.profile"].find()
        if op["op"] in ("query", "command") and any(kind in op.get("command", {}) for kind in kinds)
        and not op["ns"].endswith("system.profile")
    ]  # fmt: skip


def lists() -> Iterator[ListPayments]:
    """Every combination of filters and orders that is not refused."""
    times = {"start": START, "end": START + timedelta(days=20)}
    amounts: dict[str, Any] = {"min_amount": Decimal("2.00"), "max_amount": Decimal("150.00")}
    statuses = (None, Status.PARTIALLY_REFUNDED.value)
    flags = itertools.product(statuses, (None, "EUR"), (False, True), (False, True), SORTS, (False, True))
    for status, currency, by_amount, by_time, sort, ascending in flags:
        if sort == "opened":
            refused = by_amount or by_time
        else:
            refused = currency is None and (by_amount or sort == "amount")
        if refused:
            continue
        ranges = {**(amounts if by_amount else {}), **(times if by_time else {})}
        yield ListPayments("org 1", status, currency, limit=20, sort=sort, ascending=ascending, **ranges)


def others() -> list[Query[Any] | DocumentQuery[Any] | LogQuery[Any]]:
    days: dict[str, Any] = {"start": date(2026, 1, 1), "end": date(2026, 3, 1)}
    whose: tuple[str | None, ...] = (None, "org 1")
    payment = payment_history(31, 1)[0]["aggregateId"]
    found: list[Any] = [GetPayment("copy-77"), GetPayment("nobody"), GetAudit(payment)]
    found += [GetAudit("credit-note/c1"), GetAudit(payment, frozenset({"org 1", "org 2"}))]
    found += [GetPaymentAt(payment, position=300), GetPaymentAt(payment, version=1)]
    found += [GetPaymentAt(payment, instant=datetime(2026, 6, 1, tzinfo=UTC))]
    found += [GetOrganization("org 1")]
    for one in whose:
        for interval in ({}, days, {"start": days["start"]}):
            found += [GetStatistics(one, **interval), GetFailureReasons(one, **interval)]
            found += [GetFailureReasons(one, currency="EUR", **interval)]
            found += [GetRefundLatency(one, **interval), GetRetryRecovery(one, **interval)]
            for granularity, zone in (("day", "UTC"), ("month", "UTC"), ("week", "America/New_York")):
                found.append(GetTrends(one, granularity=granularity, zone=zone, **interval))
    return found


def test_every_page_of_every_list_is_read_from_an_index_and_not_sorted(watched: Db) -> None:
    bus = QueryBus(watched)
    asked = 0
    for query in lists():
        first = bus.ask(query)
        assert len(first.payments) == 20
        assert first.next_cursor is not None
        second = bus.ask(replace(query, cursor=first.next_cursor))
        assert len(second.payments) == 20
        assert not {p.payment_id for p in first.payments} & {p.payment_id for p in second.payments}
        asked += 2
    pages = [op for op in asked_of(watched) if op["ns"] == f"{watched.name}.{MODEL}"]
    assert len(pages) == asked
    for op in pages:
        found = stages(watched, op)
        assert not found & {"COLLSCAN", "SORT", "$sort"}, (op["command"], found)
        # 21 documents are read, and no other: filters are looked at in the index, with one exception.
        if "currency" not in str(op["command"]["filter"]) or op["command"]["hint"] in RANGED:
            assert op["docsExamined"] <= 2 * 21, (op["command"], op["docsExamined"])
        assert not op.get("hasSortStage")


def test_every_other_query_is_read_from_an_index_and_not_sorted(watched: Db) -> None:
    with EventStore(watched) as store:
        bus = QueryBus(watched, log=lambda: store)
        kinds = set()
        for query in others():
            with suppress(PaymentNotFound):
                bus.ask(query)
            kinds.add(type(query))
    asked = asked_of(watched)
    assert len(asked) > 2 * len(kinds)
    for op in asked:
        found = stages(watched, op)
        assert not found & {"COLLSCAN", "SORT", "$sort"}, (op["ns"], op["command"], found)
        assert not op.get("hasSortStage"), op["command"]


def test_the_profile_tells_a_scan_and_a_sort(watched: Db) -> None:
    """The control: what these tests look for is found where it is."""
    list(watched[MODEL].find({"userId": "u1"}).sort("lastAt", 1).limit(1))
    [op] = asked_of(watched)
    assert {"COLLSCAN", "SORT"} <= stages(watched, op)
    assert op["hasSortStage"]
