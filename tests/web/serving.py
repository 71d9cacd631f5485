"""A server of its own on a port that was free, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import uvicorn

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from ledgerlake.web.app import create_app
from ledgerlake.web.tokens import AccessTokens

PATIENCE = 180.0
ROLES = ("finance", "analyst", "service", "operator")


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address of a server on the ledger of `settings`, and the server itself."""
    config = uvicorn.Config(create_app(settings), port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server has ended"
        assert time.monotonic() < deadline, "the server starts"
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


def charge(**fields: Any) -> dict[str, Any]:
    """The body of a ProcessPayment; of another payment each time, unless `fields` say which."""
    return {
        "payment_id": f"p-{uuid.uuid4().hex}",
        "amount": "12.30",
        "currency": "EUR",
        "occurred_at": "2026-03-01T12:00:00Z",
        "user_id": "u-17",
        **fields,
    }


def send(client: httpx.Client, body: dict[str, Any], key: str | None = None, what: str = "process") -> Any:
    """The answer to a command; under another key each time, unless one is given."""
    headers = {"Idempotency-Key": key or f"k-{uuid.uuid4().hex}"}
    return client.post(f"/api/v1/commands/{what}-payment", json=body, headers=headers)


def until(true: Callable[[], object], what: str) -> None:
    """Wait for what is to become true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
