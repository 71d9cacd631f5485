"""How a personal value looks once it is under a key: a text that flows through everything like any other.

    pii:1:<subject, 32 hex digits>:<base64url of what is sealed>

The subject names the key. It is random, so nothing follows from it once the key is gone.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from ledgerlake.settings import TOKEN_PREFIX

# Every text that begins so is taken for a token, of whatever version.
PREFIX: Final = TOKEN_PREFIX

_VERSION: Final = f"{PREFIX}1:"
_TOKEN: Final = re.compile(rf"{_VERSION}([0-9a-f]{{32}}):([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Token:
    """A sealed value and the subject whose key opens it."""

    subject: str
    sealed: bytes

    def __str__(self) -> str:
        return f"{_VERSION}{self.subject}:{base64.urlsafe_b64encode(self.sealed).decode().rstrip('=')}"


def is_token(text: str) -> bool:
    """Whether the text looks like a token: such a text is never taken from outside."""
    return text.startswith(PREFIX)


def read_token(text: str) -> Token | None:
    """The token that the text is; None if it is none."""
    if not is_token(text) or (found := _TOKEN.fullmatch(text)) is None:
        return None
    subject, sealed = found.groups()
    try:
        return Token(subject, base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)))
    except binascii.Error:
        return None
