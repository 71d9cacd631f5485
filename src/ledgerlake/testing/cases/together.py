"""What every event store promises of appends that belong together, and of writers that meet."""

from __future__ import annotations

import random
import threading

from ledgerlake.eventstore.expected import ANY, NO_STREAM, exact
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointConflict,
    CheckpointMove,
    CommandIdReused,
    ConcurrencyError,
    StoredEvent,
)
from ledgerlake.testing.cases.sample import Store, append, assert_whole, at_once, event, places, refusal


class AtomicCases:
    """Several streams and a checkpoint in one transaction. `store` and `other` as for WritingCases."""

    def test_appends_to_several_streams_are_stored_together(self, store: Store, other: Store) -> None:
        other.append(append("b"))
        stored = store.append_atomically(
            [append("a", NO_STREAM, "c", events=2), append("b", exact(1)), append("a", exact(2))]
        )
        assert stored == [Appended("a", 2, 3), Appended("b", 2, 4), Appended("a", 3, 5)]
        assert assert_whole(other) == 5

    def test_a_repetition_moves_a_checkpoint_that_still_stands_before_it(self, store: Store) -> None:
        store.append(append("a", NO_STREAM, "c"))
        for _ in range(2):
            [again] = store.append_atomically([append("a", NO_STREAM, "c")], CheckpointMove("consumer", 5))
            assert again == Appended("a", 1, 1, duplicate=True)
            assert store.checkpoint("consumer") == 5

    def test_one_refusal_refuses_them_all(self, store: Store, other: Store) -> None:
        other.append(append("taken", command="used"))
        move = CheckpointMove("consumer", 1, after=0)
        conflict = refusal(
            ConcurrencyError,
            store.append_atomically,
            [append("a", NO_STREAM, "c"), append("taken", exact(9))],
            move,
        )
        assert (conflict.stream_id, conflict.expected, conflict.actual) == ("taken", exact(9), 1)
        reused = refusal(
            CommandIdReused,
            lambda: store.append_atomically(
                [append("a"), append("taken", command="used", request="x")], move
            ),
        )
        assert reused.command_id == "used"
        assert (store.head(), store.checkpoint("consumer"), store.stream_version("a")) == (1, 0, None)
        assert store.find_commands(["c"]) == {}
        assert store.append(append("a", NO_STREAM, "c")) == Appended("a", 1, 2), "its id is still free"

    def test_a_refusal_tells_what_the_stream_is_by_now(self, store: Store, other: Store) -> None:
        """Also where this store has seen an earlier state of it, and nothing is written that could object."""
        store.append(append("a"))
        other.append(append("a", events=2))
        conflict = refusal(ConcurrencyError, store.append_atomically, [append("a"), append("a", exact(9))])
        assert (conflict.expected, conflict.actual) == (exact(9), 4)
        other.append_atomically([], CheckpointMove("consumer", 7))
        late = refusal(CheckpointConflict, store.append_atomically, [], CheckpointMove("consumer", 0))
        assert late.actual == 7

    def test_a_checkpoint_moves_with_the_appends(self, store: Store, other: Store) -> None:
        first, second = CheckpointMove("consumer", 7, after=0), CheckpointMove("consumer", 9, after=7)
        store.append_atomically([append("a")], first)
        assert (store.checkpoint("consumer"), other.checkpoint("consumer")) == (7, 7)
        other.append_atomically([append("a"), append("b")], second)
        assert (store.checkpoint("consumer"), store.checkpoint("another")) == (9, 0)
        assert assert_whole(store) == 3

    def test_a_checkpoint_may_move_alone(self, store: Store, other: Store) -> None:
        assert store.append_atomically([], CheckpointMove("consumer", 5)) == []
        assert other.append_atomically([], CheckpointMove("consumer", 6, after=5)) == []
        assert store.append_atomically([], CheckpointMove("consumer", 2, after=6)) == [], (
            "back, if one says so"
        )
        assert (store.checkpoint("consumer"), store.head()) == (2, 0)

    def test_a_checkpoint_that_is_elsewhere_refuses_the_appends(self, store: Store, other: Store) -> None:
        other.append_atomically([], CheckpointMove("consumer", 5))
        for move, says in (
            (CheckpointMove("consumer", 9, after=4), "at 4"),
            (CheckpointMove("consumer", 9, after=0), "at 0"),
            (CheckpointMove("consumer", 5), "below 5"),
            (CheckpointMove("consumer", 3), "below 3"),
        ):
            for appends in ([append("a", command="c")], []):
                conflict = refusal(CheckpointConflict, store.append_atomically, appends, move)
                assert (conflict.move, conflict.actual) == (move, 5)
                assert all(part in str(conflict) for part in ("'consumer'", says, "is at 5"))
        missing = CheckpointMove("another", 9, after=4)
        assert refusal(CheckpointConflict, store.append_atomically, [], missing).actual == 0
        assert (store.head(), store.checkpoint("consumer"), store.checkpoint("another")) == (0, 5, 0)

    def test_a_repetition_of_the_whole_is_done_already(self, store: Store, other: Store) -> None:
        appends = [append("a", NO_STREAM, "c"), append("b", NO_STREAM, "d", events=2)]
        move = CheckpointMove("consumer", 5, after=0)
        assert store.append_atomically(appends, move) == [Appended("a", 1, 1), Appended("b", 2, 3)]
        for again in (store, other):
            assert again.append_atomically(appends, move) == [
                Appended("a", 1, 1, duplicate=True),
                Appended("b", 2, 3, duplicate=True),
            ]
        assert (store.head(), store.checkpoint("consumer")) == (3, 5)

    def test_a_repetition_of_a_part_is_refused(self, store: Store) -> None:
        store.append(append("a", command="c"))
        appends = [append("b", command="d"), append("a", command="c")]
        reused = refusal(CommandIdReused, store.append_atomically, appends)
        assert reused.command_id == "c"
        assert store.head() == 1

    def test_of_consumers_that_handled_the_same_event_one_stores_what_came_of_it(
        self, store: Store, other: Store
    ) -> None:
        stored: list[str] = []

        def consume(name: str, through: Store) -> None:
            for position in range(1, 11):
                move = CheckpointMove("consumer", position, after=position - 1)
                try:
                    through.append_atomically([append(f"{name}-{position}")], move)
                    stored.append(f"{name}-{position}")
                except CheckpointConflict:
                    pass

        at_once(consume, [("v", store), ("x", other), ("y", store), ("z", other)])
        assert store.checkpoint("consumer") == 10
        assert sorted(int(name[2:]) for name in stored) == list(range(1, 11))
        assert sorted(each.stream_id for each in store.read_all()) == sorted(stored)


