"""`ledgerlake serve`: the HTTP API and finance's pages."""

from __future__ import annotations

import signal
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the tool."""
    app.command("serve")(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: one that is free.")] = 8600,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
) -> None:
    """Serve the API and the pages until SIGINT or SIGTERM: what is under way is finished first."""
    import uvicorn

    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises them again once it has ended, which is to be an end like any other.
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        "ledgerlake.web.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=512,
    )


# An append is confirmed, or is told not to be, in less.
GRACE_SECONDS = 60
