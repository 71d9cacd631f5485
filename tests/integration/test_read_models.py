"""Every read model is what its log comes to, however it was filled; and queries answer from them exactly."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bson import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.lake import definitions
from ledgerlake.lake.definitions import Definition
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.mongo.indexes import CHECKPOINTS
from ledgerlake.projections import PROJECTIONS, ProjectionError, advance
from ledgerlake.projections.rebuild import drop_replaced, rebuild
from ledgerlake.queries import (
    GetFailureReasons,
    GetOrganization,
    GetRefundLatency,
    GetRetryRecovery,
    GetStatistics,
    GetTrends,
    LatencyBucket,
    QueryBus,
    QueryError,
)
from tests.builders import event, insert_events, payment_history
from tests.folding import fresh_fold, stored
from tests.shared_log import SharedLog, shared_log

Db = Database[dict[str, Any]]
Document = dict[str, Any]

PAYMENTS, STATISTICS, TRENDS = "payment_read_models", "payment_statistics", "payment_trends"

# What the lake's SQL says of each read model: the column of every field that it has, too.
LAKE: dict[str, tuple[Definition, dict[str, str]]] = {
    PAYMENTS: (
        definitions.PAYMENTS,
        {
            "_id": "payment_id",
            "organizationId": "organization_id",
            "currency": "currency",
            "status": "status",
            "unreferenced": "unreferenced",
            "amountMinor": "amount_minor",
            "refundedMinor": "refunded_minor",
            "attempts": "attempts",
            "failures": "failures",
            "refunds": "refunds",
            "completedAt": "completed_at",
            "firstRefundAt": "first_refund_at",
            "firstFailedAt": "first_failed_at",
            "failuresBefore": "failures_before",
            "version": "version",
        },
    ),
    "payment_states": (
        definitions.STATES,
        {
            "organizationId": "organization_id",
            "status": "status",
            "unreferenced": "unreferenced",
            "currency": "currency",
            "count": "count",
            "amountMinor": "amount_minor",
            "refundedMinor": "refunded_minor",
        },
    ),
    "refund_latency": (
        definitions.REFUND_LATENCY,
        {
            "organizationId": "organization_id",
            "currency": "currency",
            "day": "day",
            "bucket": "bucket",
            "payments": "payments",
        },
    ),
    "retry_recovery": (
        definitions.RETRY_RECOVERY,
        {
            "organizationId": "organization_id",
            "currency": "currency",
            "day": "day",
            "failuresBefore": "failures_before",
            "recovered": "recovered",
            "payments": "payments",
            "amountMinor": "amount_minor",
        },
    ),
    STATISTICS: (
        definitions.STATISTICS,
        {
            "organizationId": "organization_id",
            "status": "status",
            "currency": "currency",
            "count": "count",
            "totalMinor": "total_minor",
            "total": "total",
            "average": "average",
            "minMinor": "min_minor",
            "maxMinor": "max_minor",
            "firstAt": "first_at",
            "lastAt": "last_at",
        },
    ),
    TRENDS: (
        definitions.TRENDS["day"],
        {
            "organizationId": "organization_id",
            "day": "period",
            "currency": "currency",
            "status": "status",
            "count": "count",
            "totalMinor": "total_minor",
            "minMinor": "min_minor",
            "maxMinor": "max_minor",
        },
    ),
    "payment_quarters": (
        definitions.QUARTERS,
        {
            "organizationId": "organization_id",
            "quarter": "quarter",
            "currency": "currency",
            "status": "status",
            "count": "count",
            "totalMinor": "total_minor",
        },
    ),
    "failure_reasons": (
        definitions.FAILURE_REASONS,
        {
            "organizationId": "organization_id",
            "day": "day",
            "currency": "currency",
            "reason": "reason",
            "count": "count",
            "totalMinor": "total_minor",
        },
    ),
}

# Kept nowhere: computed from the events, and here from the payments.
COHORTS = definitions.REFUND_COHORTS


@pytest.fixture(scope="module")
def shared(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedLog]:
    """A log that is emptied for each use, read models and all."""
    with shared_log(mongo_uri, tmp_path_factory.mktemp("read-models")) as log:
        yield log


def emptied(log: SharedLog) -> Db:
    log.empty()
    db = log.database
    for name in db.list_collection_names():
        if "__" in name:
            db.drop_collection(name)
        elif name in LAKE or name == CHECKPOINTS:
            db[name].delete_many({})
    return db


@pytest.fixture
def db(shared: SharedLog) -> Db:
    return emptied(shared)


@pytest.fixture
def bus(db: Db) -> QueryBus:
    return QueryBus(db)


def project(db: Db, documents: Sequence[Document]) -> None:
    insert_events(db, documents)
    for projection in PROJECTIONS.values():
        advance(db, projection)


def lake_of(db: Db, folder: Path, size: int = 50) -> EventLake:
    lake = EventLake(folder / uuid.uuid4().hex, size)
    lake.refresh(db)
    return lake


def alike(value: Any) -> Any:
    if hasattr(value, "to_decimal"):
        return value.to_decimal()
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def rows(found: Iterable[Document], names: Iterable[str]) -> list[tuple[Any, ...]]:
    return sorted((tuple(alike(each[name]) for name in names) for each in found), key=repr)


def by_the_lake(db: Db, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    with lake_of(db, folder).duckdb() as connection:
        found = {
            name: rows(definition.run(connection).to_pylist(), columns.values())
            for name, (definition, columns) in LAKE.items()
        }
        return found | {COHORTS.name: rows(COHORTS.run(connection).to_pylist(), COHORTS.schema.names)}


def cohorts(payments: Iterable[Document]) -> list[tuple[Any, ...]]:
    """What the payments come to by the day on which they completed: rows of COHORTS."""
    sums: dict[tuple[str, date, str], list[int]] = {}
    for each in payments:
        if each["completedAt"] is not None:
            key = (each["organizationId"], each["completedAt"].date(), each["currency"])
            figures = (1, each["amountMinor"], int(each["refundedMinor"] > 0), each["refundedMinor"])
            sums[key] = [x + int(y) for x, y in zip(sums.get(key, [0] * 4), figures, strict=True)]
    named = [dict(zip(COHORTS.schema.names, (*key, *figures), strict=True)) for key, figures in sums.items()]
    return rows(named, COHORTS.schema.names)


@given(
    seed=st.integers(0, 100_000),
    events=st.integers(1, 120),
    sizes=st.lists(st.integers(1, 60), max_size=4),
    data=st.data(),
)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_batches_is_in_one_batch_is_rebuilt_is_the_lake(
    shared: SharedLog, tmp_path: Path, seed: int, events: int, sizes: list[int], data: st.DataObject
) -> None:
    db = emptied(shared)
    history = payment_history(seed, events, payments=15)
    cut = data.draw(st.integers(0, events), "events there before the first advance")
    insert_events(db, history[:cut])
    for projection in PROJECTIONS.values():
        for size in sizes:
            advance(db, projection, batch=size, up_to=size * 2)
    insert_events(db, history[cut:])
    lake = by_the_lake(db, tmp_path)
    models: set[str] = set()
    for projection in PROJECTIONS.values():
        advance(db, projection, batch=data.draw(st.integers(1, 40), projection.name))
        in_batches = stored(db, projection)
        in_one_batch = fresh_fold(db, projection)
        assert in_batches == in_one_batch
        rebuild(db, projection)
        drop_replaced(db, projection, grace_seconds=0)
        assert stored(db, projection) == in_one_batch
        for name, documents in in_batches.items():
            assert rows(documents.values(), LAKE[name][1]) == lake[name]
        if projection.name == PAYMENTS:
            assert cohorts(in_batches[PAYMENTS].values()) == lake[COHORTS.name]
        models.update(in_batches)
    assert models == LAKE.keys()


# Instants around changes of the clock, and around midnights, of zones that have them at odd places.
ZONES = {
    "Europe/Berlin": (datetime(2023, 3, 26, 1, tzinfo=UTC), datetime(2022, 10, 30, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2023, 3, 12, 7, tzinfo=UTC), datetime(2022, 11, 6, 6, tzinfo=UTC)),
    "Asia/Kathmandu": (datetime(2023, 1, 31, 18, 15, tzinfo=UTC), datetime(1985, 12, 31, 18, 30, tzinfo=UTC)),
    "Asia/Kolkata": (datetime(2023, 4, 30, 18, 30, tzinfo=UTC),),
    "Australia/Lord_Howe": (
        datetime(2023, 4, 1, 15, tzinfo=UTC),
        datetime(2022, 10, 1, 15, 30, tzinfo=UTC),
    ),
    "America/St_Johns": (datetime(2010, 3, 14, 3, 31, tzinfo=UTC), datetime(2022, 11, 6, 4, 30, tzinfo=UTC)),
    "Pacific/Apia": (datetime(2011, 12, 30, 10, tzinfo=UTC), datetime(2011, 12, 31, 10, tzinfo=UTC)),
    "Pacific/Chatham": (datetime(2023, 4, 1, 14, tzinfo=UTC), datetime(2022, 12, 31, 10, 15, tzinfo=UTC)),
    "America/Asuncion": (datetime(2022, 3, 27, 3, tzinfo=UTC), datetime(2022, 10, 2, 4, tzinfo=UTC)),
    "Africa/Monrovia": (datetime(1971, 12, 31, 0, 20, tzinfo=UTC), datetime(1971, 11, 30, 0, 45, tzinfo=UTC)),
}


def around_the_clocks(seed: int) -> list[Document]:
    """Payments of every zone's odd moments, in no order of time."""
    chance = random.Random(seed)
    moments = [
        moment + timedelta(minutes=minutes, milliseconds=chance.choice((0, -1, 1)))
        for zone in ZONES.values()
        for moment in zone
        for minutes in (-1_440, -61, -60, -45, -30, -15, 0, 15, 29, 30, 45, 60, 90, 1_440)
    ]
    # Of Monrovia, 44:30 behind until 1972, the one quarter of an hour that is part of two days.
    moments = [at for at in moments if not (at.year < 1972 and at.hour == 0 and 30 <= at.minute < 45)]
    chance.shuffle(moments)
    return [
        event(
            i,
            f"p{i}",
            chance.choice(("PaymentProcessed", "PaymentFailed")),
            chance.randrange(1, 10_000),
            at=at,
            organization=f"org {i % 2}",
            currency=chance.choice(("EUR", "JPY")),
        )
        for i, at in enumerate(moments, start=1)
    ]


