"""Statistics, trends and payment states in Parquet equal a fold of the events in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import TABLES, refresh_tables
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
STATUS = {"PaymentProcessed": "completed", "PaymentFailed": "failed", "PaymentRefunded": "refunded"}


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake(tmp_path / "lake", 700)


def table(lake: EventLake, path: str) -> list[dict[str, Any]]:
    return pl.read_parquet(lake.root / path).to_dicts()


def units(minor: int, currency: str) -> Decimal:
    return Decimal(minor).scaleb(-exponent(currency))


def movements(documents: Iterable[dict[str, Any]]) -> list[tuple[str, str, str, int, datetime]]:
    return [
        (
            each["metadata"]["organizationId"],
            STATUS[each["eventType"]],
            each["eventData"]["currency"],
            int(each["eventData"]["amountMinor"]),
            each["timestamp"],
        )
        for each in documents
    ]


def statistics(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[tuple[int, datetime]]] = defaultdict(list)
    for organization, status, currency, minor, at in movements(documents):
        groups[organization, status, currency].append((minor, at))
    rows = []
    for (organization, status, currency), found in sorted(groups.items()):
        minors, times = [m for m, _ in found], [t for _, t in found]
        average = units(sum(minors), currency) / len(minors)
        rows.append(
            {
                "organization_id": organization,
                "status": status,
                "currency": currency,
                "count": len(minors),
                "total_minor": sum(minors),
                "total": units(sum(minors), currency),
                "average": average.quantize(Decimal(1).scaleb(-exponent(currency) - 2), ROUND_HALF_EVEN),
                "min_minor": min(minors),
                "min": units(min(minors), currency),
                "max_minor": max(minors),
                "max": units(max(minors), currency),
                "first_at": min(times),
                "last_at": max(times),
            }
        )
    return rows


def period(at: datetime, granularity: str) -> date:
    day = at.astimezone(UTC).date()
    if granularity == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if granularity == "month" else day


def trends(documents: Iterable[dict[str, Any]], granularity: str) -> list[dict[str, Any]]:
    groups: dict[tuple[str, date, str, str], list[int]] = defaultdict(list)
    for organization, status, currency, minor, at in movements(documents):
        groups[organization, period(at, granularity), currency, status].append(minor)
    return [
        {
            "organization_id": organization,
            "period": first,
            "currency": currency,
            "status": status,
            "count": len(minors),
            "total_minor": sum(minors),
            "total": units(sum(minors), currency),
            "min_minor": min(minors),
            "max_minor": max(minors),
        }
        for (organization, first, currency, status), minors in sorted(groups.items())
    ]


def states(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    payments: dict[str, dict[str, Any]] = {}
    for each in sorted(documents, key=lambda each: each["position"]):
        payment = payments.setdefault(
            each["aggregateId"],
            {
                "organization": each["metadata"]["organizationId"],
                "currency": each["eventData"]["currency"],
                "processed": None,
                "failed": None,
                "refunded": 0,
                "unreferenced": False,
            },
        )
        minor = int(each["eventData"]["amountMinor"])
        match each["eventType"]:
            case "PaymentProcessed":
                payment["processed"] = minor
            case "PaymentFailed":
                payment["failed"] = minor
            case _:
                payment["refunded"] += minor
                payment["unreferenced"] |= each["eventData"].get("unreferenced", False)
    groups: dict[tuple[str, str, bool, str], list[tuple[int, int]]] = defaultdict(list)
    for payment in payments.values():
        processed, refunded = payment["processed"], payment["refunded"]
        if payment["unreferenced"]:
            status, amount = "refunded", refunded
        elif processed is None:
            status, amount = "failed", payment["failed"]
        else:
            amount = processed
            status = "completed" if not refunded else "partially_refunded"
            status = "refunded" if refunded == processed else status
        key = (payment["organization"], status, payment["unreferenced"], payment["currency"])
        groups[key].append((amount, refunded))
    return [
        {
            "organization_id": organization,
            "status": status,
            "unreferenced": unreferenced,
            "currency": currency,
            "count": len(found),
            "amount_minor": sum(amount for amount, _ in found),
            "amount": units(sum(amount for amount, _ in found), currency),
            "refunded_minor": sum(refunded for _, refunded in found),
            "refunded": units(sum(refunded for _, refunded in found), currency),
        }
        for (organization, status, unreferenced, currency), found in sorted(groups.items())
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tables_equal_the_fold_in_plain_python(database: Db, lake: EventLake, seed: int) -> None:
    documents = payment_history(seed, 1_900, payments=150)
    insert_events(database, documents)
    lake.refresh(database)
    done = refresh_tables(lake)
    assert done.position == 1_900
    assert [str(path.relative_to(lake.root)) for path in done.files] == list(TABLES)
    assert table(lake, "statistics/payment_statistics.parquet") == statistics(documents)
    assert table(lake, "statistics/payment_states.parquet") == states(documents)
    for granularity in ("day", "week", "month"):
        path = f"trends/payment_trends_{granularity}.parquet"
        assert table(lake, path) == trends(documents, granularity)


def test_the_last_millisecond_of_a_day_week_and_month_stays_in_it(database: Db, lake: EventLake) -> None:
    midnight = datetime(2026, 2, 1, tzinfo=UTC)  # a Sunday: a month begins, a week does not
    monday = datetime(2026, 2, 2, tzinfo=UTC)
    instants = [edge + timedelta(milliseconds=offset) for edge in (midnight, monday) for offset in (-1, 0, 1)]
    documents = [
        event(i, f"p{i}", "PaymentProcessed", 10**i, at=instant) for i, instant in enumerate(instants, 1)
    ]
    insert_events(database, documents)
    lake.refresh(database)
    refresh_tables(lake)
    found = {
        granularity: {
            row["period"]: row["total_minor"]
            for row in table(lake, f"trends/payment_trends_{granularity}.parquet")
        }
        for granularity in ("day", "week", "month")
    }
    assert found["month"] == {date(2026, 1, 1): 10, date(2026, 2, 1): 1_111_100}
    assert found["day"] == {date(2026, 1, 31): 10, date(2026, 2, 1): 11_100, date(2026, 2, 2): 1_100_000}
    assert found["week"] == {date(2026, 1, 26): 11_110, date(2026, 2, 2): 1_100_000}


def test_yen_and_dinar_are_exact_and_currencies_stay_apart(database: Db, lake: EventLake) -> None:
    documents = [
        event(1, "a", "PaymentProcessed", 100, currency="JPY"),
        event(2, "b", "PaymentProcessed", 101, currency="JPY"),
        event(3, "c", "PaymentProcessed", 1_000, currency="BHD"),
        event(4, "d", "PaymentProcessed", 1, currency="BHD"),
        event(5, "e", "PaymentProcessed", 1, currency="BHD"),
    ]
    insert_events(database, documents)
    lake.refresh(database)
    refresh_tables(lake)
    rows = {row["currency"]: row for row in table(lake, "statistics/payment_statistics.parquet")}
    assert (rows["JPY"]["total"], rows["JPY"]["average"]) == (Decimal(201), Decimal("100.50"))
    assert (rows["BHD"]["total"], rows["BHD"]["average"]) == (Decimal("1.002"), Decimal("0.334"))
    assert rows["BHD"]["min"] == Decimal("0.001")


def test_averages_round_half_to_even(database: Db, lake: EventLake) -> None:
    # 1/8 and 3/8 of a yen: 0.125 and 0.375 at two decimals.
    eighth = [event(i, f"a{i}", "PaymentProcessed", 2 if i == 1 else 1, currency="JPY") for i in range(1, 9)]
    eighth_more = [
        event(i, f"b{i}", "PaymentFailed", 2 if i <= 11 else 1, currency="JPY") for i in range(9, 17)
    ]
    insert_events(database, eighth + eighth_more)
    lake.refresh(database)
    refresh_tables(lake)
    found = [row["average"] for row in table(lake, "statistics/payment_statistics.parquet")]
    assert found == [Decimal("1.12"), Decimal("1.38")]


def test_nothing_new_writes_nothing_and_new_events_change_every_table(database: Db, lake: EventLake) -> None:
    documents = payment_history(5, 1_000)
    insert_events(database, documents[:900])
    lake.refresh(database)
    refresh_tables(lake)
    before = {path: (lake.root / path).stat().st_ino for path in TABLES}
    assert refresh_tables(lake).files == ()
    assert {path: (lake.root / path).stat().st_ino for path in TABLES} == before
    insert_events(database, documents[900:])
    lake.refresh(database)
    assert len(refresh_tables(lake).files) == 5
    assert table(lake, "statistics/payment_statistics.parquet") == statistics(documents)
    for path in TABLES:
        stated = pq.read_metadata(lake.root / path).metadata
        assert stated[b"ledgerlake.position"] == b"1000"


def test_a_table_that_is_missing_or_damaged_is_made_again_with_the_same_bytes(
    database: Db, lake: EventLake
) -> None:
    insert_events(database, payment_history(6, 1_000))
    lake.refresh(database)
    refresh_tables(lake)
    before = {path: (lake.root / path).read_bytes() for path in TABLES}
    lost, cut, *_ = TABLES
    (lake.root / lost).unlink()
    (lake.root / cut).write_bytes(before[cut][:100])
    assert len(refresh_tables(lake).files) == 2
    assert {path: (lake.root / path).read_bytes() for path in TABLES} == before


def test_an_empty_lake_has_empty_tables(lake: EventLake) -> None:
    assert refresh_tables(lake).position == 0
    for path, definition in TABLES.items():
        assert pq.read_table(lake.root / path).num_rows == 0
        assert pq.read_schema(lake.root / path).names == definition.schema.names


def test_a_sum_beyond_64_bits_is_an_error_and_no_float(database: Db, lake: EventLake) -> None:
    largest = 2**63 - 1
    insert_events(database, [event(i, f"p{i}", "PaymentProcessed", largest) for i in (1, 2)])
    lake.refresh(database)
    with pytest.raises(LakeError, match="payment_statistics: a value of total_minor does not fit int64"):
        refresh_tables(lake)
    assert not (lake.root / "statistics/payment_statistics.parquet").exists()


def test_an_event_of_an_unknown_type_is_an_error_and_not_left_out(database: Db, lake: EventLake) -> None:
    insert_events(database, [event(1, "p", "PaymentProcessed", 5), event(2, "q", "PaymentTeleported", 5)])
    lake.refresh(database)
    with pytest.raises(LakeError, match="payment_statistics: status is unknown"):
        refresh_tables(lake)


def test_a_damaged_segment_stops_the_tables_and_is_named(database: Db, lake: EventLake) -> None:
    insert_events(database, payment_history(7, 1_000))
    lake.refresh(database)
    sealed = lake.segments()[0].path
    group = pq.read_metadata(sealed).row_group(0)
    chunk = next(group.column(i) for i in range(20) if group.column(i).path_in_schema == "amount_minor")
    content = bytearray(sealed.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size // 2] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(CorruptFileError, match=sealed.name):
        refresh_tables(lake)


def test_the_time_zone_of_the_process_does_not_matter(
    database: Db, lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = payment_history(8, 500)
    insert_events(database, documents)
    lake.refresh(database)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    refresh_tables(lake)
    assert table(lake, "trends/payment_trends_day.parquet") == trends(documents, "day")
