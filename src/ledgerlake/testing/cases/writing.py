"""What every event store promises those who append to it one stream at a time."""

from __future__ import annotations

from dataclasses import replace

from ledgerlake.eventstore.expected import ANY, NO_STREAM, STREAM_EXISTS, after, exact
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CommandIdReused,
    ConcurrencyError,
    EventStoreError,
    EventTooLarge,
)
from ledgerlake.testing.cases.sample import Store, append, assert_whole, event, places, refusal


class WritingCases:
    """Appending: expected versions, commands that happen once, and what is refused.

    `store` is open on an empty log; `other` is a second one on the same log, as another process has it
    (or the same one again, where a log can have no second).
    """

    def test_an_append_says_where_its_last_event_stands(self, store: Store, other: Store) -> None:
        assert store.append(append("a", events=2)) == Appended("a", 2, 2)
        assert other.append(append("b")) == Appended("b", 1, 3)
        assert store.append(append("a")) == Appended("a", 3, 4)
        assert store.head() == other.head() == 4

    def test_an_append_is_accepted_only_on_the_version_it_expects(self, store: Store, other: Store) -> None:
        for number, (expected, on_new, on_existing) in enumerate(
            [
                (NO_STREAM, True, False),
                (STREAM_EXISTS, False, True),
                (ANY, True, True),
                (exact(2), False, True),
                (exact(1), False, False),
                (exact(3), False, False),
                (after(0), True, False),
                (after(2), False, True),
            ]
        ):
            there = f"existing-{number}"
            other.append(append(there, events=2))
            for stream, accepted, actual in ((f"new-{number}", on_new, None), (there, on_existing, 2)):
                head = store.head()
                wanted = append(stream, expected)
                if accepted:
                    version = 1 if actual is None else actual + 1
                    assert store.append(wanted) == Appended(stream, version, head + 1)
                    continue
                conflict = refusal(ConcurrencyError, store.append, wanted)
                assert (conflict.stream_id, conflict.expected, conflict.actual) == (stream, expected, actual)
                assert store.head() == head
                assert store.stream_version(stream) == actual
        assert_whole(store)

    def test_a_conflict_says_which_stream_what_was_expected_and_what_is(self, store: Store) -> None:
        store.append(append("there", events=2))
        for stream, expected, says in (
            ("there", exact(1), ("'there'", "version 1", "at version 2")),
            ("there", NO_STREAM, ("'there'", "no stream", "at version 2")),
            ("nowhere", exact(4), ("'nowhere'", "version 4", "there is no such stream")),
            ("nowhere", STREAM_EXISTS, ("'nowhere'", "stream exists", "there is no such stream")),
        ):
            wanted = append(stream, expected)
            message = str(refusal(ConcurrencyError, store.append, wanted))
            assert [part for part in says if part not in message] == []

    def test_a_stream_starts_at_the_version_it_is_given(self, store: Store, other: Store) -> None:
        """Some count events from 1, some from 0; a stream that exists goes on from where it is."""
        assert store.append(append("zero", NO_STREAM, events=2, first_version=0)).version == 1
        assert store.append(append("one", NO_STREAM, events=2, first_version=1)).version == 2
        assert [each.version for each in other.read_stream("zero")] == [0, 1]
        assert other.append(append("zero", exact(1), first_version=1)).version == 2
        assert other.append(append("one", exact(2), first_version=0)).version == 3
        assert store.append(append("single", NO_STREAM, first_version=0)).version == 0
        assert store.stream_version("single") == 0
        for first_version in (0, 1):
            again = append("single", NO_STREAM, first_version=first_version)
            assert refusal(ConcurrencyError, other.append, again).actual == 0
        assert other.append(append("single", exact(0), first_version=0)).version == 1
        assert other.append(append("single", STREAM_EXISTS)).version == 2
        assert_whole(store)

    def test_a_command_is_stored_once_however_often_it_is_sent(self, store: Store, other: Store) -> None:
        wanted = append("a", NO_STREAM, "c", events=2)
        assert store.append(wanted) == Appended("a", 2, 2)
        store.append(append("a"))
        for again in (store, other, store):
            assert again.append(wanted) == Appended("a", 2, 2, duplicate=True)
        assert store.append(append("a", exact(99), "c", events=2)).duplicate, "whatever it expects by now"
        assert store.head() == 3

    def test_without_a_command_id_an_append_is_a_new_one_each_time(self, store: Store) -> None:
        wanted = append("a")
        assert [store.append(wanted).version for _ in range(3)] == [1, 2, 3]

    def test_a_command_id_with_other_content_is_refused(self, store: Store, other: Store) -> None:
        store.append(append("a", command="c"))
        for each in (store, other):
            for wanted in (
                append("a", command="c", request="different"),
                append("a", command="c", request=None),
                append("elsewhere", command="c"),
            ):
                reused = refusal(CommandIdReused, each.append, wanted)
                assert (reused.command_id, reused.stream_id) == ("c", "a")
                assert "'c'" in str(reused)
                assert "'a'" in str(reused)
        assert store.head() == 1

    def test_one_conflict_leaves_the_rest_of_the_batch_alone(self, store: Store, other: Store) -> None:
        other.append(append("taken", command="t"))
        outcomes = store.append_many(
            [
                append("a", NO_STREAM, "a"),
                append("taken", NO_STREAM, "x"),
                append("b", NO_STREAM, "b", events=2),
                append("gone", STREAM_EXISTS),
                append("taken", NO_STREAM, "t"),
                append("a", exact(1)),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [
            Appended,
            ConcurrencyError,
            Appended,
            ConcurrencyError,
            Appended,
            Appended,
        ]
        assert [each for each in outcomes if isinstance(each, Appended)] == [
            Appended("a", 1, 2),
            Appended("b", 2, 4),
            Appended("taken", 1, 1, duplicate=True),
            Appended("a", 2, 5),
        ]
        assert assert_whole(store) == 5

    def test_what_was_decided_on_a_refused_append_is_refused_too(self, store: Store, other: Store) -> None:
        """The second append fits the version number, but not the event that the writer thought was there."""
        other.append(append("a", NO_STREAM, "theirs"))
        outcomes = store.append_many([append("a", NO_STREAM, "mine"), append("a", exact(1), "mine too")])
        assert [type(each) for each in outcomes] == [ConcurrencyError, ConcurrencyError]
        assert [each.broken for each in outcomes if isinstance(each, ConcurrencyError)] == [False, True]
        assert store.append(append("a", exact(1))).version == 2, "another request decides for itself"

    def test_what_was_decided_on_a_repetition_is_refused_too(self, store: Store, other: Store) -> None:
        """Its writer believes the first append to be new, and the stream to be where that one leaves it."""
        first = append("a", NO_STREAM, "c")
        other.append(first)
        again, refused, other_stream = store.append_many([first, append("a", exact(1)), append("b")])
        assert again == Appended("a", 1, 1, duplicate=True)
        assert isinstance(refused, ConcurrencyError)
        assert refused.broken
        assert other_stream == Appended("b", 1, 2)

    def test_a_repetition_inside_one_batch_is_stored_once(self, store: Store) -> None:
        wanted = append("a", NO_STREAM, "c")
        assert store.append_many([wanted, wanted]) == [
            Appended("a", 1, 1),
            Appended("a", 1, 1, duplicate=True),
        ]
        first, reused = store.append_many(
            [append("b", command="d"), append("b", command="d", request="else")]
        )
        assert first == Appended("b", 1, 2)
        assert isinstance(reused, CommandIdReused)
        assert store.head() == 2

    def test_what_was_submitted_can_be_waited_for(self, store: Store) -> None:
        pending = [store.submit([append(f"s{number}", NO_STREAM)]) for number in range(20)]
        assert [each.wait() for each in pending] == [[Appended(f"s{n}", 1, n + 1)] for n in range(20)]

    def test_nothing_is_stored_where_there_is_nothing_to_store(self, store: Store) -> None:
        assert store.append_many([]) == []
        assert store.append_atomically([]) == []
        for call in (
            lambda: store.append(append("a", events=0)),
            lambda: store.append_many([append("b"), append("a", events=0)]),
            lambda: store.append_atomically([append("b"), append("a", events=0)]),
        ):
            assert "at least one event" in str(refusal(ValueError, call))
        assert store.head() == 0

    def test_more_appends_than_a_batch_holds_are_refused_as_a_whole(self, store: Store) -> None:
        most = [append(f"s{number}") for number in range(500)]
        assert len(store.append_many(most)) == 500
        assert "501" in str(refusal(ValueError, lambda: store.append_many([*most, append("one more")])))
        assert store.head() == 500

    def test_an_event_that_is_too_large_is_refused_and_the_store_goes_on(self, store: Store) -> None:
        large = append("large", events=[event(), event(data={"text": "x" * 1_100_000})])
        error = refusal(EventTooLarge, lambda: store.append(large))
        assert "'large'" in str(error)
        refusal(EventTooLarge, lambda: store.append_atomically([append("small"), large]))
        assert store.append(append("small")) == Appended("small", 1, 1)

    def test_a_stream_starts_at_0_or_1_and_nowhere_else(self, store: Store) -> None:
        refusal(ValueError, lambda: store.append(replace(append("a"), first_version=7)))
        assert store.head() == 0

    def test_the_metadata_key_of_the_store_itself_is_refused(self, store: Store) -> None:
        taken = replace(event(), metadata={"requestHash": "mine"})
        error = refusal(ValueError, lambda: store.append(replace(append("a"), events=[taken])))
        assert "'requestHash'" in str(error)
        assert store.head() == 0

    def test_a_closed_store_takes_no_more_but_has_stored_what_it_was_given(
        self, store: Store, other: Store
    ) -> None:
        pending = [store.submit([append(f"s{number}")]) for number in range(50)]
        store.close()
        outcomes = [each.wait()[0] for each in pending]
        assert [each.position for each in outcomes if isinstance(each, Appended)] == list(range(1, 51))
        assert len(list(other.read_all())) == 50
        for call in (
            lambda: store.append(append("late")),
            lambda: store.append_atomically([append("late")]),
            lambda: store.submit([append("late")]).wait(),
        ):
            assert "closed" in str(refusal(EventStoreError, call))
        assert store.head() == 50
        store.close()

    def test_a_store_is_closed_at_the_end_of_its_with_block(self, store: Store) -> None:
        with store as entered:
            entered.append(append("a"))
        refusal(EventStoreError, lambda: store.append(append("late")))

    def test_streams_and_commands_may_have_any_name(self, store: Store, other: Store) -> None:
        names = ["", " ", "a.b", "$where", "zażółć 💶", "x" * 900, "\x00", "A", "a"]
        for number, name in enumerate(names):
            assert store.append(append(name, NO_STREAM, command=name)) == Appended(name, 1, number + 1)
        for number, name in enumerate(names):
            assert places(other.read_stream(name)) == [(name, 1, number + 1)]
            assert other.append(append(name, NO_STREAM, command=name)).duplicate

    def test_one_append_may_hold_many_events(self, store: Store) -> None:
        wanted = Append("a", "Account", [event(data={"n": n}) for n in range(600)], NO_STREAM)
        assert store.append(wanted) == Appended("a", 600, 600)
        assert [each.data["n"] for each in store.read_stream("a")] == list(range(600))