@pytest.fixture(scope="module")
def clocks(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QueryBus, Any]]:
    """Queries on payments of odd moments, and the lake's events."""
    with shared_log(mongo_uri, tmp_path_factory.mktemp("clocks")) as log:
        insert_events(log.database, around_the_clocks(7))
        for name in ("payment_quarters", TRENDS):
            advance(log.database, PROJECTIONS[name])
        lake = lake_of(log.database, tmp_path_factory.mktemp("lake"), 1_000)
        with lake.duckdb() as connection:
            yield QueryBus(log.database), connection


@pytest.mark.parametrize("granularity", ["day", "week", "month"])
@pytest.mark.parametrize("zone", [*ZONES, "UTC"])
def test_trends_of_a_zone_are_those_of_duckdbs_own_time_zones(
    clocks: tuple[QueryBus, Any], zone: str, granularity: str
) -> None:
    bus, connection = clocks
    days = [moment.astimezone(ZoneInfo(zone)).date() for moment in ZONES.get(zone, ZONES["Europe/Berlin"])]
    for start, end in (
        (None, None),
        (days[0], None),
        (None, days[-1]),
        (days[0], days[0] + timedelta(days=2)),
    ):
        found = bus.ask(GetTrends(start=start, end=end, granularity=granularity, zone=zone)).rows
        local = f"(occurred_at AT TIME ZONE '{zone}')"
        expected = connection.execute(
            f"SELECT CAST(date_trunc('{granularity}', {local}) AS DATE) AS period, organization_id, currency,"
            " CASE event_type WHEN 'PaymentFailed' THEN 'failed' ELSE 'completed' END AS status,"
            " count(*), CAST(sum(amount_minor) AS BIGINT) FROM events"
            f" WHERE CAST({local} AS DATE) >= $first AND CAST({local} AS DATE) < $last"
            " GROUP BY ALL ORDER BY ALL",
            {"first": start or date(1900, 1, 1), "last": end or date(2200, 1, 1)},
        ).fetchall()
        got = [(r.period, r.organization_id, r.currency, r.status, r.count, r.total_minor) for r in found]
        assert got == expected
        assert got


