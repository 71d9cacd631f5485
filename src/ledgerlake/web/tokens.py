"""Access tokens: 256 random bits each, of which the database knows the SHA-256 only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.indexes import ACCESS_TOKENS

# What each role may do. Everything is within the organizations of the token.
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "finance": frozenset({"audit", "payments", "reports", "statistics"}),
    "analyst": frozenset({"payments", "statistics"}),
    "service": frozenset({"commands", "payments"}),
    "operator": frozenset({"audit", "metrics", "payments", "reports", "statistics", "status"}),
}
# Told apart from other secrets by whoever searches for leaked ones.
_PREFIX: Final = "llt_"
_LONGEST_NAME: Final = 100
_LONGEST_DAYS: Final = 3_650


class TokenError(LedgerLakeError):
    """A token that can not be made, or that there is none of."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What is known of a token. `organizations` None: all of them. `id` is public, the secret is not kept."""

    id: str
    name: str
    role: str
    organizations: frozenset[str] | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    def good_at(self, now: datetime) -> bool:
        """Whether it lets anybody in."""
        return self.revoked_at is None and now < self.expires_at


class AccessTokens:
    """The collection access_tokens."""

    def __init__(self, db: Database[dict[str, Any]]) -> None:
        self._tokens = db[ACCESS_TOKENS]

    def create(
        self, name: str, role: str, organizations: Collection[str] | None, lifetime: timedelta
    ) -> tuple[AccessToken, str]:
        """Make a token; returns it and its secret, which nobody can show again.

        Args:
            organizations: those that it gives access to; None: all, those to come too.

        Raises:
            TokenError: an unknown role, no name or no organization, or a lifetime that can not be.
        """
        _check(name, role, organizations, lifetime)
        secret = _PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        now -= timedelta(microseconds=now.microsecond % 1_000)
        token = AccessToken(
            id=secrets.token_hex(8),
            name=name,
            role=role,
            organizations=None if organizations is None else frozenset(organizations),
            created_at=now,
            expires_at=now + lifetime,
            revoked_at=None,
        )
        self._tokens.insert_one(
            {
                "_id": token.id,
                "sha256": digest(secret),
                "name": token.name,
                "role": token.role,
                "organizations": None if token.organizations is None else sorted(token.organizations),
                "createdAt": token.created_at,
                "expiresAt": token.expires_at,
                "revokedAt": None,
            }
        )
        return token, secret

    def all(self) -> list[AccessToken]:
        """Every token that was ever made, the oldest first."""
        return [_token(found) for found in self._tokens.find().sort("createdAt")]

    def by_digest(self) -> dict[str, AccessToken]:
        """Every token that is good now, by the SHA-256 of its secret."""
        wanted = {"revokedAt": None, "expiresAt": {"$gt": datetime.now(UTC)}}
        return {found["sha256"]: _token(found) for found in self._tokens.find(wanted)}

    def revoke(self, token_id: str) -> AccessToken:
        """Take a token back, for good; servers that are running know it a second later.

        Raises:
            TokenError: there is none of that id.
        """
        found = self._tokens.find_one({"_id": token_id})
        if found is None:
            raise TokenError(f"There is no token {token_id!r}.", "`ledgerlake token list` shows their ids.")
        if found["revokedAt"] is None:
            found["revokedAt"] = datetime.now(UTC)
            wanted = {"_id": token_id, "revokedAt": None}
            self._tokens.update_one(wanted, {"$set": {"revokedAt": found["revokedAt"]}})
        return _token(found)


def digest(secret: str) -> str:
    """The SHA-256 (64 hex digits) of a secret. It is random, so that nobody can guess it from that."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _check(name: str, role: str, organizations: Collection[str] | None, lifetime: timedelta) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise TokenError(f"{name!r} is no name for a token.", "Say in up to 100 letters who will use it.")
    if role not in ROLES:
        raise TokenError(f"{role!r} is no role.", f"Choose from {', '.join(ROLES)}.")
    if organizations is not None and not (organizations and all(each.strip() for each in organizations)):
        raise TokenError(
            "A token is for one organization at least.", "Name it: --organization, or * for all of them."
        )
    if not timedelta() < lifetime <= timedelta(days=_LONGEST_DAYS):
        raise TokenError("A token lives for one day at least.", f"Give 1 to {_LONGEST_DAYS:,} days.")


def _token(found: Mapping[str, Any]) -> AccessToken:
    organizations = found["organizations"]
    return AccessToken(
        id=found["_id"],
        name=found["name"],
        role=found["role"],
        organizations=None if organizations is None else frozenset(organizations),
        created_at=found["createdAt"],
        expires_at=found["expiresAt"],
        revoked_at=found["revokedAt"],
    )
