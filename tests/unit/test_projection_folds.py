"""The folds of the projections against a plain fold, event by event, in whatever batches the log is read."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import bson
import polars as pl
import pytest
from bson import Decimal128, Int64
from bson.codec_options import CodecOptions
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerlake.domain.events import EVENT_STATUS, read_event
from ledgerlake.domain.money import exponent
from ledgerlake.domain.payment import NOTHING, Status, evolve
from ledgerlake.eventstore.columnar import PATHS
from ledgerlake.projections import PROJECTIONS, Projection, ProjectionError, derived, misfits
from ledgerlake.projections.batch import fold
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.projections.statistics import average
from tests.builders import event, payment_history

Document = dict[str, Any]
# Collection -> _id -> document.
Models = dict[str, dict[str, Document]]


def table(documents: Sequence[Document]) -> pl.DataFrame:
    """The documents as `read_columns` would give them."""

    def value(document: Document, path: str) -> Any:
        for name in path.split("."):
            document = document.get(name)  # type: ignore[assignment]
        return document

    columns = {
        "position": pl.Int64,
        "payment_id": pl.String,
        "event_type": pl.String,
        "version": pl.Int64,
        "occurred_at": pl.Datetime("ms", "UTC"),
        "amount_minor": pl.Int64,
        "currency": pl.String,
        "organization_id": pl.String,
        "user_id": pl.String,
        "attempt": pl.Int32,
        "reason": pl.String,
        "unreferenced": pl.Boolean,
        "schema_version": pl.Int32,
    }
    rows = {name: [value(document, PATHS[name]) for document in documents] for name in columns}
    rows["unreferenced"] = [bool(flag) for flag in rows["unreferenced"]]
    return pl.DataFrame(rows, schema=columns)


def in_batches(projection: Projection, documents: list[Document], sizes: Sequence[int]) -> Models:
    """What the engine does with the log, without a database: the read model, and each of its totals."""
    model: dict[str, Document] = {}
    totals: dict[str, dict[str, Document]] = {each.name: {} for each in projection.derived}
    rest = documents
    for size in [*sizes, len(documents)]:
        batch, rest = rest[:size], rest[size:]
        if not batch:
            continue
        changes = fold(projection, table(batch))
        model.update((document["_id"], document) for document in read(changes.fresh))
        now = [[each] for each in changes.counted] or [[] for _ in projection.derived]
        before: list[list[pl.DataFrame]] = [[] for _ in projection.derived]
        if (deltas := changes.deltas) is not None:
            stored = [model[key] for key in deltas["key"] if key in model]
            if stored:
                recalled = projection.recall(stored)
                deltas = projection.merge(pl.concat([recalled, deltas]))
                for each, out in zip(projection.derived, before, strict=True):
                    out.append(derived.contributed(each, recalled))
            for each, put in zip(projection.derived, now, strict=True):
                put.append(derived.contributed(each, deltas))
            model.update(zip(deltas["key"], read(projection.render(deltas)), strict=True))
        for each, put, out in zip(projection.derived, now, before, strict=True):
            for row in derived.change(each, put, out).iter_rows(named=True):
                key = row.pop("key")
                nothing = {"_id": key, **row, **dict.fromkeys(each.totals, 0)}
                kept = totals[each.name].setdefault(key, nothing)
                assert all(kept[name] == row[name] for name in each.by)  # the key tells them apart
                kept.update({name: kept[name] + row[name] for name in each.totals})
        for each in projection.derived:
            totals[each.name] = {
                key: kept for key, kept in totals[each.name].items() if any(kept[t] for t in each.totals)
            }
    return {projection.name: model, **totals}


def read(documents: Sequence[Any]) -> list[Document]:
    """Documents as they come back from the database."""
    options = CodecOptions[Document](tz_aware=True, tzinfo=UTC)
    return [bson.decode(bson.encode(document), codec_options=options) for document in documents]


def plain(document: Document) -> Document:
    return {
        key: value.to_decimal() if hasattr(value, "to_decimal") else value for key, value in document.items()
    }


def units(minor: int, currency: str) -> Decimal:
    return Decimal(minor).scaleb(-exponent(currency))


def reference_payments(documents: list[Document]) -> dict[str, Document]:
    """The read model by the aggregate's own rules: one event after the other."""
    model: dict[str, Document] = {}
    for payment in dict.fromkeys(d["aggregateId"] for d in documents):
        events = [d for d in documents if d["aggregateId"] == payment]
        state = NOTHING
        for e in events:
            state = evolve(
                state, read_event(e["eventType"], 1, e["eventData"]), e["metadata"]["organizationId"]
            )
        failed = [e for e in events if e["eventType"] == "PaymentFailed"]
        completed = [e for e in events if e["eventType"] == "PaymentProcessed"]
        refunds = [e for e in events if e["eventType"] == "PaymentRefunded"]
        amount = (
            state.refunded
            if state.unreferenced
            else state.processed
            if state.processed is not None
            else failed[-1]["eventData"]["amountMinor"]
        )
        assert isinstance(state.status, Status)
        model[payment] = {
            "_id": payment,
            "paymentId": payment,
            "organizationId": state.organization_id,
            "userId": next((u for e in events if (u := e["metadata"]["userId"]) is not None), None),
            "currency": state.currency,
            "status": state.status.value,
            "unreferenced": state.unreferenced,
            "amountMinor": amount,
            "amount": units(amount, state.currency),
            "refundedMinor": state.refunded,
            "refunded": units(state.refunded, state.currency),
            "netMinor": (state.processed or 0) - state.refunded,
            "net": units((state.processed or 0) - state.refunded, state.currency),
            "attempts": state.attempts,
            "failures": len(failed),
            "refunds": len(refunds),
            "failuresBefore": sum(e["version"] < completed[0]["version"] for e in failed)
            if completed
            else len(failed),
            "lastFailureReason": failed[-1]["eventData"]["reason"] if failed else None,
            "firstRefundAt": min((e["timestamp"] for e in refunds), default=None),
            "firstFailedAt": min((e["timestamp"] for e in failed), default=None),
            "openedAt": events[0]["timestamp"],
            "firstAt": min(e["timestamp"] for e in events),
            "lastAt": max(e["timestamp"] for e in events),
            "completedAt": completed[0]["timestamp"] if completed else None,
            "version": state.version,
            "firstPosition": events[0]["position"],
            "position": events[-1]["position"],
        }
    return model


