"""Who asks, and what they may: from the token of a request, and from nothing else in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from ledgerlake.web.problems import Problem
from ledgerlake.web.tokens import ROLES, AccessToken, digest

if TYPE_CHECKING:
    from ledgerlake.web.service import Service

# A token that was revoked lets nobody in after so long.
TRUSTED_SECONDS: Final = 1.0
# How often, at most, an unknown token makes the server look whether there is a new one.
_LOOK_SECONDS: Final = 0.05
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="ledgerlake"'}
# Routes that need no token, by path. Every other one names what its caller must be allowed.
OPEN: Final = frozenset(
    {"/healthz", "/readyz", "/api/v1/openapi.json", "/sign-in", "/sign-out", "/static/{path:path}"}
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a token was given to. `organizations` None: all of them."""

    token_id: str
    name: str
    role: str
    organizations: frozenset[str] | None
    expires_at: datetime

    def may(self, capability: str) -> bool:
        """Whether the role includes it: reports, payments, audit, statistics, commands, status, metrics."""
        return capability in ROLES[self.role]

    def sees(self, organization: str) -> bool:
        """Whether the organization is among those of the token."""
        return self.organizations is None or organization in self.organizations

    def organization(self, wanted: str | None) -> str:
        """The organization that a request is about: the token's only one, or the one named among its own.

        Raises:
            Problem: 403 another's; 422 the token has several, and none is named.
        """
        found = self.organization_or_all(wanted)
        if found is None:
            raise Problem(
                422,
                "organization_needed",
                "Your token is for all organizations, and the request is about one.",
                "Name it: organization.",
                errors=[("organization", "is missing")],
            )
        return found

    def organization_or_all(self, wanted: str | None) -> str | None:
        """The same, but None, for all of them, where the token is for all and none is named."""
        if wanted is not None:
            if not self.sees(wanted):
                raise Problem(403, "foreign_organization", "Your token is not for that organization.", _OWN)
            return wanted
        if self.organizations is None:
            return None
        if len(self.organizations) > 1:
            raise Problem(
                422,
                "organization_needed",
                f"Your token is for {len(self.organizations)} organizations, and the request is about one.",
                "Name it: organization.",
                errors=[("organization", "is missing")],
            )
        return next(iter(self.organizations))


_OWN: Final = "Leave it out, or name one that the token was made for."


class TokenDirectory:
    """The tokens that are good, as of a second ago at most; one look at the database serves all requests."""

    def __init__(self, load: Callable[[], dict[str, AccessToken]]) -> None:
        self._load = load
        self._by_digest: dict[str, AccessToken] = {}
        self._by_id: dict[str, AccessToken] = {}
        self._loaded = -1e9
        self._lock = asyncio.Lock()

    async def of_secret(self, secret: str, service: Service) -> AccessToken | None:
        """The token of a secret; None if there is none that is good."""
        return await self._find(lambda: self._by_digest.get(digest(secret)), service)

    async def of_id(self, token_id: str, service: Service) -> AccessToken | None:
        """The token of a public id; None if there is none that is good."""
        return await self._find(lambda: self._by_id.get(token_id), service)

    async def _find(self, look: Callable[[], AccessToken | None], service: Service) -> AccessToken | None:
        if time.monotonic() - self._loaded > TRUSTED_SECONDS:
            await self._refresh(time.monotonic() - TRUSTED_SECONDS, service)
        found = look()
        if found is None:
            # It may have been made just now.
            asked = time.monotonic()
            await asyncio.sleep(max(0.0, self._loaded + _LOOK_SECONDS - asked))
            await self._refresh(asked, service)
            found = look()
        return found if found is not None and found.good_at(datetime.now(UTC)) else None

    async def _refresh(self, since: float, service: Service) -> None:
        async with self._lock:
            if self._loaded >= since:
                return
            started = time.monotonic()
            by_digest = await service.look_up(self._load)
            self._by_digest = by_digest
            self._by_id = {token.id: token for token in by_digest.values()}
            self._loaded = started


class Allowed(SecurityBase):
    """A dependency: the principal of a request, who must be allowed `capability` (None: anything).

    A bearer token, or, for reading, the cookie of a session.
    """

    def __init__(self, capability: str | None) -> None:
        self.model = HTTPBearer(description="A token made by `ledgerlake token create`.")
        self.scheme_name = "token"
        self.capability = capability

    async def __call__(self, request: Request) -> Principal:
        """Raises Problem: 401 without a good token, 403 for a role that may not."""
        principal = await _principal(request)
        if self.capability is not None and not principal.may(self.capability):
            raise Problem(
                403,
                "role_not_allowed",
                f"The role {principal.role!r} does not include {self.capability!r}.",
                "Use a token of another role.",
            )
        return principal


async def signed_in(request: Request, secret: str) -> Principal | None:
    """Whose token it is; None if it is not good."""
    service: Service = request.app.state.service
    token = await service.tokens.of_secret(secret, service)
    return None if token is None else _principal_of(token)


async def _principal(request: Request) -> Principal:
    service: Service = request.app.state.service
    given = request.headers.get("authorization")
    token: AccessToken | None = None
    if given is not None:
        scheme, _, secret = given.partition(" ")
        if scheme.lower() == "bearer":
            token = await service.tokens.of_secret(secret.strip(), service)
    elif request.method in ("GET", "HEAD") or not request.url.path.startswith("/api/"):
        token_id = service.session_of(request)
        if token_id is not None:
            token = await service.tokens.of_id(token_id, service)
    if token is None:
        service.limits.unknown(request)
        raise Problem(
            401,
            "no_good_token",
            "The request has no token, or one that is unknown, expired or revoked.",
            "Send Authorization: Bearer TOKEN; `ledgerlake token create` makes one.",
            headers=_CHALLENGE,
        )
    service.limits.begin(token.id)
    principal = _principal_of(token)
    request.state.principal = principal
    return principal


def _principal_of(token: AccessToken) -> Principal:
    return Principal(token.id, token.name, token.role, token.organizations, token.expires_at)
