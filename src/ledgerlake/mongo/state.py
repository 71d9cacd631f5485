"""Which process serves a home: what was written down, checked against the process itself.

`folder` is LEDGERLAKE_HOME/mongo throughout.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ledgerlake.mongo.process import ProcessIdentity, command_line, identify, is_alive


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
        # directConnection: the replica set's own idea of its address is not asked for, nor need it be right.
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"


def find_running(folder: Path) -> Running | None:
    """The folder's server, by our state file, else by the pid that mongod itself left in its data."""
    running = read_state(folder)
    if running is not None:
        return running
    try:
        pid = int((folder / "data" / "mongod.lock").read_text().strip() or "0")
    except (OSError, ValueError):
        return None
    identity = identify(pid)
    arguments = list(command_line(pid))
    data = os.path.realpath(folder / "data")
    if identity is None or not _serves(arguments, data):
        return None
    return Running(pid, identity.started, int(arguments[arguments.index("--port") + 1]), data)


def read_state(folder: Path) -> Running | None:
    """The server that state.json names, if that very process still runs as the mongod of this folder."""
    try:
        running = Running(**json.loads((folder / "state.json").read_text()))
        if not is_alive(running.identity):
            return None
    except (OSError, ValueError, TypeError, OverflowError):
        return None  # none, or not ours to understand: the slow path finds out
    data = os.path.realpath(folder / "data")
    return running if running.data == data and _serves(command_line(running.pid), data) else None


def write_state(folder: Path, running: Running) -> None:
    """Written whole or not at all, as others read it without the lock."""
    temporary = folder / "state.tmp"
    temporary.write_text(json.dumps(asdict(running)) + "\n")
    os.replace(temporary, folder / "state.json")
    (folder / "port").write_text(f"{running.port}\n")


def clear_state(folder: Path) -> None:
    """From now on nobody is sent to the server. The port is remembered."""
    (folder / "state.json").unlink(missing_ok=True)


def last_port(folder: Path) -> int | None:
    """The port served last: taken again, the replica set's configuration and people's notes stay valid."""
    try:
        port = int((folder / "port").read_text())
    except (OSError, ValueError):
        return None
    return port if 1024 <= port <= 65535 else None


def _serves(arguments: Sequence[str], data: str) -> bool:
    """Whether this command line is that of a mongod on exactly this data folder."""
    return ("--dbpath", data) in itertools.pairwise(arguments) and "--port" in arguments
