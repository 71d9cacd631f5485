"""Settling batches: what is accepted, what is refused, and that all-or-none is just that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.expected import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, after, exact
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointConflict,
    CheckpointMove,
    CommandIdReused,
    ConcurrencyError,
    NewEvent,
    WriteRequest,
)
from ledgerlake.eventstore.settlement import Done, Settlement, settle

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EVENT = NewEvent("Happened", {}, NOON, "c", "c")


def append(
    stream: str,
    expected: ExpectedVersion = ANY,
    command: str | None = None,
    events: int = 1,
    request: str = "h",
    first: int = 1,
) -> Append:
    return Append(stream, "Thing", [EVENT] * events, expected, command, request if command else None, first)


def one(request: WriteRequest, heads: Mapping[str, int] | None = None) -> Settlement:
    return settle([request], heads or {}, {}, 10)


@pytest.mark.parametrize(
    ("expected", "on_none", "on_zero", "on_one"),
    [
        (NO_STREAM, True, False, False),
        (after(0), True, False, False),
        (STREAM_EXISTS, False, True, True),
        (ANY, True, True, True),
        (exact(0), False, True, False),
        (exact(1), False, False, True),
        (after(1), False, False, True),
    ],
)
def test_a_stream_of_one_event_is_not_an_empty_one_wherever_it_starts(
    expected: ExpectedVersion, on_none: bool, on_zero: bool, on_one: bool
) -> None:
    assert [expected.allows(actual) for actual in (None, 0, 1)] == [on_none, on_zero, on_one]


def test_the_first_version_is_kept_as_given_and_an_existing_stream_goes_on() -> None:
    appends = [
        append("zero", NO_STREAM, first=0, events=2),
        append("one", NO_STREAM),
        append("zero", exact(1), first=1),
        append("old", exact(4), first=0),
    ]
    settled = one(WriteRequest(appends), {"old": 4})
    assert settled.outcomes == [
        [Appended("zero", 1, 12), Appended("one", 1, 13), Appended("zero", 2, 14), Appended("old", 5, 15)]
    ]
    assert [(each.first_version, each.last_version) for each in settled.accepted] == [
        (0, 1),
        (1, 1),
        (2, 2),
        (5, 5),
    ]


def test_what_was_decided_on_a_refused_append_is_refused_and_says_so() -> None:
    [[first, second, other]] = one(
        WriteRequest([append("s", exact(1)), append("s", exact(2)), append("t")]), {"s": 2}
    ).outcomes
    assert isinstance(first, ConcurrencyError)
    assert (first.broken, first.actual) == (False, 2)
    assert isinstance(second, ConcurrencyError)
    assert second.broken
    assert other == Appended("t", 1, 11)


def test_of_an_atomic_request_all_is_stored_or_nothing() -> None:
    whole = WriteRequest([append("a", NO_STREAM), append("b", exact(3))], atomic=True)
    assert one(whole, {"b": 3}).outcomes == [[Appended("a", 1, 11), Appended("b", 4, 12)]]
    refused = one(whole, {"b": 4})
    assert refused.accepted == []
    assert isinstance(refused.refused[0], ConcurrencyError)
    assert refused.outcomes == [[refused.refused[0]] * 2]


def test_a_refused_atomic_request_leaves_no_trace_for_the_ones_after_it() -> None:
    settled = settle(
        [
            WriteRequest([append("a", NO_STREAM, "c"), append("b", STREAM_EXISTS)], atomic=True),
            WriteRequest([append("a", NO_STREAM, "c")]),
        ],
        {},
        {},
        0,
    )
    assert settled.outcomes[1] == [Appended("a", 1, 1)]
    assert list(settled.refused) == [0]


def test_a_checkpoint_moves_with_its_appends_or_not_at_all() -> None:
    moved = WriteRequest([append("a")], atomic=True, checkpoint=CheckpointMove("reader", 7, after=5))
    assert settle([moved], {}, {}, 0, {"reader": 5}).checkpoints == {"reader": 7}
    late = settle([moved], {}, {}, 0, {"reader": 7})
    assert (late.accepted, late.checkpoints) == ([], {})
    assert isinstance(late.refused[0], CheckpointConflict)
    assert late.refused[0].actual == 7
    conflict = WriteRequest([append("a", exact(9))], atomic=True, checkpoint=CheckpointMove("reader", 7))
    assert settle([conflict], {}, {}, 0, {}).checkpoints == {}


def test_of_two_consumers_that_handled_the_same_event_one_stores_what_came_of_it() -> None:
    requests = [
        WriteRequest([append(name)], atomic=True, checkpoint=CheckpointMove("reader", 6, after=5))
        for name in ("first", "second")
    ]
    settled = settle(requests, {}, {}, 0, {"reader": 5})
    assert [each.append.stream_id for each in settled.accepted] == ["first"]
    assert list(settled.refused) == [1]


@pytest.mark.parametrize(
    ("move", "allowed"),
    [
        (CheckpointMove("r", 5), [True, True, False, False]),
        (CheckpointMove("r", 5, after=0), [True, False, False, False]),
        (CheckpointMove("r", 5, after=4), [False, True, False, False]),
    ],
)
def test_a_move_says_where_the_checkpoint_may_stand(move: CheckpointMove, allowed: list[bool]) -> None:
    assert [move.allows(actual) for actual in (0, 4, 5, 6)] == allowed


def test_an_atomic_request_that_was_done_is_a_repetition_and_a_part_of_it_is_not() -> None:
    done = {"c1": Done("a", 1, 3, "h"), "c2": Done("b", 1, 4, "h")}
    whole = WriteRequest(
        [append("a", NO_STREAM, "c1"), append("b", NO_STREAM, "c2")],
        True,
        CheckpointMove("reader", 9, after=8),
    )
    again = settle([whole], {"a": 1, "b": 1}, done, 4, {"reader": 9})
    assert again.outcomes == [[Appended("a", 1, 3, duplicate=True), Appended("b", 1, 4, duplicate=True)]]
    assert (again.accepted, again.checkpoints, again.refused) == ([], {}, {})
    part = settle([whole], {"a": 1}, {"c1": done["c1"]}, 3, {"reader": 8})
    assert isinstance(part.refused[0], CommandIdReused)
    assert (part.accepted, part.checkpoints) == ([], {})


MODES = st.one_of(st.sampled_from([NO_STREAM, STREAM_EXISTS, ANY]), st.integers(0, 4).map(exact))
APPENDS = st.builds(
    append,
    st.sampled_from("ab"),
    MODES,
    st.sampled_from(["c1", "c2", None]),
    st.integers(1, 2),
    st.sampled_from(["h", "i"]),
    st.integers(0, 1),
)
REQUESTS = st.builds(WriteRequest, st.lists(APPENDS, max_size=3), st.booleans())


@given(st.lists(REQUESTS, max_size=5), st.integers(0, 5))
def test_batches_cut_anywhere_come_to_the_same(requests: list[WriteRequest], cut: int) -> None:
    """That is what makes it right to settle in batches at all."""
    whole = settle(requests, {}, {}, 0)
    heads, done, position = {}, {}, 0
    first = settle(requests[:cut], {}, {}, 0)
    for each in first.accepted:
        heads[each.append.stream_id] = each.last_version
        position += len(each.append.events)
        if each.append.command_id is not None:
            done[each.append.command_id] = Done(
                each.append.stream_id, each.last_version, position, each.append.request_hash
            )
    second = settle(requests[cut:], heads, done, position)
    assert [list(map(str, o)) for o in whole.outcomes] == [
        list(map(str, o)) for o in (*first.outcomes, *second.outcomes)
    ]
    versions: dict[str, list[int]] = {}
    for each in whole.accepted:
        versions.setdefault(each.append.stream_id, []).extend(
            range(each.first_version, each.last_version + 1)
        )
    assert all(found == list(range(found[0], found[0] + len(found))) for found in versions.values())
