"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.dagster_dev import wait_for
from tests.ports import free_ports


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: where Debian puts them, else that of PATH."""
    on_path = filter(None, [shutil.which("initdb")])
    found = [*map(Path, on_path), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return found[-1].resolve().parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database; the server and its files are gone afterwards."""
    installed = programs()
    assert installed is not None, "ask `programs` first"
    [port] = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="ledgerlake-postgres-"))
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # which the server refuses to run as
        account = {"user": "nobody", "group": folder.group(), "extra_groups": []}
        shutil.chown(folder, "nobody")
    data = folder / "data"
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "cwd": "/",
        "text": True,
    }
    made = subprocess.run(
        [installed / "initdb", "-D", data, "-U", "keeper", "-A", "trust", "-E", "UTF8", "--no-sync"],
        **quiet, **account,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    server = subprocess.Popen(
        [installed / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
        **(quiet | {"stderr": subprocess.DEVNULL}), **account,
    )  # fmt: skip
    try:
        ready = [installed / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield f"postgresql://keeper:no-secret@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
