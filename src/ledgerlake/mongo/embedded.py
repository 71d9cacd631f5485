"""A real mongod, one-node replica set, kept in LEDGERLAKE_HOME/mongo and shared by all who ask for it.

    mongo/data/         the database files
    mongo/mongod.log    the server's log (started anew beyond 16 MiB, one old one kept)
    mongo/state.json    which process serves, and where: written once it does, removed before it stops
    mongo/lock          held (flock) while a server is looked for, started or stopped

The server outlives the process that started it, until `stop`. Loopback only, without authentication:
for trials, tests and one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.binary import find_mongod
from ledgerlake.mongo.launch import EmbeddedFailed, become_primary, launch, log_tail
from ledgerlake.mongo.process import ProcessIdentity, command_line, identify, is_alive, send_signal
from ledgerlake.settings import Settings

_LOCK_PATIENCE = 120.0  # seconds: longer than any start or stop may take
_STOP_PATIENCE = 30.0


class EmbeddedLocked(LedgerLakeError):
    """Another process has been starting or stopping the server for too long."""


class HomeUnusable(LedgerLakeError):
    """LEDGERLAKE_HOME cannot hold the server's files."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: its process, its port on 127.0.0.1, and the folder of its data (real path)."""

    pid: int
    started: str
    port: int
    data: str

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)

    @property
    def uri(self) -> str:
        return uri_of(self.port)


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What `status` found. `pid`, `port` and `uri` are None unless `running`."""

    running: bool
    pid: int | None
    port: int | None
    uri: str | None
    data: Path
    log: Path


def uri_of(port: int) -> str:
    # directConnection: the address in the replica set's own configuration need not be looked up, nor be right.
    return f"mongodb://127.0.0.1:{port}/?directConnection=true"


def ensure_running(settings: Settings, extra_args: Sequence[str] = ()) -> str:
    """The URI of the server for settings.home, which is started if it does not run; a few ms if it does.

    With settings.mongodb_uri set, that is returned and nothing is started.
    `extra_args` go to mongod if it is started by this call. Safe to call from many processes at once.
    Raises EmbeddedUnavailable (no mongod here), HomeUnusable, EmbeddedLocked, EmbeddedFailed (it did not come up).
    """
    if settings.mongodb_uri is not None:
        return settings.mongodb_uri
    running = _read_state(settings)
    if running is not None and _accepts(running.port):
        return running.uri
    mongod = find_mongod()
    with _lock(settings):
        running = _adopt(settings) or _start(settings, mongod, extra_args)
        return running.uri


def status(settings: Settings) -> EmbeddedStatus:
    """Whether the server for settings.home runs, and where. Starts nothing and creates no folder."""
    running = _find(settings)
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
        running = _find(settings)
        _state_file(settings).unlink(missing_ok=True)
        if running is None:
            return False
        for number, patience in ((signal.SIGTERM, _STOP_PATIENCE), (signal.SIGKILL, 10.0)):
            if not send_signal(running.identity, number) or _wait_gone(running.identity, patience):
                return True
        raise EmbeddedFailed(
            f"mongod (pid {running.pid}) does not end, not even by SIGKILL.", "Look for a disk that hangs."
        )


def _adopt(settings: Settings) -> Running | None:
    """The server that runs already, once it serves: it may be just dying, or its starter died before saying so."""
    running = _find(settings)
    if running is None:
        return None
    try:
        become_primary(running.port, settings.mongo_dir / "mongod.log", lambda: is_alive(running.identity))
    except EmbeddedFailed:
        if is_alive(running.identity):
            raise
        return None
    _write_state(settings, running)
    return running


def _start(settings: Settings, mongod: Path, extra_args: Sequence[str]) -> Running:
    folder = settings.mongo_dir
    data = folder / "data"
    try:
        data.mkdir(exist_ok=True)
    except OSError as error:
        raise _unusable(settings, error) from error
    _state_file(settings).unlink(missing_ok=True)
    pid, port = launch(mongod, folder, _last_port(settings), extra_args)
    identity = identify(pid)
    if identity is None:
        raise EmbeddedFailed(
            f"mongod ended right after it started.\n{log_tail(folder / 'mongod.log')}",
            f"See {folder / 'mongod.log'}.",
        )
    become_primary(port, folder / "mongod.log", lambda: is_alive(identity))
    running = Running(pid, identity.started, port, os.path.realpath(data))
    _write_state(settings, running)
    _port_file(settings).write_text(f"{port}\n")
    return running


def _find(settings: Settings) -> Running | None:
    """The server of this home, by our state file, else by the pid that mongod itself left in its data folder."""
    running = _read_state(settings)
    if running is not None:
        return running
    try:
        pid = int((settings.mongo_dir / "data" / "mongod.lock").read_text().strip() or "0")
    except (OSError, ValueError):
        return None
    identity = identify(pid)
    arguments = list(command_line(pid))
    data = os.path.realpath(settings.mongo_dir / "data")
    if identity is None or not _serves(arguments, data):
        return None
    return Running(pid, identity.started, int(arguments[arguments.index("--port") + 1]), data)


def _read_state(settings: Settings) -> Running | None:
    """The server that state.json names, if that very process still runs as the mongod of this home."""
    try:
        running = Running(**json.loads(_state_file(settings).read_text()))
        if not is_alive(running.identity):
            return None
    except (OSError, ValueError, TypeError, OverflowError):
        return None  # none, or not ours to understand: the slow path finds out
    data = os.path.realpath(settings.mongo_dir / "data")
    return running if running.data == data and _serves(command_line(running.pid), data) else None


def _serves(arguments: Sequence[str], data: str) -> bool:
    """Whether this command line is that of a mongod on exactly this data folder."""
    pairs = set(zip(arguments, arguments[1:], strict=False))
    return ("--dbpath", data) in pairs and "--port" in arguments


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0):
            return True
    except OSError:
        return False


def _wait_gone(identity: ProcessIdentity, patience: float) -> bool:
    until = time.monotonic() + patience
    while is_alive(identity):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _state_file(settings: Settings) -> Path:
    return settings.mongo_dir / "state.json"


def _port_file(settings: Settings) -> Path:
    return settings.mongo_dir / "port"


def _write_state(settings: Settings, running: Running) -> None:
    temporary = _state_file(settings).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(running)) + "\n")
    os.replace(temporary, _state_file(settings))


def _last_port(settings: Settings) -> int | None:
    # The same port again keeps the replica set's configuration, and the URIs that people noted, valid.
    try:
        port = int(_port_file(settings).read_text())
    except (OSError, ValueError):
        return None
    return port if 1024 <= port <= 65535 else None


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
