"""`ledgerlake mongo start|stop|status`: the embedded server by hand. It also starts when needed."""

from __future__ import annotations

import json as json_text
import os
from typing import Annotated, Any

import typer

from ledgerlake.settings import Settings, redacted

mongo_app = typer.Typer(help="Start, stop or look at the embedded MongoDB.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@mongo_app.command("start")
def start(json: AsJson = False) -> None:
    """Start the embedded MongoDB, unless it runs already, and print its URI."""
    from ledgerlake.mongo.embedded import ensure_running

    settings = Settings.from_env()
    if settings.mongodb_uri is None:
        ensure_running(settings)
    _report(settings, json)


@mongo_app.command("stop")
def stop(json: AsJson = False) -> None:
    """Shut the embedded MongoDB down cleanly. Its data stays, and the next command starts it again."""
    from ledgerlake.mongo.embedded import stop as stop_server

    settings = Settings.from_env()
    stopped = stop_server(settings)
    if json:
        typer.echo(json_text.dumps({"stopped": stopped}))
    else:
        typer.echo("stopped" if stopped else f"no embedded MongoDB runs in {settings.mongo_dir}")


@mongo_app.command("status")
def status(json: AsJson = False) -> None:
    """Say whether the embedded MongoDB runs, and where. Starts nothing."""
    _report(Settings.from_env(), json)


def _report(settings: Settings, json: bool) -> None:
    found = _describe(settings)
    if json:
        typer.echo(json_text.dumps(found))
        return
    if found["mode"] == "external":
        typer.echo(f"LEDGERLAKE_MONGODB_URI is set: {found['uri']} is used, and no server is started")
    elif found["running"]:
        typer.echo(f"running: {found['uri']} (pid {found['pid']}, data {found['data']}, log {found['log']})")
    else:
        typer.echo(f"not running (data {found['data']}); it starts when it is needed")


def _describe(settings: Settings) -> dict[str, Any]:
    """mode is embedded or external; running is null for an external server, which is not asked."""
    if settings.mongodb_uri is not None:
        nothing = dict.fromkeys(("running", "pid", "port"))
        return {"mode": "external", "uri": redacted(settings.mongodb_uri), **nothing}
    from ledgerlake.mongo.embedded import status as find

    found = find(settings)
    return {
        "mode": "embedded",
        "uri": found.uri,
        "running": found.running,
        "pid": found.pid,
        "port": found.port,
        "data": os.fspath(found.data),
        "log": os.fspath(found.log),
    }
