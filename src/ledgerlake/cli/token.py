"""`ledgerlake token`: who may use the web server, and for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.cli.render import AsJson, console, print_json, print_table

if TYPE_CHECKING:
    from ledgerlake.web.tokens import AccessToken, AccessTokens

EVERY_ORGANIZATION = "*"

token_app = typer.Typer(help="Access tokens of the web server.", no_args_is_help=True)


@token_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who will use it, for the list of tokens and the logs.")],
    role: Annotated[
        str, typer.Option("--role", "-r", help="finance, analyst, service or operator: what it is for.")
    ],
    organization: Annotated[
        list[str],
        typer.Option("--organization", "-o", help="What it gives access to; * for all. Repeatable."),
    ],
    days: Annotated[int, typer.Option("--days", "-d", help="After so many days it is good no more.")] = 90,
    json: AsJson = False,
) -> None:
    """Make a token and print it. It is kept nowhere: nobody can show it again."""
    every = EVERY_ORGANIZATION in organization
    if every and len(set(organization)) > 1:
        raise typer.BadParameter("* is all of them already.", param_hint="--organization")
    with _tokens() as tokens:
        token, secret = tokens.create(
            name, role, None if every else organization, timedelta(days=min(days, 100_000))
        )
    if json:
        print_json({**_shown(token), "token": secret})
        return
    console(stderr=True).print(
        f"Token {token.id} for {token.name}, role {token.role}, good until {token.expires_at:%Y-%m-%d}. "
        "It is not shown again:",
        markup=False,
        soft_wrap=True,
    )
    print(secret)


@token_app.command("list")
def list_(json: AsJson = False) -> None:
    """All tokens that were ever made, without the tokens themselves."""
    with _tokens() as tokens:
        found = tokens.all()
    if json:
        print_json([_shown(token) for token in found])
        return
    now = datetime.now(UTC)
    print_table(
        "Access tokens",
        ("id", "name", "role", "organizations", "expires", "state"),
        [
            (
                token.id,
                token.name,
                token.role,
                ", ".join(_organizations(token)),
                token.expires_at.date(),
                _state(token, now),
            )
            for token in found
        ],
    )


@token_app.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(help="Its id, as `ledgerlake token list` shows it.")],
    json: AsJson = False,
) -> None:
    """Take a token back, for good. Servers let nobody in with it a second later."""
    with _tokens() as tokens:
        token = tokens.revoke(token_id)
    if json:
        print_json(_shown(token))
        return
    console().print(f"Revoked: token {token.id} of {token.name}.", markup=False, soft_wrap=True)


@contextmanager
def _tokens() -> Iterator[AccessTokens]:
    from ledgerlake.application import LedgerLake
    from ledgerlake.web.tokens import AccessTokens

    with LedgerLake.open() as ledger:
        yield AccessTokens(ledger.db)


def _shown(token: AccessToken) -> dict[str, Any]:
    return {
        **asdict(token),
        "organizations": _organizations(token),
        "state": _state(token, datetime.now(UTC)),
    }


def _organizations(token: AccessToken) -> list[str]:
    return [EVERY_ORGANIZATION] if token.organizations is None else sorted(token.organizations)


def _state(token: AccessToken, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "good" if token.good_at(now) else "expired"
