"""Events of every schema version are read by the model of today, and by nothing but the registry."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.domain.events import EVENT_STATUS, REGISTRY, SCHEMA_VERSION, PaymentProcessed, read_event
from ledgerlake.domain.money import Money
from ledgerlake.domain.registry import (
    EventRegistry,
    Model,
    RegistryError,
    UnknownEvent,
    UnreadableEvent,
    Upcaster,
)

Data = Mapping[str, Any]


@dataclass(frozen=True)
class SeatBooked:
    """As of version 3: version 1 had one `name` and a row and a number, version 2 a seat."""

    first_name: str
    last_name: str
    seat: str


@dataclass(frozen=True)
class SeatFreed:
    seat: str


def seat(data: dict[str, Any]) -> Data:
    data["seat"] = f"{data.pop('row')}{data.pop('number')}"  # a copy is ours to change
    return data


def names(data: dict[str, Any]) -> Data:
    first, _, last = data["name"].partition(" ")
    return {**{key: value for key, value in data.items() if key != "name"}, "first": first, "last": last}


BOOKED = Model("SeatBooked", 3, lambda data: SeatBooked(data["first"], data["last"], data["seat"]))
FREED = Model("SeatFreed", 1, lambda data: SeatFreed(data["seat"]))
SEATS: EventRegistry[SeatBooked | SeatFreed] = EventRegistry(
    [BOOKED, FREED], [Upcaster("SeatBooked", 2, names), Upcaster("SeatBooked", 1, seat)]
)
V1 = {"name": "Ada Lovelace", "row": "C", "number": 7}
V2 = {"name": "Ada Lovelace", "seat": "C7"}
V3 = {"first": "Ada", "last": "Lovelace", "seat": "C7"}


@pytest.mark.parametrize(("version", "data"), [(1, V1), (2, V2), (3, V3)])
def test_data_of_every_version_comes_to_the_same_event(version: int, data: Data) -> None:
    assert SEATS.upcast("SeatBooked", version, data) == V3
    assert SEATS.read("SeatBooked", version, data) == SeatBooked("Ada", "Lovelace", "C7")


def test_a_type_goes_its_own_way_from_version_to_version() -> None:
    assert SEATS.read("SeatFreed", 1, {"seat": "C7"}) == SeatFreed("C7")
    assert (SEATS.version("SeatBooked"), SEATS.version("SeatFreed")) == (3, 1)
    assert SEATS.event_types == ("SeatBooked", "SeatFreed")


texts = st.text(max_size=8)
words = st.text(alphabet=st.characters(exclude_characters=" "), max_size=8)
known = {"name", "row", "number", "seat", "first", "last"}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
unknown_fields = st.dictionaries(texts.filter(lambda name: name not in known), values, max_size=4)
oldest = st.fixed_dictionaries(
    {"name": st.builds("{} {}".format, words, words), "row": texts, "number": st.integers()}
)


@given(oldest, unknown_fields)
def test_upcasting_and_then_reading_equals_reading_and_loses_no_field(old: Any, unknown: Any) -> None:
    stored = {**old, **unknown}
    as_stored = copy.deepcopy(stored)
    event = SEATS.read("SeatBooked", 1, stored)
    second = seat(copy.deepcopy(stored))
    for version, data in ((2, second), (3, names(dict(second)))):
        assert SEATS.read("SeatBooked", version, data) == event
    upcasted = SEATS.upcast("SeatBooked", 1, stored)
    assert SEATS.read("SeatBooked", 3, upcasted) == event
    assert SEATS.upcast("SeatBooked", 3, upcasted) == upcasted
    assert {name: upcasted[name] for name in unknown} == unknown
    assert stored == as_stored


def test_an_upcaster_that_changes_what_it_gets_leaves_the_stored_data_alone() -> None:
    def deep(data: dict[str, Any]) -> Data:
        data["route"]["stops"].append("end")
        return data

    trips = EventRegistry(
        [Model("Trip", 2, lambda data: data["route"]["stops"])], [Upcaster("Trip", 1, deep)]
    )
    stored = {"route": {"stops": ["start"]}}
    assert trips.read("Trip", 1, stored) == ["start", "end"]
    assert trips.read("Trip", 1, stored) == ["start", "end"]
    assert stored == {"route": {"stops": ["start"]}}


@pytest.mark.parametrize(
    ("event_type", "version"),
    [
        ("SeatBooked", 4),
        ("SeatBooked", 0),
        ("SeatBooked", -1),
        ("SeatBooked", True),
        ("SeatBooked", 1.0),
        ("SeatBooked", "1"),
        ("SeatBooked", None),
        ("SeatLost", 1),
        ("builtins.dict", 1),
        ("ledgerlake.domain.events:PaymentProcessed", 1),
        ("__class__", 1),
    ],
)
def test_an_unknown_type_or_version_is_a_clear_error_that_names_it(event_type: str, version: Any) -> None:
    with pytest.raises(UnknownEvent, match="upgrade") as unknown:
        SEATS.read(event_type, version, V1)
    assert f"{event_type!r} with schema version {version!r}" in str(unknown.value)


def test_there_is_no_version_to_write_of_a_type_without_a_model() -> None:
    with pytest.raises(UnknownEvent, match="SeatLost"):
        SEATS.version("SeatLost")


@pytest.mark.parametrize(
    ("version", "data"), [(1, {"name": "Ada"}), (2, {"name": None}), (3, {"first": "Ada"})]
)
def test_data_that_is_not_what_its_version_promises_is_an_error_that_names_the_type(
    version: int, data: Data
) -> None:
    with pytest.raises(UnreadableEvent, match=f"'SeatBooked' with schema version {version}"):
        SEATS.read("SeatBooked", version, data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EventRegistry([FREED, FREED]), "two models"),
        (lambda: EventRegistry([FREED], [Upcaster("SeatBooked", 1, seat)]), "no model"),
        (lambda: EventRegistry([BOOKED]), "Nothing upcasts event type 'SeatBooked' with schema version 1"),
        (lambda: EventRegistry([BOOKED], [Upcaster("SeatBooked", 2, names)]), "schema version 1"),
        (lambda: EventRegistry([BOOKED], [Upcaster("SeatBooked", 1, seat)]), "schema version 2"),
        (lambda: EventRegistry([FREED], [Upcaster("SeatFreed", 1, seat)]), "the model reads version 1"),
        (lambda: EventRegistry([FREED], [Upcaster("SeatFreed", 0, seat)]), "the model reads version 1"),
        (
            lambda: EventRegistry(
                [Model("SeatFreed", 2, FREED.read)],
                [Upcaster("SeatFreed", 1, seat), Upcaster("SeatFreed", 1, names)],
            ),
            "two upcasters",
        ),
        (lambda: EventRegistry([Model("SeatFreed", 0, FREED.read)]), "versions start at 1"),
    ],
)
def test_a_registry_with_a_hole_or_a_contradiction_is_refused_when_it_is_made(
    make: Callable[[], EventRegistry[Any]], message: str
) -> None:
    with pytest.raises(RegistryError, match=message):
        make()


def test_fields_that_a_payment_does_not_know_are_ignored_and_kept() -> None:
    stored = {"amountMinor": 5, "currency": "EUR", "attempt": 1, "terminal": {"id": "t-1"}}
    assert read_event("PaymentProcessed", 1, stored) == PaymentProcessed(Money(5, "EUR"), 1)
    assert REGISTRY.upcast("PaymentProcessed", 1, stored) == stored


@pytest.mark.parametrize("minor", [1.5, "5", True, None])
def test_an_amount_of_another_type_is_never_converted(minor: Any) -> None:
    with pytest.raises(UnreadableEvent, match="amountMinor"):
        read_event("PaymentProcessed", 1, {"amountMinor": minor, "currency": "EUR", "attempt": 1})


def test_every_payment_event_has_a_model_of_the_version_that_the_columns_hold() -> None:
    assert {kind: REGISTRY.version(kind) for kind in REGISTRY.event_types} == dict.fromkeys(
        EVENT_STATUS, SCHEMA_VERSION
    )


def test_nothing_in_the_data_can_name_what_reads_it() -> None:
    hostile = json.loads('{"__class__": "os.system", "py/object": "os.system", "seat": "C7"}')
    assert SEATS.read("SeatFreed", 1, hostile) == SeatFreed("C7")


def test_an_upcaster_that_returns_nothing_is_an_error_that_names_the_event() -> None:
    registry = EventRegistry([Model("Opened", 2, dict)], [Upcaster("Opened", 1, lambda data: None)])  # type: ignore[arg-type,return-value]
    with pytest.raises(UnreadableEvent, match="'Opened' with schema version 1"):
        registry.upcast("Opened", 1, {})


def test_a_currency_that_is_none_is_an_unreadable_event_and_no_advice_to_whoever_types_one() -> None:
    with pytest.raises(UnreadableEvent, match="repair or restore this event"):
        read_event("PaymentProcessed", 1, {"amountMinor": 1, "currency": "ZZZ", "attempt": 1})
