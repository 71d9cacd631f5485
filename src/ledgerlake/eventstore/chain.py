"""The hash chain over the log: one changed byte in one event changes every hash after it.

The digest of an event is d = sha256(its raw BSON as stored). The hash of position n is
H(n) = sha256(H(n-1) + d(n)), with 32 zero bytes as H(0). The chain is over digests and not over the events
themselves, so that an event which has left the database can leave its digest there in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

GENESIS: Final = bytes(32)

# A link is kept at the end of the batch that passes a multiple of this many positions, to say where a
# chain that does not hold went wrong. A link costs its append one more round trip.
LINK_EVERY: Final = 1_000


@dataclass(frozen=True, slots=True)
class Link:
    """The hash of the log up to and including `position`."""

    position: int
    hash: bytes


START: Final = Link(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Broken:
    """Between two links the events are not those that were appended: positions `first` to `last`."""

    first: int
    last: int


def digest(document: bytes) -> bytes:
    """The digest of an event, given as raw BSON."""
    return sha256(document).digest()


def extend(previous: bytes, documents: Iterable[bytes]) -> bytes:
    """The hash after these events, given as raw BSON in position order."""
    return extend_digests(previous, map(digest, documents))


def extend_digests(previous: bytes, digests: Iterable[bytes]) -> bytes:
    """The hash after the events with these digests, in position order."""
    for each in digests:
        previous = sha256(previous + each).digest()
    return previous


def links_over(previous: Link, documents: Iterable[bytes]) -> list[Link]:
    """A link at each multiple of LINK_EVERY that these events reach, and one at their end."""
    position, value = previous.position, previous.hash
    links = []
    for document in documents:
        position, value = position + 1, sha256(value + digest(document)).digest()
        if position % LINK_EVERY == 0:
            links.append(Link(position, value))
    end = Link(position, value)
    return links if links[-1:] == [end] else [*links, end]


def passes_link(before: int, after: int) -> bool:
    """Whether a batch that moves the head from `before` to `after` ends with a link."""
    return after // LINK_EVERY > before // LINK_EVERY


def check(digests: Iterable[bytes], links: Iterable[Link], start: Link = START) -> Iterator[Broken]:
    """The parts of the log that do not hash to the links that were kept.

    Args:
        digests: of the events after `start`, one per position, in position order.
        links: those after `start`, in position order; the last one is the head.

    After a part that is broken the check goes on from the link behind it, so that each part is judged by
    itself. A log that ends before a link is broken up to it.
    """
    position, value = start.position, start.hash
    remaining = iter(digests)
    for link in links:
        first = position + 1
        while position < link.position and (each := next(remaining, None)) is not None:
            value = sha256(value + each).digest()
            position += 1
        if position < link.position or value != link.hash:
            yield Broken(first, link.position)
        position, value = link.position, link.hash
