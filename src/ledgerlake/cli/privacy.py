"""`ledgerlake forget`: destroy the key that a person's data is kept under."""

from __future__ import annotations

from typing import Annotated

import typer

from ledgerlake.cli.render import AsJson, console, print_json


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("forget")(forget)


def forget(
    user_id: Annotated[str, typer.Argument(help="The user to forget, as commands name them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Destroy a person's key: what is personal can never be read again, and payments go on as before."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.privacy.keys import CACHE_SECONDS

    if not yes:
        typer.confirm(
            "What the ledger holds under this person's key can never be read again. Go on?",
            abort=True,
            err=True,
        )
    with LedgerLake.open() as ledger:
        done = ledger.forget(user_id)
    if json:
        print_json(done)
        return
    out = console()
    if done.subject is None:
        out.print("There is no key of this user (any more): nothing is kept under one.")
    else:
        out.print(f"Forgotten: the key of subject {done.subject} is destroyed.")
        out.print(f"Processes that are writing take notice within {CACHE_SECONDS:g} seconds.", style="dim")
    if done.rejections:
        out.print(f"Refused commands that named the user, and no longer do: {done.rejections:,}")
    if done.events:
        named = "1 event names" if done.events == 1 else f"{done.events:,} events name"
        out.print(
            f"{named} the user in clear, since metadata.userId was not declared personal when it was stored.",
            soft_wrap=True,
        )
    if done.archived:
        out.print(
            f"{done.archived:,} archived events were not searched: what was stored in them under no key, "
            "as a user id that was not declared personal, stays readable in the lake's archive.",
            soft_wrap=True,
        )
