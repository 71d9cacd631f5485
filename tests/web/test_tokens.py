"""`ledgerlake token`: made once, shown once, listed without what opens anything, taken back for good."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.cli import app
from ledgerlake.web.tokens import AccessTokens, TokenError, digest


def tool(environ: dict[str, str], *words: str, exit_code: int = 0) -> Any:
    found = CliRunner().invoke(app, ["token", *words, "--json"], env=environ)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == exit_code, found.output
    return json.loads(found.stdout) if exit_code == 0 else found.output


def test_a_token_is_made_listed_and_revoked(environ: dict[str, str], database: Database[Any]) -> None:
    made = tool(
        environ, "create", "till 4", "--role", "service", "-o", "acme", "-o", "globex", "--days", "30"
    )
    assert (made["role"], made["organizations"], made["state"]) == ("service", ["acme", "globex"], "good")
    assert len(made["token"]) == len("llt_") + 43  # 256 bits in base64
    everything = tool(environ, "create", "auditor", "--role", "operator", "-o", "*")
    assert everything["organizations"] == ["*"]
    listed = tool(environ, "list")
    assert [each["name"] for each in listed] == ["till 4", "auditor"]
    assert made["token"] not in json.dumps(listed)
    tokens = AccessTokens(database)
    found = tokens.by_digest()[digest(made["token"])]
    assert found.expires_at - found.created_at == timedelta(days=30)
    assert not found.good_at(datetime.now(UTC) + timedelta(days=31))
    assert tool(environ, "revoke", made["id"])["state"] == "revoked"
    assert tool(environ, "revoke", made["id"])["revoked_at"] == tool(environ, "list")[0]["revoked_at"]
    assert list(tokens.by_digest()) == [digest(everything["token"])]
    with pytest.raises(TokenError, match="no token 'nobody'"):
        tool(environ, "revoke", "nobody")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("", "--role", "service", "-o", "acme"), "no name"),
        (("x", "--role", "king", "-o", "acme"), "no role"),
        (("x", "--role", "service", "-o", ""), "one organization"),
        (("x", "--role", "service", "-o", "acme", "--days", "0"), "one day"),
        (("x", "--role", "service", "-o", "acme", "--days", "99999999"), "one day"),
    ],
)
def test_a_token_that_can_not_be_is_refused(
    environ: dict[str, str], database: Database[Any], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(TokenError, match=said):
        tool(environ, "create", *words)
    assert AccessTokens(database).all() == []


def test_all_organizations_are_not_named_beside_others(environ: dict[str, str]) -> None:
    words = ("create", "x", "--role", "service", "-o", "*", "-o", "acme")
    assert "all of them already" in tool(environ, *words, exit_code=2)
