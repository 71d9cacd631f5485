"""The organizations that somebody sees, by the names that addresses have for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from starlette.requests import Request

from ledgerlake.queries import GetStatistics
from ledgerlake.reports.slug import slug as _slug
from ledgerlake.web.access import Principal
from ledgerlake.web.problems import Problem
from ledgerlake.web.service import Service

slug = lru_cache(maxsize=100_000)(_slug)
"""An organization's name in an address: the same as that of its folders."""


def names(service: Service, principal: Principal) -> tuple[str, ...]:
    """The organizations of a token, in order; of one for all of them, those that anything is known of."""
    if principal.organizations is not None:
        return tuple(sorted(principal.organizations))
    found = service.reads.queries.ask(GetStatistics())
    return tuple(sorted({row.organization_id for row in found.rows}))


async def organization(request: Request, principal: Principal, name: str) -> str:
    """The organization that an address names.

    Raises:
        Problem: 404 where there is none, or it is not one of the token's.
    """
    service: Service = request.app.state.service
    found = (await service.run(_by_slug, service, principal)).get(name)
    if found is None:
        raise Problem(
            404, "no_such_organization", "There is no such organization for you to see.", "Go to the list."
        )
    return found


def _by_slug(service: Service, principal: Principal) -> Mapping[str, str]:
    return {slug(each): each for each in names(service, principal)}