class MeetingCases:
    """Writers and readers that meet, and who hears of it. `store` and `other` as for WritingCases."""

    def test_positions_have_no_gap_and_commands_happen_once_under_many_writers(
        self, store: Store, other: Store
    ) -> None:
        """Two stores, eight threads, hot streams, every command sent twice, a reader that tails the log."""
        seen: list[int] = []
        done = threading.Event()

        def tail() -> None:
            while True:
                last = done.is_set()
                seen.extend(each.position for each in other.read_all(len(seen)))
                if last:
                    return

        def write(number: int) -> None:
            chance = random.Random(number)
            mine = (store, other)[number % 2]
            for turn in range(12):
                stream = f"hot-{chance.randrange(3)}" if turn % 3 else f"own-{number}-{turn}"
                command = f"{number}-{turn}"
                while True:
                    version = mine.stream_version(stream)
                    wanted = append(stream, NO_STREAM if version is None else exact(version), command)
                    try:
                        assert not mine.append(wanted).duplicate
                        break
                    except ConcurrencyError:
                        continue
                assert mine.append(append(stream, ANY, command)).duplicate

        reader = threading.Thread(target=tail)
        reader.start()
        try:
            at_once(write, [(number,) for number in range(8)])
        finally:
            done.set()
            reader.join()
        assert assert_whole(store) == 8 * 12
        assert seen == list(range(1, 8 * 12 + 1))

    def test_of_writers_that_expect_the_same_version_one_wins(self, store: Store, other: Store) -> None:
        store.append(append("a"))
        won: list[str] = []
        lost: list[int | None] = []

        def write(command: str, through: Store) -> None:
            try:
                through.append(append("a", exact(1), command))
                won.append(command)
            except ConcurrencyError as conflict:
                lost.append(conflict.actual)

        at_once(write, [(f"c{number}", (store, other)[number % 2]) for number in range(8)])
        assert (len(won), lost) == (1, [2] * 7)
        assert [each.command_id for each in store.read_stream("a")] == [None, *won]

    def test_an_append_is_seen_whole_or_not_at_all(self, store: Store, other: Store) -> None:
        torn: list[int] = []
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                found = len(other.read_stream("a"))
                if found % 5:
                    torn.append(found)

        reader = threading.Thread(target=look)
        reader.start()
        try:
            for _ in range(20):
                store.append(append("a", events=5))
        finally:
            done.set()
            reader.join()
        assert torn == []

    def test_committed_events_reach_the_bus_in_position_order_and_refused_ones_do_not(
        self, store: Store
    ) -> None:
        heard: list[StoredEvent] = []
        closed: list[StoredEvent] = []
        store.bus.subscribe(heard.append)
        store.bus.subscribe(closed.append, event_types=["Closed"])
        store.append_many([append("a", NO_STREAM, "c"), append("a", NO_STREAM), append("b", events=2)])
        store.append(append("a", NO_STREAM, "c"))
        both: list[Append] = [append("x", events=[event("Closed")]), append("a", exact(9))]
        refusal(ConcurrencyError, store.append_atomically, both)
        store.append_atomically([append("y", events=[event("Closed")])], CheckpointMove("consumer", 1))
        store.close()
        assert places(heard) == [("a", 1, 1), ("b", 1, 2), ("b", 2, 3), ("y", 1, 4)]
        assert places(closed) == [("y", 1, 4)]
        assert heard == list(store.read_all()), "an event on the bus is the event in the log"

    def test_what_is_heard_on_the_bus_is_in_the_log_by_then(self, store: Store) -> None:
        heads: list[tuple[int, int]] = []
        store.bus.subscribe(lambda each: heads.append((each.position, store.head())))
        for _ in range(5):
            store.append(append("a", events=2))
        store.close()
        assert [position for position, _ in heads] == list(range(1, 11))
        assert [pair for pair in heads if pair[1] < pair[0]] == []