def test_trends_of_one_organization_in_a_zone_are_its_own(clocks: tuple[QueryBus, Any]) -> None:
    bus, _ = clocks
    asked = {each: bus.ask(GetTrends(each, zone="Asia/Kathmandu")).rows for each in (None, "org 0", "org 1")}
    assert asked["org 0"] == tuple(r for r in asked[None] if r.organization_id == "org 0")
    assert len(asked["org 0"]) + len(asked["org 1"]) == len(asked[None])


def test_a_quarter_of_an_hour_of_two_days_is_refused_where_it_holds_a_movement(db: Db, bus: QueryBus) -> None:
    """Newfoundland went back at 0:01: in that quarter of an hour it was the 2nd, then the 1st of November."""
    night = datetime(2008, 11, 2, 2, 30, tzinfo=UTC)
    project(
        db,
        [
            event(1, "p", "PaymentProcessed", 1, at=night - timedelta(seconds=1)),
            event(2, "q", "PaymentProcessed", 10, at=night + timedelta(minutes=15)),
        ],
    )
    zone = "America/St_Johns"
    assert [(r.period.day, r.total_minor) for r in bus.ask(GetTrends(zone=zone)).rows] == [(1, 11)]
    insert_events(db, [event(3, "r", "PaymentProcessed", 100, at=night + timedelta(minutes=2))])
    advance(db, PROJECTIONS["payment_quarters"])
    with pytest.raises(QueryError, match=f"2008-11-02 02:30 UTC is part of two days of {zone}.*ask in UTC"):
        bus.ask(GetTrends(zone=zone))
    # It is no matter of days in a month, nor where other days are asked for.
    assert [r.total_minor for r in bus.ask(GetTrends(zone=zone, granularity="month")).rows] == [111]
    assert bus.ask(GetTrends(zone=zone, start=date(2008, 11, 3))).rows == ()
    assert [r.total_minor for r in bus.ask(GetTrends(zone="Europe/Berlin")).rows] == [111]


