"""The hash chain as pure functions: every change is found, in its place."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.chain import (
    GENESIS,
    LINK_EVERY,
    START,
    Broken,
    Link,
    check,
    digest,
    extend,
    extend_digests,
    links_over,
    passes_link,
)

EVENTS = [f"event {number}".encode() for number in range(3 * LINK_EVERY + 7)]
LINKS = links_over(START, EVENTS)


def test_the_hash_is_that_of_the_definition() -> None:
    first = sha256(bytes(32) + sha256(b"one").digest()).digest()
    assert extend(GENESIS, [b"one"]) == first
    assert extend(GENESIS, [b"one", b"two"]) == sha256(first + sha256(b"two").digest()).digest()
    assert extend(GENESIS, []) == GENESIS


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(0, 12))
def test_batches_of_any_size_come_to_the_same_hash(events: list[bytes], cut: int) -> None:
    parts = extend(extend(GENESIS, events[:cut]), events[cut:])
    assert parts == extend(GENESIS, events) == extend_digests(GENESIS, map(digest, events))


def test_links_stand_at_round_positions_and_at_the_end() -> None:
    assert [link.position for link in LINKS] == [1_000, 2_000, 3_000, 3_007]
    assert links_over(START, EVENTS[:1_000])[-1] == LINKS[0]
    assert links_over(LINKS[0], EVENTS[1_000:]) == LINKS[1:]
    assert links_over(LINKS[0], []) == LINKS[:1]
    assert [passes_link(*move) for move in ((0, 999), (999, 1_000), (1_000, 1_001), (1_500, 3_200))] == [
        False,
        True,
        False,
        True,
    ]


def broken(events: list[bytes], links: list[Link] = LINKS) -> list[Broken]:
    return list(check(map(digest, events), links))


def test_the_log_that_was_written_is_whole() -> None:
    assert broken(EVENTS) == []
    assert list(check(map(digest, EVENTS[1_000:]), LINKS[1:], LINKS[0])) == []


def test_one_changed_bit_is_found_between_its_two_links_and_nowhere_else() -> None:
    changed = list(EVENTS)
    changed[1_500] = bytes([changed[1_500][0] ^ 1]) + changed[1_500][1:]
    assert broken(changed) == [Broken(1_001, 2_000)]
    changed[0] = b""
    assert broken(changed) == [Broken(1, 1_000), Broken(1_001, 2_000)]


def test_a_swap_a_removal_and_a_cut_are_found() -> None:
    swapped = [*EVENTS[:10], EVENTS[11], EVENTS[10], *EVENTS[12:]]
    assert broken(swapped) == [Broken(1, 1_000)]
    assert broken(EVENTS[:3_006]) == [Broken(3_001, 3_007)]
    assert broken([]) == [Broken(1, 1_000), Broken(1_001, 2_000), Broken(2_001, 3_000), Broken(3_001, 3_007)]


def test_a_forged_link_is_found_too() -> None:
    forged = [LINKS[0], Link(2_000, bytes(32)), *LINKS[2:]]
    assert broken(EVENTS, forged) == [Broken(1_001, 2_000), Broken(2_001, 3_000)]
