"""What every event store promises its readers."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from bson import Binary, Decimal128, Int64, ObjectId

from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.testing.cases.sample import NOON, Store, append, event, places, refusal


class ReadingCases:
    """Reading streams and the log.

    `store` is open on an empty log; `other` is a second one on the same log, as another process has it
    (or the same one again, where a log can have no second).
    """

    def test_an_empty_log_reads_as_nothing(self, store: Store) -> None:
        assert store.head() == 0
        assert store.read_stream("a") == []
        assert store.read_streams(["a"]) == {}
        assert list(store.read_all()) == []
        assert store.read_correlation("correlation") == []
        assert store.find_commands(["c"]) == {}
        assert store.stream_version("a") is None
        assert store.checkpoint("consumer") == 0

    def test_an_event_is_read_back_as_it_was_appended(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        new = NewEvent("Opened", {"n": 1}, NOON, "corr", "cause", {"userId": "u", "free": "key"}, 7)
        store.append(Append("a", "Account", [new], NO_STREAM, "c", "h"))
        (read,) = store.read_stream("a")
        assert read.event_id
        assert (read.stream_id, read.aggregate_type, read.event_type) == ("a", "Account", "Opened")
        assert (read.version, read.position, read.schema_version) == (1, 1, 7)
        assert (read.correlation_id, read.causation_id, read.command_id) == ("corr", "cause", "c")
        assert dict(read.data) == {"n": 1}
        assert dict(read.metadata) == {"userId": "u", "free": "key", "requestHash": "h"}
        assert read.timestamp == NOON
        assert before <= read.recorded_at <= datetime.now(UTC) + timedelta(seconds=1)
        assert read.recorded_at.tzinfo is not None

    def test_every_way_of_reading_gives_the_same_event(self, store: Store, other: Store) -> None:
        store.append(append("a", NO_STREAM, "c", events=[event(correlation="x")]))
        (read,) = store.read_stream("a")
        for each in (store, other):
            assert each.read_stream("a") == [read]
            assert each.read_streams(["a"]) == {"a": [read]}
            assert list(each.read_all()) == [read]
            assert each.read_correlation("x") == [read]
            assert each.find_commands(["c"]) == {"c": read}

    def test_a_stream_is_read_forwards_and_backwards(self, store: Store) -> None:
        store.append(append("a", events=2))
        store.append(append("b"))
        store.append(append("a"))
        assert places(store.read_stream("a")) == [("a", 1, 1), ("a", 2, 2), ("a", 3, 4)]
        assert places(store.read_stream("a", backwards=True)) == [("a", 3, 4), ("a", 2, 2), ("a", 1, 1)]
        assert (store.stream_version("a"), store.stream_version("b")) == (3, 1)

    def test_the_bounds_of_a_stream_are_inclusive_whichever_the_direction(self, store: Store) -> None:
        store.append(append("a", events=5))

        def versions(**bounds: Any) -> list[int]:
            return [each.version for each in store.read_stream("a", **bounds)]

        assert versions(from_version=2) == [2, 3, 4, 5]
        assert versions(to_version=4) == [1, 2, 3, 4]
        assert versions(from_version=2, to_version=4) == [2, 3, 4]
        assert versions(from_version=2, to_version=4, backwards=True) == [4, 3, 2]
        assert versions(from_version=3, to_version=3) == [3]
        assert versions(from_version=0, to_version=99) == [1, 2, 3, 4, 5]
        assert (
            versions(from_version=6) == versions(to_version=0) == versions(from_version=4, to_version=2) == []
        )

    def test_a_limit_counts_from_where_the_reading_starts(self, store: Store) -> None:
        store.append(append("a", events=5))

        def versions(**bounds: Any) -> list[int]:
            return [each.version for each in store.read_stream("a", **bounds)]

        assert versions(limit=2) == [1, 2]
        assert versions(limit=2, backwards=True) == [5, 4]
        assert versions(from_version=2, limit=2) == [2, 3]
        assert versions(to_version=4, limit=2, backwards=True) == [4, 3]
        assert versions(limit=9) == [1, 2, 3, 4, 5]
        assert versions(limit=0) == []
        assert list(store.read_all(limit=0)) == []
        refusal(ValueError, store.read_stream, "a", limit=-1)
        refusal(ValueError, lambda: list(store.read_all(limit=-1)))
        refusal(ValueError, lambda: list(store.read_all(-1)))

    def test_several_streams_are_read_at_once(self, store: Store) -> None:
        store.append_many([append("a", events=2), append("b"), append("a"), append("c")])
        streams = store.read_streams(["b", "a", "nobody", "a"])
        assert {stream: places(events) for stream, events in streams.items()} == {
            "a": [("a", 1, 1), ("a", 2, 2), ("a", 3, 4)],
            "b": [("b", 1, 3)],
        }
        assert store.read_streams([]) == {}
        first = store.read_streams(["a", "b"], to_version=2)
        assert {stream: [event.version for event in events] for stream, events in first.items()} == {
            "a": [1, 2],
            "b": [1],
        }
        assert store.read_streams(["a", "b"], to_version=0) == {}

    def test_the_log_is_read_in_position_order_between_two_positions(self, store: Store) -> None:
        store.append_many([append("a", events=2), append("b", events=2), append("a", events=2)])

        def positions(*after: int, **bounds: Any) -> list[int]:
            return [each.position for each in store.read_all(*after, **bounds)]

        assert positions() == [1, 2, 3, 4, 5, 6]
        assert [each.stream_id for each in store.read_all()] == ["a", "a", "b", "b", "a", "a"]
        assert positions(2) == [3, 4, 5, 6]
        assert positions(2, up_to=4) == [3, 4]
        assert positions(2, limit=3) == [3, 4, 5]
        assert positions(1, up_to=9, limit=9) == [2, 3, 4, 5, 6]
        assert positions(up_to=0) == positions(6) == positions(99) == positions(4, up_to=4) == []
        assert store.head() == 6

    def test_a_filter_names_event_types_aggregate_types_and_organizations(self, store: Store) -> None:
        def mixed(kind: str, organization: str | None) -> Append:
            events = [event(name, organization=organization) for name in ("Opened", "Closed")]
            return append(f"{kind} of {organization}", events=events, kind=kind)

        store.append_many([mixed("Account", "acme"), mixed("Card", "acme"), mixed("Card", "bolt")])
        store.append(mixed("Card", None))

        def positions(*after: int, limit: int | None = None, **only: list[str]) -> list[int]:
            chosen = store.read_all(*after, limit=limit, only=EventFilter.of(**only))
            return [each.position for each in chosen]

        assert positions(event_types=["Closed"]) == [2, 4, 6, 8]
        assert positions(aggregate_types=["Account"]) == [1, 2]
        assert positions(organizations=["acme"]) == [1, 2, 3, 4]
        assert positions(organizations=["acme", "bolt"]) == [1, 2, 3, 4, 5, 6]
        assert positions(event_types=["Opened"], aggregate_types=["Card"], organizations=["bolt"]) == [5]
        assert positions(4, event_types=["Opened", "Closed"]) == [5, 6, 7, 8]
        assert positions(event_types=["Closed"], limit=2) == [2, 4]
        assert positions(event_types=[]) == positions(organizations=["nobody"]) == []

    def test_the_events_of_one_correlation_come_in_position_order(self, store: Store) -> None:
        for stream, correlation in (("b", "x"), ("a", "y"), ("a", "x"), ("b", "y"), ("a", "x")):
            store.append(append(stream, events=[event(correlation=correlation)]))
        assert places(store.read_correlation("x")) == [("b", 1, 1), ("a", 2, 3), ("a", 3, 5)]
        assert store.read_correlation("nobody") == []

    def test_a_command_leads_to_the_last_event_of_its_append(self, store: Store) -> None:
        store.append_many([append("a", command="c1", events=2), append("b"), append("b", command="c2")])
        found = store.find_commands(["c2", "c1", "unknown"])
        assert {command: places([read]) for command, read in found.items()} == {
            "c1": [("a", 2, 2)],
            "c2": [("b", 2, 4)],
        }
        assert found["c1"].command_id == "c1"
        assert store.read_stream("a")[0].command_id is None
        assert store.find_commands([]) == {}

    def test_values_of_any_bson_type_and_fields_nobody_knows_survive(
        self, store: Store, other: Store
    ) -> None:
        values = {
            "decimal": Decimal128("1.00"),
            "long": Int64(7),
            "int": 7,
            "large": 2**62,
            "float": 0.1,
            "true": True,
            "nothing": None,
            "bytes": b"\x00\xff",
            "binary": Binary(b"typed", 5),
            "id": ObjectId("0123456789abcdef01234567"),
            "text": "zażółć 💶\x00",
            "list": [1, ["two", {"three": 3}], []],
            "nested": {"": {"a.b": {"$c": 1}}, "empty": {}},
        }
        known_to_nobody = event(data={**values, "unknownField": {"deep": ["down"]}})
        store.append(append("a", events=[known_to_nobody]))
        for each in (store, other):
            data = each.read_stream("a")[0].data
            assert dict(data) == {**values, "unknownField": {"deep": ["down"]}}
            kinds = {name: type(value) for name, value in data.items()}
            assert (kinds["decimal"], kinds["long"], kinds["int"]) == (Decimal128, Int64, int)
            assert (kinds["large"], kinds["bytes"], kinds["true"]) == (Int64, bytes, bool)
            assert list(data) == [*values, "unknownField"], "fields keep their order"

    def test_a_time_is_an_instant_in_utc_to_the_millisecond(self, store: Store) -> None:
        paris = timezone(timedelta(hours=2))
        there = datetime(2026, 6, 1, 14, 0, 0, 123_999, tzinfo=paris)
        store.append(append("a", events=[event(timestamp=there, data={"at": there})]))
        (read,) = store.read_stream("a")
        stored = NOON + timedelta(milliseconds=123)
        assert (read.timestamp, read.data["at"]) == (stored, stored)
        assert read.timestamp.utcoffset() == read.data["at"].utcoffset() == timedelta(0)

    def test_nobody_shares_a_dictionary_with_the_log(self, store: Store) -> None:
        """Neither what a writer does to its own afterwards nor what a reader does to his changes an event."""
        data: dict[str, Any] = {"list": [1], "nested": {"n": 1}}
        original = copy.deepcopy(data)
        metadata = {"userId": "u"}
        store.append(Append("a", "Account", [NewEvent("Opened", data, NOON, "c", "c", metadata)]))
        data["list"].append(2)
        data["nested"]["n"] = 2
        metadata["userId"] = "someone else"
        (read,) = store.read_stream("a")
        assert (dict(read.data), dict(read.metadata)) == (original, {"userId": "u"})
        read.data["nested"]["n"] = 3
        (again,) = store.read_all()
        assert dict(again.data) == original

    def test_a_reading_of_the_log_can_be_left_early(self, store: Store) -> None:
        store.append(append("a", events=3))
        for each in store.read_all():
            assert each.position == 1
            break
        store.append(append("a"))
        assert store.head() == 4
