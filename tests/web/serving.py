"""A server of its own on a port that was free, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx
import uvicorn

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from ledgerlake.web.app import create_app
from ledgerlake.web.tokens import AccessTokens

ROLES = ("finance", "analyst", "service", "operator")


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address of a server on the ledger of `settings`, and the server itself."""
    config = uvicorn.Config(create_app(settings), port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server has ended"
        assert time.monotonic() < until, "the server starts"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server ends"


def make_token(ledger: LedgerLake, role: str, *organizations: str, days: float = 1) -> str:
    """The secret of a new token; for all organizations where none is named."""
    named = list(organizations) or None
    return AccessTokens(ledger.db).create(f"{role} of tests", role, named, timedelta(days=days))[1]


def as_(address: str, secret: str | None, **options: object) -> httpx.Client:
    """A client that shows a token."""
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return httpx.Client(base_url=address, headers=headers, timeout=60, **options)  # type: ignore[arg-type]
