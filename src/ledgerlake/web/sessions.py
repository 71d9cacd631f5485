"""Sessions of browsers: a signed cookie that names an access token, and what keeps forms from being forged.

Nothing is stored: a session is as good as the token that it names, which is looked up at every request, and
ends with it, or after SECONDS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.files import publish_new, temporary

COOKIE: Final = "ledgerlake_session"
"""The cookie with the session of somebody who signed in."""
VISITOR: Final = "ledgerlake_visitor"
"""The cookie of a browser that is about to sign in: a random text."""
SECONDS: Final = 12 * 3600
_KEY_BYTES: Final = 32
_LONGEST: Final = 1_000  # characters of a cookie that is looked at


class SessionKeyError(LedgerLakeError):
    """The key that signs sessions can not be read, or is none."""


@dataclass(frozen=True, slots=True)
class Session:
    """Who signed in: the id of the token, and until when, in seconds since 1970."""

    token_id: str
    expires: int


class Sessions:
    """Gives out sessions and reads them; `key` (32 bytes) signs them.

    Every process of one server has the same key. With another key all sessions have ended.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_file(cls, path: Path) -> Sessions:
        """With the key in a file, which is made, for its owner alone to read, if it is not there.

        Raises:
            SessionKeyError: it can not be read or made, or holds no key.
        """
        try:
            if not path.exists():
                _make(path)
            key = path.read_bytes()
            readers = path.stat().st_mode & 0o007
        except OSError as error:
            raise SessionKeyError(
                f"The key of sessions, {path}, can not be read or made ({error}).",
                "Let the server write there.",
            ) from error
        if len(key) != _KEY_BYTES:
            raise SessionKeyError(
                f"{path} is not the key of sessions.", "Delete it: all have to sign in again."
            )
        if readers:
            raise SessionKeyError(
                f"{path}, the key of sessions, is open to everybody on this machine.",
                "Delete it (all have to sign in again), or, where nobody can have read it: chmod o= on it.",
            )
        return cls(key)

    def issue(self, token_id: str, now: float | None = None) -> str:
        """A cookie's value for somebody who showed the token with that id."""
        expires = int(time.time() if now is None else now) + SECONDS
        named = base64.urlsafe_b64encode(f"{expires} {token_id}".encode()).decode()
        return f"{named}.{self._signature('session', named)}"

    def read(self, cookie: str | None, now: float | None = None) -> Session | None:
        """The session that a cookie holds; None where it is not one of ours, or has ended."""
        if cookie is None or len(cookie) > _LONGEST:
            return None
        named, _, signature = cookie.partition(".")
        if not _same(signature, self._signature("session", named)):
            return None
        expires, _, token_id = base64.urlsafe_b64decode(named).decode().partition(" ")
        session = Session(token_id, int(expires))
        return session if session.expires > (time.time() if now is None else now) else None

    def form_token(self, cookie: str) -> str:
        """What a form has to bring from a browser with this cookie, a session's or a visitor's."""
        return self._signature("form", cookie)

    def is_form_token(self, given: object, cookie: str | None) -> bool:
        """Whether a form brought what one of ours does, from the browser that it was given to."""
        if cookie is None or len(cookie) > _LONGEST or not isinstance(given, str):
            return False
        return _same(given, self.form_token(cookie))

    def _signature(self, purpose: str, text: str) -> str:
        message = f"{purpose}:{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def visitor() -> str:
    """A cookie's value for a browser that is about to sign in."""
    return secrets.token_urlsafe(32)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _make(path: Path) -> None:
    """Make a key; where two processes do at once, one of the two keys is there in the end, whole."""
    with temporary(path) as temp:
        temp.chmod(0o600)
        temp.write_bytes(secrets.token_bytes(_KEY_BYTES))
        publish_new(temp, path)
