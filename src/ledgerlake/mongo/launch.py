"""Starts a detached mongod and makes it the primary of its one-node replica set."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ledgerlake.errors import LedgerLakeError

REPLICA_SET = "ledgerlake"
_PATIENCE = 60.0  # seconds from launch to primary; recovery after a kill is well within it
_PORT_ATTEMPTS = 8
_LOG_LIMIT = 16 * 1024 * 1024
_ADDRESS_IN_USE = 48  # mongod's exit code

_ARGUMENTS = (
    "--fork",  # detaches itself, and reports back once it accepts connections
    *("--bind_ip", "127.0.0.1"),
    "--nounixsocket",
    *("--replSet", REPLICA_SET),
    *("--networkMessageCompressors", "snappy,zstd"),  # without zlib, through which old servers leak memory
    *("--setParameter", "transactionLifetimeLimitSeconds=3"),  # how long a killed writer can block the log
    *(
        "--setParameter",
        "diagnosticDataCollectionEnabled=false",
    ),  # up to 200 MB of telemetry nobody reads here
    *("--wiredTigerCacheSizeGB", "1"),
    *("--oplogSize", "512"),  # MB
    "--logappend",
    "--quiet",
    *("--slowms", "1000"),
)


class EmbeddedFailed(LedgerLakeError):
    """The embedded server did not come up, or did not end. Quotes the end of its log and names it."""


def launch(
    mongod: Path, folder: Path, preferred_port: int | None, extra_args: Sequence[str]
) -> tuple[int, int]:
    """Starts mongod on folder/data; its (pid, port) once it accepts connections. Raises EmbeddedFailed."""
    log = folder / "mongod.log"
    _rotate(log)
    for attempt in range(_PORT_ATTEMPTS):
        port = preferred_port if attempt == 0 and preferred_port is not None else _free_port()
        done = _run(mongod, folder, log, port, extra_args)
        if done.returncode == 0:
            return int((folder / "mongod.pid").read_text()), port
        if (
            done.returncode != _ADDRESS_IN_USE
        ):  # someone else's port is tried elsewhere; all else is an answer
            break
    raise EmbeddedFailed(
        f"mongod ({mongod}) did not start, exit code {done.returncode}.\n{_said(done)}{log_tail(log)}",
        f"The whole log: {log}. With LEDGERLAKE_MONGODB_URI set, a server of yours is used instead.",
    )


def become_primary(port: int, log: Path, alive: Callable[[], bool]) -> None:
    """Initiates the replica set if it is new, mends it if its data moved, and returns once it takes writes.

    Raises EmbeddedFailed after a minute, or as soon as `alive()` says that the process is gone.
    """
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    address = f"127.0.0.1:{port}"
    until = time.monotonic() + _PATIENCE
    trouble = "it never answered"
    client: MongoClient[dict[str, Any]] = MongoClient(
        address, directConnection=True, serverSelectionTimeoutMS=2_000
    )
    with client:
        while time.monotonic() < until and alive():
            try:
                hello = client.admin.command("hello")
                if hello.get("isWritablePrimary"):
                    return
                trouble = hello.get("info", "it is not primary")
                if "setName" not in hello:
                    trouble = _configure(client, address)
            except PyMongoError as error:
                trouble = str(error)
            time.sleep(0.02)
    outcome = (
        f"did not become primary within {_PATIENCE:.0f} s" if alive() else "ended before it became primary"
    )
    raise EmbeddedFailed(
        f"mongod on port {port} {outcome}: {trouble}.\n{log_tail(log)}",
        f"The whole log: {log}.",
    )


def log_tail(log: Path, lines: int = 8) -> str:
    """The last lines of mongod's log, readable: severity, component, message and error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            tail = file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"(its log cannot be read: {error})"
    return "Its log ends with:\n" + "\n".join(f"  {_readable(line)}" for line in tail)


def _run(
    mongod: Path, folder: Path, log: Path, port: int, extra_args: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [
        str(mongod),
        *_ARGUMENTS,
        *("--dbpath", os.path.realpath(folder / "data")),
        *("--logpath", str(log)),
        *("--pidfilepath", str(folder / "mongod.pid")),
        *("--port", str(port)),
        *extra_args,
    ]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            start_new_session=True,  # a Ctrl-C here must not reach the server while it forks
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedFailed(
            f"mongod did not accept connections within {_PATIENCE:.0f} s.\n{log_tail(log)}",
            f"The whole log: {log}.",
        ) from error
    except OSError as error:
        raise EmbeddedFailed(
            f"mongod ({mongod}) cannot be run: {error.strerror or error}.",
            "Set LEDGERLAKE_MONGODB_URI to a replica set instead.",
        ) from error


def _configure(client: Any, address: str) -> str:
    """Gives the node its one-member configuration; says what it did, for an error message."""
    from pymongo.errors import OperationFailure

    member = {"_id": 0, "host": address}
    try:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "version": 1, "members": [member]})
        return "the replica set has just been initiated"
    except OperationFailure as error:
        if error.code != 23:  # AlreadyInitialized
            raise
    # It knows itself under another address: the data was copied or moved, or its old port is taken.
    config = client.local["system.replset"].find_one()
    if config is None:
        return "its replica set has no configuration"
    config["members"] = [member]
    config["version"] += 1
    client.admin.command("replSetReconfig", config, force=True)
    return "the replica set has just been given a new address"


def _free_port() -> int:
    # Below the ports that systems give to outgoing connections, so that it is still free at the next start.
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rotate(log: Path) -> None:
    try:
        if log.stat().st_size > _LOG_LIMIT:
            os.replace(log, log.with_name("mongod.log.1"))
    except FileNotFoundError:
        pass


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """What the loader or mongod printed before there was a log, such as a library that is missing."""
    boilerplate = ("about to fork", "forked process", "ERROR: child process", "To see additional")
    kept = [line for line in done.stdout.splitlines() if line and not line.startswith(boilerplate)]
    return "".join(f"  {_readable(line)}\n" for line in kept[-4:])


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
        detail = entry.get("attr", {})
        return (
            f"{entry['s']} {entry['c']}: {entry['msg']} {json.dumps(detail)[:300] if detail else ''}".rstrip()
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return line[:400]
