"""Every route of the application lets in whoever it is for, and nobody else: a case for each in its table."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute

from ledgerlake.settings import Settings
from ledgerlake.web.access import OPEN, Allowed
from ledgerlake.web.app import create_app
from ledgerlake.web.tokens import ROLES, AccessTokens, digest
from tests.web.conftest import Served
from tests.web.serving import as_, make_token

# What stands for the parameters of paths: all of it is acme's. A route with another parameter has no case.
PARAMETERS = {
    "payment_id:path": "acme-1",
    "period": "2011-11",
    "edition": "revision-1",
    "name": "acme",  # of pages: the organization
    "chart": "volume",
    "file": "summary.csv",
}
IN_API = {"name": "summary.csv"}
BODY = {
    "amount": "0.01",
    "currency": "EUR",
    "occurred_at": "2026-03-01T12:00:00Z",
    "organization": "acme",
}


@dataclass(frozen=True)
class Case:
    """A route, and an address that it serves."""

    method: str
    path: str
    capability: str | None
    address: str
    open: bool


def routes_of(app: FastAPI) -> Iterator[Any]:
    for route in app.routes:
        if hasattr(route, "effective_route_contexts"):  # an included router
            yield from (each.original_route for each in route.effective_route_contexts())
        else:
            yield route


def cases_of(app: FastAPI) -> list[Case]:
    """A case for each method of each route. Fails for a route that nobody guards, or that has no address."""
    found = []
    for route in routes_of(app):
        guards = []
        if isinstance(route, APIRoute):
            guards = [each.call for each in route.dependant.dependencies if isinstance(each.call, Allowed)]
        is_open = route.path in OPEN
        assert is_open or len(guards) == 1, f"{route.path} names nobody who is allowed"
        known = {**PARAMETERS, **(IN_API if route.path.startswith("/api/") else {})}
        address = route.path
        if not is_open:
            for part in route.path.split("{")[1:]:
                name = part.split("}")[0]
                assert name in known, f"{route.path} has no case: add {name}"
                address = address.replace(f"{{{name}}}", known[name])
        capability = guards[0].capability if guards else None
        found += [
            Case(method, route.path, capability, address, is_open)
            for method in sorted(route.methods)
            if method != "HEAD"
        ]
    return found


CASES = cases_of(create_app(Settings.from_env({})))
GUARDED = [case for case in CASES if not case.open]
every_guarded_route = pytest.mark.parametrize("case", GUARDED, ids=lambda case: f"{case.method} {case.path}")


def ask(served: Served, secret: str | None, case: Case, **params: str) -> tuple[int, str]:
    with as_(served.address, secret) as client:
        # A payment that no other test looks at, and a command of its own.
        name = f"nobody-{uuid.uuid4().hex}"
        body = {**BODY, "payment_id": name} if case.method == "POST" else None
        headers = {"Idempotency-Key": name}
        answer = client.request(case.method, case.address, json=body, headers=headers, params=params)
        return answer.status_code, answer.text


@every_guarded_route
def test_no_token_no_answer(served: Served, case: Case) -> None:
    assert ask(served, None, case)[0] == 401


@every_guarded_route
def test_a_token_that_is_unknown_expired_or_revoked_is_none(served: Served, case: Case) -> None:
    tokens = AccessTokens(served.ledger.db)
    role = next(role for role in ROLES if case.capability is None or case.capability in ROLES[role])
    _, expired = tokens.create("expired", role, ["acme"], timedelta(milliseconds=1))
    gone, revoked = tokens.create("revoked", role, ["acme"], timedelta(days=1))
    tokens.revoke(gone.id)
    for secret in ("llt_" + "0" * 43, "x", expired, revoked, revoked.lower(), gone.id):
        assert ask(served, secret, case)[0] == 401, secret


@every_guarded_route
def test_a_role_that_does_not_include_it_is_refused(served: Served, case: Case) -> None:
    for role, capabilities in ROLES.items():
        status, _ = ask(served, served.tokens[role], case)
        if case.capability is None or case.capability in capabilities:
            assert status not in (401, 403), role
        else:
            assert status == 403, role


@every_guarded_route
def test_a_foreign_token_sees_nothing_of_another_organization(served: Served, case: Case) -> None:
    role = next(role for role in ROLES if case.capability is None or case.capability in ROLES[role])
    foreign = make_token(served.ledger, role, "globex")
    before = served.ledger.store.head()
    for params in ({}, {"organization": "acme"}, {"organization": "globex"}):
        status, text = ask(served, foreign, case, **params)
        assert status in (403, 404, 422) or "acme" not in text, (params, text)
        if "acme" in case.address and not case.path.startswith("/payment"):
            assert status in (403, 404, 422), (params, text)
    assert served.ledger.store.head() == before


def test_open_routes_tell_nothing_of_anybody(served: Served) -> None:
    for case in CASES:
        if case.open and case.method == "GET" and "{" not in case.path:
            status, text = ask(served, None, case)
            assert status == 200, case
            assert "globex" not in text


def test_a_token_that_is_revoked_lets_nobody_in_a_moment_later(served: Served) -> None:
    tokens = AccessTokens(served.ledger.db)
    token, secret = tokens.create("short", "finance", ["acme"], timedelta(days=1))
    with as_(served.address, secret) as client:
        assert client.get("/api/v1/payments").status_code == 200
        tokens.revoke(token.id)
        until = time.monotonic() + 30
        while client.get("/api/v1/payments").status_code != 401:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_the_database_does_not_hold_what_opens_it(served: Served) -> None:
    secret = make_token(served.ledger, "finance", "acme")
    stored = str(list(served.ledger.db["access_tokens"].find()))
    assert secret not in stored
    assert secret.removeprefix("llt_") not in stored


def test_tokens_that_are_over_are_looked_at_no_more(served: Served) -> None:
    tokens = AccessTokens(served.ledger.db)
    _, over = tokens.create("over", "finance", ["acme"], timedelta(milliseconds=1))
    gone, revoked = tokens.create("gone", "finance", ["acme"], timedelta(days=1))
    tokens.revoke(gone.id)
    good = make_token(served.ledger, "finance", "acme")
    until = time.monotonic() + 30
    while digest(over) in tokens.by_digest():
        assert time.monotonic() < until
    assert digest(good) in tokens.by_digest()
    assert digest(revoked) not in tokens.by_digest()


def test_negative_control_a_route_that_nobody_guards_or_that_has_no_case_fails() -> None:
    async def endpoint() -> None: ...

    app = create_app(Settings.from_env({}))
    app.add_api_route("/api/v1/everything", endpoint)
    with pytest.raises(AssertionError, match="/api/v1/everything names nobody"):
        cases_of(app)
    app = create_app(Settings.from_env({}))
    app.add_api_route("/api/v1/books/{book}", endpoint, dependencies=[Depends(Allowed("reports"))])
    with pytest.raises(AssertionError, match="has no case: add book"):
        cases_of(app)
