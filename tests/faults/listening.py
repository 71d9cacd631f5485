"""A database opened as every process of ours opens it, with a listener of the driver beside it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pymongo import MongoClient, monitoring
from pymongo.database import Database

from ledgerlake.mongo import connection
from ledgerlake.settings import Settings

GATE_SECONDS = 600.0  # a gate that nobody opens is a test that hangs


class Gate(monitoring.CommandListener):
    """Holds up one command, right before it is sent, from `close()` until `open()`."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == self._command and not self._open.is_set():
            self.reached.set()
            assert self._open.wait(GATE_SECONDS)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@dataclass(slots=True)
class Sent:
    """A command of a transaction, and what came back; nothing did where the connection broke."""

    command: str
    transaction: tuple[bytes, int]  # the session's id and the transaction's number in it
    reply: Mapping[str, Any] = field(default_factory=dict)


class Record(monitoring.CommandListener):
    """The commands of transactions, in the order in which they were sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.conflict = threading.Event()  # set once the counter was found locked
        self._open: dict[int, Sent] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if "txnNumber" in event.command:
            transaction = (bytes(event.command["lsid"]["id"]), event.command["txnNumber"])
            sent = self._open[event.request_id] = Sent(event.command_name, transaction)
            self.sent.append(sent)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if (sent := self._open.pop(event.request_id, None)) is not None:
            sent.reply = event.reply

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        if (sent := self._open.pop(event.request_id, None)) is not None:
            sent.reply = event.failure
        if event.command_name == "findAndModify":
            self.conflict.set()


@contextmanager
def listening(
    settings: Settings, listener: monitoring.CommandListener, app_name: str = "ledgerlake"
) -> Iterator[Database[dict[str, Any]]]:
    """The database of `settings`; `listener` hears what its client sends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "MongoClient", functools.partial(MongoClient, event_listeners=[listener]))
        database = connection.open_database(settings, app_name)
    try:
        yield database
    finally:
        database.client.close()
