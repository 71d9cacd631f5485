"""Processes told apart for certain, so that a recycled pid is never taken for ours, and never signalled."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process for all time: its pid, and when it started (and in which boot, where the system tells)."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the live process `pid`; None if there is none (a zombie counts as none)."""
    if pid <= 0:
        return None
    started = _started_linux(pid) if (_PROC / "self" / "stat").exists() else _started_ps(pid)
    return None if started is None else ProcessIdentity(pid, started)


def is_alive(identity: ProcessIdentity) -> bool:
    return identify(identity.pid) == identity


def command_line(pid: int) -> Sequence[str]:
    """The arguments of the process; empty if it is gone or not ours to look at."""
    try:
        if (_PROC / "self" / "cmdline").exists():
            return [
                os.fsdecode(part) for part in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
            ]
        return shlex.split(_ps(pid, "command="))
    except (OSError, ValueError):
        return ()


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signals exactly this process; False if it is gone. A recycled pid gets nothing.

    On Linux the process is held by a file descriptor while its identity is checked, so not even
    a pid recycled between the check and the signal can be hit.
    """
    if not hasattr(os, "pidfd_open"):
        if not is_alive(identity):
            return False
        os.kill(identity.pid, number)
        return True
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _started_linux(pid: int) -> str | None:
    try:
        # The name in parentheses may itself hold spaces and parentheses; the fields start after the last one.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"
    except (OSError, IndexError):
        return None


def _started_ps(pid: int) -> str | None:
    if _ps(pid, "stat=").startswith("Z"):
        return None
    return _ps(pid, "lstart=") or None


def _ps(pid: int, column: str) -> str:
    environ = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        done = subprocess.run(
            ["ps", "-ww", "-o", column, "-p", str(pid)],
            capture_output=True,
            text=True,
            env=environ,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