def reference_movements(documents: list[Document], *, by_day: bool) -> dict[str, Document]:
    groups: dict[str, list[Document]] = {}
    for d in documents:
        status = EVENT_STATUS[d["eventType"]]
        organization, currency = d["metadata"]["organizationId"], d["eventData"]["currency"]
        day = d["timestamp"].date().isoformat()
        key = f"{organization}|{day}|{currency}|{status}" if by_day else f"{organization}|{status}|{currency}"
        groups.setdefault(key, []).append(d)
    model: dict[str, Document] = {}
    for key, group in groups.items():
        minors = [int(d["eventData"]["amountMinor"]) for d in group]
        currency = group[0]["eventData"]["currency"]
        model[key] = {
            "_id": key,
            "organizationId": group[0]["metadata"]["organizationId"],
            "status": EVENT_STATUS[group[0]["eventType"]],
            "currency": currency,
            "count": len(group),
            "totalMinor": sum(minors),
            "total": units(sum(minors), currency),
            "minMinor": min(minors),
            "maxMinor": max(minors),
        }
        if by_day:
            at = group[0]["timestamp"]
            model[key]["day"] = datetime(at.year, at.month, at.day, tzinfo=UTC)
        else:
            model[key] |= {
                "average": average(sum(minors), len(minors), exponent(currency)),
                "min": units(min(minors), currency),
                "max": units(max(minors), currency),
                "firstAt": min(d["timestamp"] for d in group),
                "lastAt": max(d["timestamp"] for d in group),
            }
    return model


def reference_quarters(documents: list[Document]) -> dict[str, Document]:
    model: dict[str, Document] = {}
    for d in documents:
        at, status = d["timestamp"], EVENT_STATUS[d["eventType"]]
        quarter = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
        organization, currency = d["metadata"]["organizationId"], d["eventData"]["currency"]
        key = f"{organization}|{quarter:%Y-%m-%dT%H:%M}|{currency}|{status}"
        row = model.setdefault(
            key,
            {
                "_id": key,
                "organizationId": organization,
                "quarter": quarter,
                "currency": currency,
                "status": status,
                "count": 0,
                "totalMinor": 0,
            },
        )
        row["count"] += 1
        row["totalMinor"] += d["eventData"]["amountMinor"]
    return model


