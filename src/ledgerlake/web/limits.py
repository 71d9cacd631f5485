"""How much at once: requests a second, requests under way, bytes of a body. What is over it is told so."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from starlette.requests import Request

from ledgerlake.web.problems import busy

MAX_BODY_BYTES: Final = 65_536
# A client that sends its body more slowly is hung up on.
BODY_SECONDS: Final = 10.0
# Between two pieces (FILE_CHUNK bytes) of an answer, for a client to take the first one.
SEND_SECONDS: Final = 60.0
FILE_CHUNK: Final = 1 << 18
# Requests under way in one process; each holds a body of at most MAX_BODY_BYTES.
MAX_UNDER_WAY: Final = 512
# And of one token: who waits for answers that take long leaves room for others.
MAX_OF_TOKEN: Final = 128
# Requests without a good token, by address.
_UNKNOWN_RATE: Final = 20
_BURST_SECONDS: Final = 2.0
_REMEMBERED: Final = 10_000


class Buckets:
    """A bucket of tokens for each key: `rate` a second flow in, and it holds those of two seconds."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._room = rate * _BURST_SECONDS
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Take one; False where there is none left."""
        now = time.monotonic()
        level, at = self._levels.get(key, (self._room, now))
        level = min(self._room, level + (now - at) * self._rate)
        taken = level >= 1
        self._levels[key] = (level - 1 if taken else level, now)
        self._levels.move_to_end(key)
        if len(self._levels) > _REMEMBERED:
            # Whoever has not asked for longest has a full bucket again, or soon.
            self._levels.popitem(last=False)
        return taken


class Limits:
    """The limits of one process."""

    def __init__(self, rate: int) -> None:
        self._known = Buckets(rate)
        self._unknown = Buckets(_UNKNOWN_RATE)
        self._under_way: dict[str, int] = {}

    def begin(self, token_id: str) -> None:
        """A request of a token begins; `end` is to follow.

        Raises:
            Problem: 429 where it sends too many, or too many of it are under way; nothing is to follow.
        """
        if not self._known.take(token_id):
            raise busy("too_many_requests", "This token sends more requests a second than it may.")
        under_way = self._under_way.get(token_id, 0)
        if under_way >= MAX_OF_TOKEN:
            raise busy("too_busy", "This token has as many requests under way as it may.")
        self._under_way[token_id] = under_way + 1

    def end(self, token_id: str) -> None:
        """A request of a token is answered."""
        left = self._under_way.pop(token_id) - 1
        if left:
            self._under_way[token_id] = left

    def unknown(self, request: Request) -> None:
        """Raises Problem: 429 where an address sends too many requests without a good token."""
        address = "" if request.client is None else request.client.host
        if not self._unknown.take(address):
            raise busy("too_many_requests", "Too many requests without a good token.", 5)
