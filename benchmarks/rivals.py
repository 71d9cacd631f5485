"""The other stores that an append is measured against, each as its own package runs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# Stores so many events of a new stream, durably, and returns when that is acknowledged.
Write = Callable[[int], Any]

STATE = b"x" * 200  # about what an event of a payment takes


class Unavailable(Exception):
    """A store that is not installed here; the text says what is missing."""


@contextmanager
def rivals(folder: Path, say: Callable[[str], None]) -> Iterator[dict[str, Write]]:
    """Every store that this machine has, by name; what is missing is said."""
    with ExitStack() as stack:
        found: dict[str, Write] = {}
        for name, opened in (
            ("eventsourcing on PostgreSQL", postgresql),
            ("eventsourcing on SQLite", sqlite),
            ("UmaDB", umadb),
        ):
            try:
                found[name] = stack.enter_context(opened(folder))
            except (Unavailable, ImportError, subprocess.CalledProcessError) as missing:
                say(f"  not measured: {name}: {missing}")
        yield found


@contextmanager
def sqlite(folder: Path) -> Iterator[Write]:
    """The package's SQLite module, a file, its default pool."""
    settings = {"SQLITE_DBNAME": str(folder / "rival.sqlite"), "SQLITE_LOCK_TIMEOUT": "60"}
    with _recorder("eventsourcing.sqlite", settings) as write:
        yield write


@contextmanager
def postgresql(folder: Path) -> Iterator[Write]:
    """The package's PostgreSQL module, on a server of its own with default durability."""
    programs = _postgresql_programs()
    data = folder / "postgresql"
    data.mkdir()
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(data, "postgres", "postgres")
        folder.chmod(folder.stat().st_mode | 0o011)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    port = _free_port()
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8"],
        check=True,
        **quiet,
        **account,
    )
    arguments = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", data]
    server = subprocess.Popen([*arguments, "-c", "max_connections=200"], **quiet, **account)
    try:
        _wait_for(port)
        settings = {
            "POSTGRES_DBNAME": "postgres",
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(port),
            "POSTGRES_USER": "bench",
            "POSTGRES_PASSWORD": "none",
            "POSTGRES_POOL_SIZE": "64",
            "POSTGRES_MAX_WAITING": "200",
        }
        with _recorder("eventsourcing.postgres", settings) as write:
            yield write
    finally:
        server.terminate()
        server.wait()


@contextmanager
def umadb(folder: Path) -> Iterator[Write]:
    """UmaDB's own server, over gRPC; a stream is a tag, new streams are an append condition."""
    from umadb import AppendCondition, Client, Event, Query, QueryItem

    port = _free_port()
    program = Path(sys.executable).with_name("umadb")
    server = subprocess.Popen(
        [program, "--listen", f"127.0.0.1:{port}", "--db-path", folder / "rival.umadb"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        client = Client(f"http://127.0.0.1:{port}")

        def write(events: int) -> None:
            stream = uuid.uuid4().hex
            condition = AppendCondition(Query([QueryItem(tags=[stream])]))
            client.append(
                [Event("PaymentProcessed", STATE, tags=[stream], uuid=uuid.uuid4()) for _ in range(events)],
                condition,
            )

        yield write
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _recorder(module: str, settings: dict[str, str]) -> Iterator[Write]:
    from eventsourcing.persistence import InfrastructureFactory, StoredEvent
    from eventsourcing.utils import Environment

    environment = Environment("bench", {"PERSISTENCE_MODULE": module, **settings})
    with InfrastructureFactory.construct(environment) as factory:
        recorder = factory.application_recorder()

        def write(events: int) -> None:
            stream = uuid.uuid4()
            recorder.insert_events(
                [StoredEvent(stream, v + 1, "PaymentProcessed", STATE) for v in range(events)]
            )

        yield write


def _postgresql_programs() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not debian:
        raise Unavailable("no PostgreSQL server is installed (Debian: postgresql)")
    return debian[-1].parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.5)  # PostgreSQL listens a little before it takes anyone in
                return
        time.sleep(0.1)
    raise Unavailable(f"its server did not start on port {port}")