def test_a_movement_that_is_told_late_lands_in_its_own_day(db: Db, bus: QueryBus) -> None:
    day = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)  # the 29th in Berlin, the day on which summer time begins
    project(db, [event(1, "p", "PaymentFailed", 5, at=day + timedelta(days=3), reason="slow")])
    project(
        db,
        [
            event(2, "q", "PaymentFailed", 7, at=day, reason="late"),
            event(3, "p", "PaymentProcessed", 5, at=day - timedelta(days=3), version=2, attempt=2),
            event(4, "p", "PaymentRefunded", 5, at=day - timedelta(days=4), version=3),
        ],
    )
    trends = bus.ask(GetTrends(zone="Europe/Berlin")).rows
    assert [(r.period.day, r.status) for r in trends] == [
        (25, "refunded"), (26, "completed"), (29, "failed"), (1, "failed"),
    ]  # fmt: skip
    reasons = bus.ask(GetFailureReasons(start=date(2026, 3, 28), end=date(2026, 3, 29))).rows
    assert [(r.reason, r.count, r.total) for r in reasons] == [("late", 1, Decimal("0.07"))]
    # A refund dated before its payment counts as one that took no time.
    [latency] = bus.ask(GetRefundLatency(start=date(2026, 3, 25), end=date(2026, 3, 26))).rows
    assert latency.buckets == (LatencyBucket(None, 0, 1),)
    assert (latency.median_hours, latency.within(0)) == (0, 1)
    recovery = bus.ask(GetRetryRecovery()).rows
    assert [(r.failures, r.payments, r.recovered) for r in recovery] == [(1, 2, 1)]


