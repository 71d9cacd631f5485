"""`ledgerlake serve`: the HTTP API and finance's pages."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from fastapi import FastAPI

# An append is confirmed, or is told not to be, in less.
GRACE_SECONDS: Final = 60
# A worker that has not answered its supervisor for so long is replaced: long, for one that is only busy.
_SILENT_SECONDS: Final = 20


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
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from ledgerlake.settings import Settings
    from ledgerlake.web.service import Service

    # What is wrong is said here, in one message: a worker would tell of it by a traceback.
    Service.open(Settings.from_env()).close()
    config = uvicorn.Config(
        f"{__name__}:application",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=_SILENT_SECONDS,
        backlog=512,
    )
    listening = config.bind_socket()
    address = f"[{host}]" if ":" in host else host
    print(f"Serving on http://{address}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    if workers == 1:
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises them again once it has ended, which is to be an end like any other.
            signal.signal(number, lambda *_: None)
        server = uvicorn.Server(config)
        server.run([listening])
        failed = not server.started
    else:
        supervisor = Multiprocess(config, [listening])
        supervisor.run()
        failed = any(each.exitcode == STARTUP_FAILURE for each in supervisor.processes)
    if failed:
        raise typer.Exit(STARTUP_FAILURE)


def application() -> FastAPI:
    """What a process serves. A worker ends with the process that started it, however that ends."""
    from ledgerlake.web.app import create_app

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return create_app()


def _end_with(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
