"""The cryptography: AES-SIV (RFC 5297), for values and for keys alike.

AES-SIV needs no nonce: equal values under one key give equal tokens, so that a payment's user is the same
text in each of its events, and rows still group by it. That is also all that a token tells without its key,
besides the length of what it holds.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

MASTER_KEY_BYTES: Final = 32
_KEY_BITS: Final = 512


def new_key() -> bytes:
    """A random key of 64 bytes."""
    return AESSIV.generate_key(_KEY_BITS)


def seal(key: bytes, subject: str, text: str) -> bytes:
    """The text under the key; the same text gives the same bytes."""
    # The subject goes in, and the field does not: a token must open wherever it has flowed to.
    return AESSIV(key).encrypt(text.encode(), [subject.encode()])


def unseal(key: bytes, subject: str, sealed: bytes) -> str | None:
    """The text that was sealed; None if it was not sealed under this key."""
    try:
        return AESSIV(key).decrypt(sealed, [subject.encode()]).decode()
    except (InvalidTag, ValueError):
        return None


class MasterKey:
    """Wraps the keys of subjects, and hides whose they are, so that the database alone opens nothing."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: 32 random bytes."""
        self._wrapping = AESSIV(_derived(secret, b"ledgerlake: wrapping", 64))
        self._naming = _derived(secret, b"ledgerlake: naming", 32)
        # Tells the right master key from a wrong one, and gives neither away.
        self.fingerprint = _derived(secret, b"ledgerlake: fingerprint", 16)

    def wrap(self, subject: str, key: bytes) -> bytes:
        """The subject's key as it is stored."""
        return self._wrapping.encrypt(key, [subject.encode()])

    def unwrap(self, subject: str, wrapped: bytes) -> bytes | None:
        """The subject's key; None if it was not wrapped by this master key."""
        try:
            return self._wrapping.decrypt(wrapped, [subject.encode()])
        except (InvalidTag, ValueError):
            return None

    def name(self, user_id: str) -> str:
        """What the user is found by: nobody without the master key can tell whose it is."""
        return hmac.digest(self._naming, user_id.encode(), "sha256").hex()


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDFExpand(SHA256(), length, purpose).derive(secret)
