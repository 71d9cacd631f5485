"""The rules of following a log: whatever is appended whenever, each wanted event comes once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import LogCorrupted, StoredEvent
from ledgerlake.mongo.steps import run
from ledgerlake.subscriptions import following
from ledgerlake.subscriptions.causal import PlainReads
from ledgerlake.subscriptions.following import Follower, looked_up_to
from ledgerlake.subscriptions.policy import HandlingPolicy

A = EventFilter.of(event_types=["a"])
FILTERS = st.sampled_from([EVERYTHING, A, EventFilter.of(event_types=["never"])])
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def event(position: int, name: str = "a") -> StoredEvent:
    return StoredEvent(
        str(position), f"s{position}", "T", name, {}, 1, NOON, "c", "c", {}, position, None, NOON, 1
    )


class GrowingLog:
    """A log to which more is appended before each of its reads."""

    def __init__(self, growth: Iterator[str]) -> None:
        self.events: list[StoredEvent] = []
        self.growth = growth

    def grow(self) -> None:
        for name in next(self.growth, ""):
            self.events.append(event(len(self.events) + 1, name))

    def head(self) -> int:
        self.grow()
        return len(self.events)

    def read_all(self, after: int, *, up_to: int, limit: int, only: EventFilter) -> Iterator[StoredEvent]:
        self.grow()
        return iter([e for e in self.events[after:up_to] if only.matches(e)][:limit])


class NoWaiting:
    """Counts the waits instead of waiting."""

    waits = 0

    def seen(self) -> int:
        return 0

    def wait(self, *_: Any) -> None:
        self.waits += 1

    def pause(self, *_: Any) -> None:
        return

    def wake(self) -> None:
        return


@given(
    growth=st.lists(st.text("ab", max_size=12), max_size=12),
    only=FILTERS,
    page=st.integers(1, 5),
    after=st.integers(0, 3),
    span=st.integers(1, 6),
)
def test_a_follower_hands_out_every_wanted_event_once_in_order_however_the_log_grows(
    growth: list[str], only: EventFilter, page: int, after: int, span: int
) -> None:
    log = GrowingLog(iter(["bbb", *growth]))
    waiting = NoWaiting()
    follower = Follower(log, waiting, list, PlainReads(), after=after, only=only, page_events=page)
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "SPAN_POSITIONS", span)
        while waiting.waits < len(growth) + 3:
            found = run(follower.next_page())
            assert found is not None
            assert len(found.events) <= page
            seen += [e.position for e in found.events]
            assert all(position <= found.position for position in seen)
    assert seen == [e.position for e in log.events[after:] if only.matches(e)]
    assert follower.position == len(log.events)


def test_a_follower_that_is_not_live_ends_at_the_head_and_a_closed_one_at_once() -> None:
    log = GrowingLog(iter(["aaa"]))
    follower = Follower(log, NoWaiting(), list, PlainReads(), only=EVERYTHING, live=False, page_events=2)
    pages: list[Any] = []
    while (page := run(follower.next_page())) is not None:
        pages.append([e.position for e in page.events])
    assert pages == [[1, 2], [3]]
    assert run(follower.next_page()) is None
    closed = Follower(log, NoWaiting(), list, PlainReads(), only=EVERYTHING)
    closed.close()
    assert run(closed.next_page()) is None


@pytest.mark.parametrize("positions", [[2, 3], [1, 3], [1, 2], [], [1, 1, 2], [1, 3, 2]])
def test_an_unfiltered_page_that_is_not_what_comes_next_is_an_error(positions: list[int]) -> None:
    with pytest.raises(LogCorrupted, match=r"position \d"):
        looked_up_to(0, 3, [event(p) for p in positions], 10, EVERYTHING)


@pytest.mark.parametrize("positions", [[4], [0], [2, 1], [2, 2]])
def test_a_filtered_page_that_is_out_of_order_or_beyond_is_an_error(positions: list[int]) -> None:
    with pytest.raises(LogCorrupted, match="order"):
        looked_up_to(0, 3, [event(p) for p in positions], 10, A)


def test_a_full_page_reaches_up_to_its_last_event_and_another_one_as_far_as_was_looked() -> None:
    assert looked_up_to(0, 9, [event(2), event(5)], 2, A) == 5
    assert looked_up_to(0, 9, [event(2), event(5)], 3, A) == 9
    assert looked_up_to(4, 9, [event(5), event(6)], 2, EVERYTHING) == 6


def test_retries_wait_longer_and_longer_up_to_a_limit() -> None:
    policy = HandlingPolicy(first_delay=0.5, max_delay=3)
    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4, 5_000)] == [0.5, 1, 2, 3, 3]
    for wrong in ({"retries": -1}, {"checkpoint_events": 0}, {"first_delay": -1.0}):
        with pytest.raises(ValueError, match="policy"):
            HandlingPolicy(**wrong)  # type: ignore[arg-type]
