"""A real mongod, one-node replica set, kept in LEDGERLAKE_HOME/mongo and shared by all who ask for it.

    mongo/data/         the database files
    mongo/mongod.log    the server's log (started anew beyond 16 MiB, one old one kept)
    mongo/state.json    which process serves, and where: written once it does, removed before it stops
    mongo/port          the port it served last, taken again if it is free
    mongo/lock          held (flock) while a server is looked for, started or stopped

The server outlives the process that started it, until `stop`. Loopback only, without authentication:
for trials, tests and one machine.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.binary import find_mongod
from ledgerlake.mongo.launch import EmbeddedFailed, become_primary, launch, log_tail
from ledgerlake.mongo.process import ProcessIdentity, identify, is_alive, send_signal
from ledgerlake.mongo.state import Running, clear_state, find_running, last_port, read_state, write_state
from ledgerlake.settings import Settings

_LOCK_PATIENCE = 120.0  # seconds: longer than any start or stop may take
_STOP_PATIENCE = 30.0
_OP_MSG = 2013


class EmbeddedLocked(LedgerLakeError):
    """Another process has been starting or stopping the server for too long."""


class HomeUnusable(LedgerLakeError):
    """LEDGERLAKE_HOME cannot hold the server's files."""


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What `status` found. `pid`, `port` and `uri` are None unless `running`."""

    running: bool
    pid: int | None
    port: int | None
    uri: str | None
    data: Path
    log: Path


def ensure_running(settings: Settings, extra_args: Sequence[str] = ()) -> str:
    """The URI of the server for settings.home, which is started if it does not run; a few ms if it does.

    With settings.mongodb_uri set, that is returned and nothing is started.
    `extra_args` go to mongod if it is started by this call. Safe to call from many processes at once.
    Raises EmbeddedUnavailable (no mongod here), HomeUnusable, EmbeddedLocked, EmbeddedFailed.
    """
    if settings.mongodb_uri is not None:
        return settings.mongodb_uri
    running = read_state(settings.mongo_dir)
    if running is not None and _answers(running.port):
        return running.uri
    mongod = find_mongod()
    with _lock(settings):
        running = _adopt(settings) or _start(settings, mongod, extra_args)
        return running.uri


def status(settings: Settings) -> EmbeddedStatus:
    """Whether the server for settings.home runs, and where. Starts nothing and creates no folder."""
    running = find_running(settings.mongo_dir)
    return EmbeddedStatus(
        running=running is not None,
        pid=running.pid if running else None,
        port=running.port if running else None,
        uri=running.uri if running else None,
        data=settings.mongo_dir / "data",
        log=settings.mongo_dir / "mongod.log",
    )


def stop(settings: Settings) -> bool:
    """Shuts the server down cleanly; True if one ran. Returns once its process is gone.

    Only a process proven to be our mongod (start time and database path) is signalled.
    """
    if not settings.mongo_dir.is_dir():
        return False
    with _lock(settings):
        running = find_running(settings.mongo_dir)
        clear_state(settings.mongo_dir)
        if running is None:
            return False
        for number, patience in ((signal.SIGTERM, _STOP_PATIENCE), (signal.SIGKILL, 10.0)):
            if not send_signal(running.identity, number) or _wait_gone(running.identity, patience):
                return True
        raise EmbeddedFailed(
            f"mongod (pid {running.pid}) does not end, not even by SIGKILL.", "Look for a disk that hangs."
        )


def _adopt(settings: Settings) -> Running | None:
    """The server that runs already, once it serves.

    It may be about to die, or whoever started it may have died before saying so.
    """
    running = find_running(settings.mongo_dir)
    if running is None:
        return None
    try:
        become_primary(running.port, settings.mongo_dir / "mongod.log", lambda: is_alive(running.identity))
    except EmbeddedFailed:
        if is_alive(running.identity):
            raise
        return None
    write_state(settings.mongo_dir, running)
    return running


def _start(settings: Settings, mongod: Path, extra_args: Sequence[str]) -> Running:
    folder = settings.mongo_dir
    data = folder / "data"
    try:
        data.mkdir(exist_ok=True)
    except OSError as error:
        raise _unusable(settings, error) from error
    clear_state(settings.mongo_dir)
    pid, port = launch(mongod, folder, last_port(folder), extra_args)
    identity = identify(pid)
    if identity is None:
        raise EmbeddedFailed(
            f"mongod ended right after it started.\n{log_tail(folder / 'mongod.log')}",
            f"See {folder / 'mongod.log'}.",
        )
    become_primary(port, folder / "mongod.log", lambda: is_alive(identity))
    running = Running(pid, identity.started, port, os.path.realpath(data))
    write_state(settings.mongo_dir, running)
    return running


def _answers(port: int) -> bool:
    """Whether a ping is answered. One round trip by hand costs a tenth of what a client of the driver does.

    That the connection is accepted is no answer: the kernel still does that for a process being killed.
    """
    import bson  # here, so that `stop` needs nothing but the standard library

    body = b"\0" + bson.encode({"ping": 1, "$db": "admin"})
    ping = struct.pack("<iiiiI", 20 + len(body), 1, 0, _OP_MSG, 0) + body
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
            connection.sendall(ping)
            return connection.recv(16) != b""
    except OSError:
        return False


def _wait_gone(identity: ProcessIdentity, patience: float) -> bool:
    until = time.monotonic() + patience
    while is_alive(identity):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    try:
        settings.mongo_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(settings.mongo_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(settings, error) from error
    try:
        until = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise EmbeddedLocked(
                        f"Another process has held {settings.mongo_dir / 'lock'} for {_LOCK_PATIENCE:.0f} s.",
                        "It starts or stops the server: see what it waits for, or end it.",
                    ) from error
                time.sleep(0.02)
            except OSError as error:
                raise _unusable(settings, error) from error
        yield
    finally:
        os.close(descriptor)  # which also lets go of the lock


def _unusable(settings: Settings, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"The folder {settings.mongo_dir} cannot be used: {error.strerror or error}.",
        "Set LEDGERLAKE_HOME to a folder on a local disk that you may write to.",
    )