def reference_reasons(documents: list[Document]) -> dict[str, Document]:
    model: dict[str, Document] = {}
    for d in documents:
        if d["eventType"] != "PaymentFailed":
            continue
        organization, currency = d["metadata"]["organizationId"], d["eventData"]["currency"]
        reason, day = d["eventData"]["reason"] or None, midnight(d["timestamp"])
        key = f"{day:%Y-%m-%d}|{currency}|{len(organization)}|{organization}|{reason or ''}"
        row = model.setdefault(
            key,
            {
                "_id": key,
                "organizationId": organization,
                "day": day,
                "currency": currency,
                "reason": reason,
                "count": 0,
                "totalMinor": 0,
            },
        )
        row["count"] += 1
        row["totalMinor"] += d["eventData"]["amountMinor"]
        row["total"] = units(row["totalMinor"], currency)
    return model


def midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def counted(rows: Iterable[tuple[str, Document, dict[str, int]]]) -> dict[str, Document]:
    """Key, what is grouped by, what is summed."""
    model: dict[str, Document] = {}
    for key, by, totals in rows:
        row = model.setdefault(key, {"_id": key, **by, **dict.fromkeys(totals, 0)})
        row.update({name: row[name] + value for name, value in totals.items()})
    return model


def reference_totals(payments: Iterable[Document]) -> Models:
    """Totals by the payments that are there at the end."""
    states, latency, recovery = [], [], []
    for p in payments:
        organization, currency = p["organizationId"], p["currency"]
        whose = {"organizationId": organization, "currency": currency}
        kind = "unreferenced" if p["unreferenced"] else "payment"
        states.append(
            (
                f"{organization}|{p['status']}|{kind}|{currency}",
                {**whose, "status": p["status"], "unreferenced": p["unreferenced"]},
                {"count": 1, "amountMinor": p["amountMinor"], "refundedMinor": p["refundedMinor"]},
            )
        )
        if p["completedAt"] and p["firstRefundAt"]:
            late = p["firstRefundAt"] - p["completedAt"]
            hours = late // timedelta(hours=1) if late < timedelta(days=7) else late.days * 24
            hours, day = max(hours, -1), midnight(p["completedAt"])
            latency.append(
                (
                    f"{organization}|{day:%Y-%m-%d}|{currency}|{hours}",
                    {**whose, "day": day, "bucket": hours},
                    {"payments": 1},
                )
            )
        if p["failuresBefore"]:
            day, recovered = midnight(p["firstFailedAt"]), p["completedAt"] is not None
            outcome = "recovered" if recovered else "not recovered"
            recovery.append(
                (
                    f"{organization}|{day:%Y-%m-%d}|{currency}|{p['failuresBefore']}|{outcome}",
                    {**whose, "day": day, "failuresBefore": p["failuresBefore"], "recovered": recovered},
                    {"payments": 1, "amountMinor": p["amountMinor"]},
                )
            )
    return {
        "payment_states": counted(states),
        "refund_latency": counted(latency),
        "retry_recovery": counted(recovery),
    }


def reference(name: str, documents: list[Document]) -> Models:
    match name:
        case "payment_read_models":
            payments = reference_payments(documents)
            return {name: payments, **reference_totals(payments.values())}
        case "payment_quarters":
            return {name: reference_quarters(documents)}
        case "failure_reasons":
            return {name: reference_reasons(documents)}
    return {name: reference_movements(documents, by_day=name == "payment_trends")}


@pytest.mark.parametrize("name", PROJECTIONS)
@given(
    seed=st.integers(0, 10_000), events=st.integers(1, 120), sizes=st.lists(st.integers(1, 40), max_size=8)
)
@settings(max_examples=25)
def test_any_batches_come_to_the_plain_fold(name: str, seed: int, events: int, sizes: list[int]) -> None:
    documents = payment_history(seed, events, payments=12)
    folded = in_batches(PROJECTIONS[name], documents, sizes)
    found = {
        model: {key: plain(document) for key, document in kept.items()} for model, kept in folded.items()
    }
    assert found == reference(name, documents)
    schema = PROJECTIONS[name].schema
    assert [wrong for document in folded[name].values() for wrong in misfits(schema, document)] == []


@pytest.mark.parametrize("name", [name for name in PROJECTIONS if PROJECTIONS[name].events is None])
def test_an_event_type_without_an_outcome_is_not_passed_over(name: str) -> None:
    with pytest.raises(ProjectionError, match="PaymentLost"):
        PROJECTIONS[name].fold(table([event(1, "p", "PaymentLost", 100)]))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_an_event_of_a_later_schema_is_not_taken_for_one_of_ours(name: str) -> None:
    later = {**event(1, "p", "PaymentFailed", 100), "schemaVersion": 2}
    with pytest.raises(ProjectionError, match="schema version 2"):
        PROJECTIONS[name].fold(table([later]))


