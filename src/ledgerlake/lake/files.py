"""Files that are whole or absent, whatever is killed and when.

A file is written under a hidden temporary name in its own folder, flushed to the disk, and renamed over
the final name. A writer that dies leaves the temporary file; the next one removes it. A temporary name
ends in `.tmp`, so no glob for `*.parquet` ever meets one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledgerlake.errors import LedgerLakeError


class FolderBusyError(LedgerLakeError):
    """Another process holds a folder's lock for longer than the caller wants to wait."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends well, it becomes `path`.

    The folder is made if need be. On an error nothing changes at `path`.
    """
    with temporary(path) as temp:
        yield temp
        publish(temp, path)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, removed at the end unless it was published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp, held = _create_locked(path)
    try:
        yield temp
    finally:
        temp.unlink(missing_ok=True)
        os.close(held)


def publish(temp: Path, path: Path, *, last: bool = True) -> None:
    """Flush `temp` to the disk and rename it to `path`, in the same folder.

    The folder is flushed, too, unless this is not the `last` of several files that are published there.
    """
    with temp.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(temp, path)
    if last:
        sync_folder(path.parent)


def publish_new(temp: Path, path: Path) -> bool:
    """Flush `temp` to the disk and name it `path`, too, if nothing is there; False if something was."""
    with temp.open("rb") as written:
        os.fsync(written.fileno())
    try:
        os.link(temp, path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def write_once(path: Path, content: bytes) -> bool:
    """Create `path` with this content if nothing is there; False if something was. Never overwrites."""
    with temporary(path) as temp:
        temp.write_bytes(content)
        return publish_new(temp, path)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries: without it a rename may be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files of dead writers from `folder`; returns how many. Living writers keep theirs."""
    removed = 0
    for temp in folder.glob(".*.tmp") if folder.is_dir() else ():
        try:
            handle = os.open(temp, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temp.unlink(missing_ok=True)
            removed += 1
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
    return removed


@contextmanager
def exclusive(lock: Path, timeout: float = 120.0) -> Iterator[None]:
    """Hold the lock file `lock` (made if need be) during the block. It dies with the process.

    Raises:
        FolderBusyError: somebody else held it for `timeout` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for_lock(handle, lock, time.monotonic() + timeout, timeout)
        yield
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, lock: Path, deadline: float, timeout: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            if time.monotonic() >= deadline:
                raise FolderBusyError(
                    f"Another process has been writing to {lock.parent} for {timeout:.0f} seconds.",
                    "Wait for it to end, or end it, and try again.",
                ) from busy
            time.sleep(0.02)
        else:
            return


def _create_locked(path: Path) -> tuple[Path, int]:
    """A new temporary file, and the handle whose lock shows that its writer lives."""
    while True:
        temp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        handle = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between creation and lock, somebody may have taken the file for a leftover.
            if temp.stat().st_ino == os.fstat(handle).st_ino:
                return temp, handle
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(handle)
