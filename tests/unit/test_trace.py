"""The causation tree: every event once, under what caused it, whatever the ids say."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.eventstore.trace import Node, causation_tree, walk

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def event(
    position: int, causation: str, command: str | None = None, correlation: str = "talk"
) -> StoredEvent:
    return StoredEvent(
        event_id=f"e{position}",
        stream_id="s",
        aggregate_type="Payment",
        event_type="Happened",
        data={},
        version=position,
        timestamp=NOW,
        correlation_id=correlation,
        causation_id=causation,
        metadata={},
        position=position,
        command_id=command,
        recorded_at=NOW,
        schema_version=1,
    )


def shape(roots: tuple[Node, ...]) -> list[tuple[int, int, int | None]]:
    return [
        (depth, node.event.position, None if cause is None else cause.event.position)
        for depth, node, cause in walk(roots)
    ]


def test_an_event_hangs_on_the_command_or_the_event_that_caused_it() -> None:
    roots = causation_tree(
        [
            event(1, "c1", "c1"),
            event(2, "c1", "c2"),  # caused by the command
            event(3, "e1", "c3"),  # by the event
            event(4, "c2", "c4"),
            event(9, "e3"),
        ]
    )
    assert shape(roots) == [(0, 1, None), (1, 2, 1), (2, 4, 2), (1, 3, 1), (2, 9, 3)]
    assert roots[0].unknown_cause is None


def test_the_order_in_which_events_are_given_does_not_matter() -> None:
    events = [event(n, f"e{n // 2}", f"c{n}") for n in range(1, 40)]
    shuffled = random.Random(3).sample(events, len(events))
    assert causation_tree(shuffled) == causation_tree(events)


def test_a_cause_that_is_not_among_the_events_makes_a_root_that_names_it() -> None:
    roots = causation_tree(
        [event(1, "an order elsewhere", "c1"), event(2, "c1", "c2"), event(3, "talk", "c3")]
    )
    assert [(root.event.position, root.unknown_cause) for root in roots] == [
        (1, "an order elsewhere"),
        (3, None),  # begins the conversation, by its own words
    ]


def test_the_events_of_one_append_stand_beside_each_other() -> None:
    # The command's id is on the last event only, and all of them name it as their cause.
    roots = causation_tree([event(1, "c1"), event(2, "c1"), event(3, "c1", "c1"), event(4, "c1", "c2")])
    assert shape(roots) == [(0, 1, None), (0, 2, None), (0, 3, None), (1, 4, 3)]
    assert [root.unknown_cause for root in roots] == [None] * 3


def test_ids_that_form_a_circle_lose_nothing() -> None:
    assert shape(causation_tree([event(1, "c2", "c1"), event(2, "c1", "c2")])) == [(0, 1, None), (1, 2, 1)]
    assert shape(causation_tree([event(1, "e1")])) == [(0, 1, None)]


def test_a_conversation_of_any_depth_is_followed() -> None:
    roots = causation_tree([event(n, f"e{n - 1}") for n in range(1, 20_001)])
    assert sum(1 for _ in walk(roots)) == 20_000
    assert max(depth for depth, _, _ in walk(roots)) == 19_999


def test_nothing_is_an_empty_tree() -> None:
    assert causation_tree([]) == ()


@given(st.lists(st.integers(0, 12), max_size=12))
def test_every_event_is_in_the_tree_once_whatever_it_names_as_its_cause(causes: list[int]) -> None:
    names = ["elsewhere", *(f"{'ce'[n % 2]}{n}" for n in range(1, 13))]
    events = [event(n, names[cause], f"c{n}") for n, cause in enumerate(causes, start=1)]
    found = list(walk(causation_tree(events)))
    assert sorted(node.event.position for _, node, _ in found) == [e.position for e in events]
    for depth, node, cause in found:
        assert (depth == 0) == (cause is None)
        if cause is not None:
            assert node.event.causation_id in (cause.event.event_id, cause.event.command_id)
            assert cause.event.position < node.event.position
