"""The folds of the projections against a plain fold, event by event, in whatever batches the log is read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
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
from ledgerlake.projections import PROJECTIONS, Projection, ProjectionError
from ledgerlake.projections.statistics import average
from tests.builders import event, payment_history

Document = dict[str, Any]


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
        "reason": pl.String,
        "unreferenced": pl.Boolean,
        "schema_version": pl.Int32,
    }
    rows = {name: [value(document, PATHS[name]) for document in documents] for name in columns}
    rows["unreferenced"] = [bool(flag) for flag in rows["unreferenced"]]
    return pl.DataFrame(rows, schema=columns)


def in_batches(
    projection: Projection, documents: list[Document], sizes: Sequence[int]
) -> dict[str, Document]:
    """What the engine does with the log, without a database."""
    model: dict[str, Document] = {}
    rest = documents
    for size in [*sizes, len(documents)]:
        batch, rest = rest[:size], rest[size:]
        if not batch:
            continue
        deltas = projection.fold(table(batch))
        fresh = deltas.filter(projection.starts)
        model.update(zip(fresh["key"], read(projection.render(fresh)), strict=True))
        deltas = deltas.filter(~projection.starts)
        stored = [model[key] for key in deltas["key"] if key in model]
        if stored:
            deltas = projection.merge(pl.concat([projection.recall(stored), deltas]))
        model.update(zip(deltas["key"], read(projection.render(deltas)), strict=True))
    return model


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
            "refunds": sum(e["eventType"] == "PaymentRefunded" for e in events),
            "lastFailureReason": failed[-1]["eventData"]["reason"] if failed else None,
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


def reference(name: str, documents: list[Document]) -> dict[str, Document]:
    if name == "payment_read_models":
        return reference_payments(documents)
    return reference_movements(documents, by_day=name == "payment_trends")


@pytest.mark.parametrize("name", PROJECTIONS)
@given(
    seed=st.integers(0, 10_000), events=st.integers(1, 120), sizes=st.lists(st.integers(1, 40), max_size=8)
)
@settings(max_examples=40)
def test_any_batches_come_to_the_plain_fold(name: str, seed: int, events: int, sizes: list[int]) -> None:
    documents = payment_history(seed, events, payments=12)
    folded = in_batches(PROJECTIONS[name], documents, sizes)
    assert {key: plain(document) for key, document in folded.items()} == reference(name, documents)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_an_event_type_without_an_outcome_is_not_passed_over(name: str) -> None:
    with pytest.raises(ProjectionError, match="PaymentLost"):
        PROJECTIONS[name].fold(table([event(1, "p", "PaymentLost", 100)]))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_an_event_of_a_later_schema_is_not_taken_for_one_of_ours(name: str) -> None:
    later = {**event(1, "p", "PaymentProcessed", 100), "schemaVersion": 2}
    with pytest.raises(ProjectionError, match="schema version 2"):
        PROJECTIONS[name].fold(table([later]))


@pytest.mark.parametrize("versions", [(1, 3), (1, 2, 2), (2, 1)])
def test_a_payment_whose_versions_do_not_follow_one_another_is_an_error(versions: tuple[int, ...]) -> None:
    events = [event(i, "p", "PaymentFailed", 100, version=v) for i, v in enumerate(versions, start=1)]
    with pytest.raises(ProjectionError, match="not in step.*--rebuild payment_read_models"):
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
            "unreferenced": refunded,
        }
        for name, minor in amounts.items():
            expected[f"{name}Minor"] = Int64(minor)
            expected[name] = Decimal128(units(minor, d["currency"]))
        expected |= {
            "attempts": int(not refunded),
            "failures": int(failed),
            "refunds": int(refunded),
            "firstAt": d["at"],
            "lastAt": d["at"],
            "version": Int64(1),
            "firstPosition": e["position"],
            "position": e["position"],
        }
        assert bson.encode(document) == bson.encode(expected)


@pytest.mark.parametrize("name", ["payment_statistics", "payment_trends"])
def test_a_sum_that_does_not_fit_64_bits_is_an_error_and_does_not_wrap(name: str) -> None:
    huge = [event(i, f"p{i}", "PaymentProcessed", 2**62) for i in (1, 2, 3)]
    with pytest.raises(ProjectionError, match="64 bits"):
        PROJECTIONS[name].fold(table(huge))


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