@pytest.mark.parametrize("versions", [(1, 3), (1, 2, 2), (2, 1)])
def test_a_payment_whose_versions_do_not_follow_one_another_is_an_error(versions: tuple[int, ...]) -> None:
    events = [event(i, "p", "PaymentFailed", 100, version=v) for i, v in enumerate(versions, start=1)]
    with pytest.raises(ProjectionError, match="not in step.*rebuild payment_read_models"):
        PROJECTIONS["payment_read_models"].fold(table(events))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300)
instants = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)


@given(
    st.lists(
        st.builds(
            dict,
            payment=texts,
            organization=texts,
            user=st.none() | texts,
            reason=st.none() | texts,
            currency=st.sampled_from(["EUR", "JPY", "BHD", "CLF"]),
            minor=st.integers(1, 2**63 - 1),
            kind=st.sampled_from(["PaymentProcessed", "PaymentFailed", "PaymentRefunded"]),
            at=instants,
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda drawn: drawn["payment"],
    )
)
def test_a_payment_is_written_with_the_types_and_order_of_its_fields(drawn: list[dict[str, Any]]) -> None:
    """Byte for byte what the driver makes of the same document, whatever the texts, dates and amounts."""
    projection = PROJECTIONS["payment_read_models"]
    events = [
        event(
            i,
            d["payment"],
            d["kind"],
            d["minor"],
            **{name: d[name] for name in ("organization", "user", "reason", "currency", "at")},
            unreferenced=d["kind"] == "PaymentRefunded",
        )
        for i, d in enumerate(drawn, start=1)
    ]
    for d, e, document in zip(drawn, events, projection.render(projection.fold(table(events))), strict=True):
        failed, refunded = d["kind"] == "PaymentFailed", d["kind"] == "PaymentRefunded"
        amounts = {
            "amount": d["minor"],
            "refunded": d["minor"] if refunded else 0,
            "net": 0 if failed else -d["minor"] if refunded else d["minor"],
        }
        expected: Document = {
            "_id": d["payment"],
            "paymentId": d["payment"],
            "organizationId": d["organization"],
            "currency": d["currency"],
            "status": "failed" if failed else "refunded" if refunded else "completed",
            "userId": d["user"],
            "lastFailureReason": d["reason"] if failed else None,
            "completedAt": None if failed or refunded else d["at"],
            "firstRefundAt": d["at"] if refunded else None,
            "firstFailedAt": d["at"] if failed else None,
            "unreferenced": refunded,
        }
        for name, minor in amounts.items():
            expected[f"{name}Minor"] = Int64(minor)
            expected[name] = Decimal128(units(minor, d["currency"]))
        expected |= {
            "attempts": int(not refunded),
            "failures": int(failed),
            "refunds": int(refunded),
            "failuresBefore": int(failed),
            "openedAt": d["at"],
            "firstAt": d["at"],
            "lastAt": d["at"],
            "version": Int64(1),
            "firstPosition": e["position"],
            "position": e["position"],
        }
        assert bson.encode(document) == bson.encode(expected)


@pytest.mark.parametrize("name", [name for name in PROJECTIONS if name != "payment_read_models"])
def test_a_sum_that_does_not_fit_64_bits_is_an_error_and_does_not_wrap(name: str) -> None:
    huge = [event(i, f"p{i}", "PaymentFailed", 2**62) for i in (1, 2, 3)]
    with pytest.raises(ProjectionError, match="64 bits"):
        PROJECTIONS[name].fold(table(huge))


@pytest.mark.parametrize("name", ["payment_states", "retry_recovery"])
def test_a_total_that_does_not_fit_64_bits_is_an_error_too(name: str) -> None:
    [totals] = [each for each in PAYMENTS.derived if each.name == name]
    payments = PAYMENTS.fold(table([event(i, f"p{i}", "PaymentFailed", 2**62) for i in (1, 2, 3)]))
    with pytest.raises(ProjectionError, match="64 bits"):
        totals.contributions(payments)
    one, two = (totals.contributions(payments[i : i + 1]) for i in (0, 1))
    with pytest.raises(ProjectionError, match="64 bits"):
        derived.change(totals, [one, two], [])


def test_organizations_and_reasons_that_look_like_keys_stay_apart() -> None:
    """No text can be made that counts in another organization's row."""
    day = "2026-01-30|EUR|1|a"
    events = [
        event(1, "p", "PaymentFailed", 1, organization="a", reason=f"x|{day}|y"),
        event(2, "q", "PaymentFailed", 10, organization=f"a|x|{day}", reason="y"),
        event(3, "r", "PaymentFailed", 100, organization="a", reason=None),
        event(4, "s", "PaymentFailed", 1_000, organization="a", reason=""),
    ]
    rows = PROJECTIONS["failure_reasons"].fold(table(events))
    assert rows.height == 3
    assert rows.filter(pl.col("organizationId") == "a")["totalMinor"].to_list() == [1, 1_100]


@pytest.mark.parametrize(
    ("late", "bucket"),
    [
        (timedelta(0), 0),
        (timedelta(milliseconds=-1), -1),
        (timedelta(days=-90), -1),
        (timedelta(hours=1, milliseconds=-1), 0),
        (timedelta(hours=1), 1),
        (timedelta(days=7, milliseconds=-1), 167),
        (timedelta(days=7), 168),
        (timedelta(days=8, milliseconds=-1), 168),
        (timedelta(days=400), 9_600),
    ],
)
def test_the_time_to_a_refund_is_kept_by_the_hour_and_after_a_week_by_the_day(
    late: timedelta, bucket: int
) -> None:
    at = datetime(2026, 5, 1, 23, 59, tzinfo=UTC)
    events = [
        event(1, "p", "PaymentProcessed", 100, at=at),
        event(2, "p", "PaymentRefunded", 1, at=at + late + timedelta(days=1), version=2),
        event(3, "p", "PaymentRefunded", 1, at=at + late, version=3),  # the earlier one, told later
    ]
    [totals] = [each for each in PAYMENTS.derived if each.name == "refund_latency"]
    [row] = totals.contributions(PAYMENTS.fold(table(events))).to_dicts()
    assert (row["bucket"], row["day"], row["payments"]) == (bucket, datetime(2026, 5, 1, tzinfo=UTC), 1)


def test_a_failure_told_after_completion_is_none_before_it() -> None:
    events = [
        event(1, "p", "PaymentFailed", 100, attempt=1),
        event(2, "p", "PaymentProcessed", 90, attempt=2, version=2),
        event(3, "p", "PaymentFailed", 100, attempt=3, version=3),
        event(4, "q", "PaymentProcessed", 50, attempt=1),
        event(5, "q", "PaymentFailed", 50, attempt=2, version=2),
        event(6, "r", "PaymentFailed", 7, attempt=1),
        event(7, "r", "PaymentFailed", 8, attempt=2, version=2),
    ]
    [totals] = [each for each in PAYMENTS.derived if each.name == "retry_recovery"]
    rows = totals.contributions(PAYMENTS.fold(table(events))).to_dicts()
    found = [(r["failuresBefore"], r["recovered"], r["payments"], r["amountMinor"]) for r in rows]
    assert found == [(1, True, 1, 90), (2, False, 1, 8)]


def test_the_average_is_rounded_half_even_to_two_decimals_more() -> None:
    assert average(1, 3, 2) == Decimal("0.0033")
    assert average(1, 8, 0) == Decimal("0.12")
    assert average(3, 8, 0) == Decimal("0.38")
    assert average(10**18 + 1, 3, 3) == Decimal("333333333333333.33367")


def test_the_reference_sees_what_the_histories_hold() -> None:
    """The random histories reach every status, so that equality above means something."""
    documents = payment_history(random.Random(1).randrange(1000), 2_000, payments=300)
    model = reference_payments(documents).values()
    assert {(m["status"], m["unreferenced"]) for m in model} == {
        ("failed", False),
        ("completed", False),
        ("partially_refunded", False),
        ("refunded", False),
        ("refunded", True),
    }
    assert any(m["failures"] and m["status"] == "completed" and m["attempts"] > 1 for m in model)
    totals = reference_totals(model)
    assert {row["bucket"] < 0 for row in totals["refund_latency"].values()} == {True, False}
    assert any(row["bucket"] >= 168 for row in totals["refund_latency"].values())
    assert {row["recovered"] for row in totals["retry_recovery"].values()} == {True, False}
    assert max(row["failuresBefore"] for row in totals["retry_recovery"].values()) > 1