def test_failure_reasons_by_count_with_their_share(db: Db, bus: QueryBus) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    reasons = ["a", "b", None, "b", "", "b", "c|d"]
    project(
        db,
        [
            event(i, f"p{i}", "PaymentFailed", 10 * i, at=at, reason=reason)
            for i, reason in enumerate(reasons, start=1)
        ]
        + [
            event(8, "p8", "PaymentFailed", 1, at=at, reason="b", currency="JPY"),
            event(9, "p9", "PaymentFailed", 1, at=at + timedelta(days=1), reason="a", organization="other"),
        ],
    )
    found = bus.ask(GetFailureReasons("acme"))
    assert [(r.currency, r.reason, r.count, r.total, r.share) for r in found.rows] == [
        ("EUR", "b", 3, Decimal("1.20"), Decimal("0.4286")),
        ("EUR", None, 2, Decimal("0.80"), Decimal("0.2857")),
        ("EUR", "a", 1, Decimal("0.10"), Decimal("0.1429")),
        ("EUR", "c|d", 1, Decimal("0.70"), Decimal("0.1429")),
        ("JPY", "b", 1, Decimal(1), Decimal("1.0000")),
    ]
    assert found.as_of.position == 9
    assert {r.organization_id for r in bus.ask(GetFailureReasons()).rows} == {"acme", "other"}
    assert [r.currency for r in bus.ask(GetFailureReasons(currency="JPY")).rows] == ["JPY"]
    assert bus.ask(GetFailureReasons(end=date(2026, 5, 1))).rows == ()


def test_the_overview_of_an_organization(db: Db, bus: QueryBus) -> None:
    first = datetime(2026, 1, 5, tzinfo=UTC)
    later = first + timedelta(hours=30)
    project(
        db,
        [
            event(1, "a", "PaymentFailed", 1_000, at=first - timedelta(days=9), reason="x"),
            event(2, "a", "PaymentProcessed", 1_000, at=later, version=2, attempt=2),
            event(3, "b", "PaymentProcessed", 500, at=first),
            event(4, "b", "PaymentRefunded", 200, at=later, version=2),
            event(5, "b", "PaymentRefunded", 300, at=later + timedelta(days=9), version=3),
            event(6, "c", "PaymentFailed", 70, at=later),
            event(7, "note", "PaymentRefunded", 50, unreferenced=True, at=later),
            event(8, "d", "PaymentRefunded", 9, unreferenced=True, currency="JPY", at=later),
            event(9, "e", "PaymentProcessed", 8, organization="other", at=first - timedelta(days=99)),
        ],
    )
    found = bus.ask(GetOrganization("acme"))
    assert (found.first_payment_at, found.last_payment_at) == (first, later)
    assert (found.as_of.position, found.states_as_of.position) == (9, 9)
    euro, yen = found.volumes
    assert (euro.gross, euro.refunded, euro.net) == (Decimal("15.00"), Decimal("5.50"), Decimal("9.50"))
    assert (euro.attempts, euro.failed_attempts, euro.success_rate_by_attempt) == (4, 2, Decimal("0.5000"))
    assert (euro.payments, euro.completed_payments, euro.success_rate_by_payment) == (3, 2, Decimal("0.6667"))
    assert (euro.refunds, euro.credit_notes, euro.refund_rate) == (3, 1, Decimal("0.3667"))
    assert (yen.currency, yen.gross, yen.net, yen.credit_notes) == ("JPY", Decimal(0), Decimal(-9), 1)
    assert (yen.success_rate_by_attempt, yen.success_rate_by_payment, yen.refund_rate) == (None, None, None)
    [latency] = bus.ask(GetRefundLatency("acme")).rows
    assert (latency.buckets, latency.median_hours) == ((LatencyBucket(30, 31, 1),), 31)
    recovery = bus.ask(GetRetryRecovery("acme")).rows
    assert [
        (r.failures, r.payments, r.recovered, r.rate, r.amount, r.recovered_amount) for r in recovery
    ] == [(1, 2, 1, Decimal("0.5000"), Decimal("10.70"), Decimal("10.00"))]
    nobody = bus.ask(GetOrganization("nobody"))
    assert (nobody.volumes, nobody.first_payment_at) == ((), None)


def test_half_and_nine_tenths_of_the_refunds(db: Db, bus: QueryBus) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    hours = [0, 1, 1, 2, 2, 5, 24, 100, 24 * 9, 24 * 40]
    documents = []
    for i, late in enumerate(hours):
        documents.append(event(2 * i + 1, f"p{i}", "PaymentProcessed", 10, at=at))
        refunded = at + timedelta(hours=late, minutes=59)
        documents.append(event(2 * i + 2, f"p{i}", "PaymentRefunded", 1, at=refunded, version=2))
    project(db, documents)
    [row] = bus.ask(GetRefundLatency()).rows
    assert (row.payments, row.median_hours, row.p90_hours) == (10, 3, 24 * 10)
    assert [row.within(h) for h in (1, 24, 7 * 24, 30 * 24, 41 * 24)] == [1, 6, 8, 9, 10]


