"""Cursors: where a page ended, opaque to whoever carries them, and good for the list that gave them only."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from ledgerlake.queries.model import QueryError

_VERSION: Final = 2
_DIGEST_BYTES: Final = 8
_LAYOUT: Final = struct.Struct(f">B{_DIGEST_BYTES}sqq")


@dataclass(frozen=True, slots=True)
class Place:
    """The last row of a page: what the list is sorted by, as int64, and the position of its first event.

    The second never changes and belongs to one row only, so rows that are equal in the first have an order.
    """

    key: int
    position: int

    def cursor(self, of: Sequence[Any]) -> str:
        """The cursor of this place in the list that the values `of` (filters, order) describe."""
        return _text(_LAYOUT.pack(_VERSION, _digest(of), self.key, self.position))

    @classmethod
    def of_cursor(cls, cursor: str, of: Sequence[Any]) -> Place:
        """The place that a cursor means in the list that `of` describes.

        Raises:
            QueryError: it is no cursor, one of another version of the program, or of another list.
        """
        try:
            packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            version, digest, key, position = _LAYOUT.unpack(packed)
            if version != _VERSION or _text(packed) != cursor or position < 0:
                raise ValueError
        except (binascii.Error, struct.error, ValueError):
            raise QueryError(
                f"cursor {_shown(cursor)} is not one that a page gave.",
                "Take next_cursor of the page before, unchanged, or begin with the first page.",
            ) from None
        if digest != _digest(of):
            raise QueryError(
                f"cursor {_shown(cursor)} is of a list with other filters, or in another order.",
                "Ask for all pages of a list alike; only `limit` may differ.",
            )
        return cls(key, position)


def _text(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _digest(of: Sequence[Any]) -> bytes:
    named = repr(tuple(of)).encode("utf-8", "surrogatepass")
    return blake2b(named, digest_size=_DIGEST_BYTES).digest()


def _shown(cursor: str) -> str:
    return repr(cursor if len(cursor) <= 80 else cursor[:80] + "…")