def test_states_of_a_read_model_that_is_not_rebuilt_yet_are_counted_from_its_payments(
    db: Db, bus: QueryBus
) -> None:
    """Version 1 kept no totals: an answer without them would be a lie, and no answer is no help."""
    project(db, payment_history(31, 150))
    before = bus.ask(GetStatistics()), bus.ask(GetOrganization("org 1"))
    for name in ("payment_states", "refund_latency", "retry_recovery"):
        db[name].delete_many({})
    db[CHECKPOINTS].update_one({"_id": PAYMENTS}, {"$set": {"version": 1}})
    assert (bus.ask(GetStatistics()), bus.ask(GetOrganization("org 1"))) == before
    for query in (GetRefundLatency(), GetRetryRecovery()):
        with pytest.raises(QueryError, match="earlier version.*ledgerlake refresh"):
            bus.ask(query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (GetTrends(zone="Mars/Olympus"), "zone 'Mars/Olympus' is no IANA time zone"),
        (GetTrends(zone={"$ne": ""}), "zone is a text"),  # type: ignore[arg-type]
        (GetTrends(zone="Europe/Berlin", start=datetime(2026, 1, 1, tzinfo=UTC)), "start is a day"),
        (GetFailureReasons({"$ne": None}), "organization_id is a text"),  # type: ignore[arg-type]
        (GetFailureReasons(currency={"$ne": None}), "currency is a text"),  # type: ignore[arg-type]
        (GetFailureReasons(start=date(2026, 2, 1), end=date(2026, 1, 1)), "ends .* before it starts"),
        (GetRefundLatency({"$ne": None}), "organization_id is a text"),  # type: ignore[arg-type]
        (GetRefundLatency(end="2026"), "end is a day"),  # type: ignore[arg-type]
        (GetRetryRecovery({"$ne": None}), "organization_id is a text"),  # type: ignore[arg-type]
        (GetOrganization({"$ne": None}), "organization_id is a text"),  # type: ignore[arg-type]
    ],
)
def test_a_question_that_can_not_be_answered_says_why(bus: QueryBus, query: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        bus.ask(query)


def test_a_kept_total_that_would_not_fit_64_bits_stops_the_projection(db: Db) -> None:
    insert_events(
        db,
        [event(i, f"p{i}", "PaymentProcessed", 2**62, at=datetime(2026, 1, i, tzinfo=UTC)) for i in (1, 2)],
    )
    payments = PROJECTIONS[PAYMENTS]
    assert advance(db, payments, up_to=1).to_position == 1
    with pytest.raises(ProjectionError, match="64 bits"):
        advance(db, payments)
    [kept] = db["payment_states"].find()
    assert (kept["count"], kept["amountMinor"]) == (1, Int64(2**62))


@dataclass(frozen=True)
class Opened:
    queries: QueryBus


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["trends", "--zone", "Europe/Berlin", "--by", "day"], "2026-05-02"),
        (["failures", "-o", "acme"], "card_expired"),
        (["refund-latency"], "3 h"),
        (["retry-recovery"], "50.00 %"),
        (["organization", "acme"], "success by payment"),
    ],
)
def test_the_command_line_shows_each_as_a_table_and_as_json(
    db: Db, monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: str
) -> None:
    from ledgerlake.cli import app

    at = datetime(2026, 5, 1, 22, 30, tzinfo=UTC)
    project(
        db,
        [
            event(1, "p", "PaymentFailed", 100, at=at, reason="card_expired"),
            event(2, "p", "PaymentProcessed", 100, at=at, version=2, attempt=2),
            event(3, "p", "PaymentRefunded", 40, at=at + timedelta(hours=2), version=3),
            event(4, "q", "PaymentFailed", 7, at=at),
        ],
    )
    monkeypatch.setattr(LedgerLake, "open", lambda: nullcontext(Opened(QueryBus(db))))
    table = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert (table.exit_code, shown in table.output, "as of position 4" in table.output) == (0, True, True)
    printed = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(printed.output)["as_of"]["position"] == 4
    nobody = [each if each != "acme" else "nobody" for each in arguments]
    assert CliRunner().invoke(app, nobody, catch_exceptions=False).exit_code == 0
