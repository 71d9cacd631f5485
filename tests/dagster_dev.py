"""`dagster dev` as an operator runs it: a service that is started again whenever it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.ports import free_ports

PATIENCE = 600.0  # seconds for what takes ten where there is nothing else to do


def wait_for(look: Callable[[], Any], tell: Callable[[], object] = str, every: float = 0.2) -> Any:
    """What `look` gives once it gives something; fails with what `tell` says after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {tell()}"
        time.sleep(every)
    return found


class DagsterDev:
    """Webserver, daemon and code server on a free loopback port, under what `Restart=always` is to systemd.

    `dagster dev` ends by itself when one of its processes is gone; `starts` counts how often it was started.
    """

    def __init__(self, env: dict[str, str], folder: Path, log: Path, target: Sequence[str]) -> None:
        self.env, self.folder, self.log = env, folder, log
        [port] = free_ports(1)
        self.page = f"http://127.0.0.1:{port}"
        self.starts = 0
        self._command = [sys.executable, "-m", "dagster", "dev", *target, "-h", "127.0.0.1", "-p", str(port)]
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> DagsterDev:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._keeper.start()
        try:
            wait_for(self.answers, self.tail)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _keep(self) -> None:
        while not self._closing.is_set():
            with self.log.open("ab") as out:
                self._process = subprocess.Popen(
                    self._command, cwd=self.folder, env=self.env, stdout=out, stderr=subprocess.STDOUT,
                    # A session of its own, so that nothing it started is left behind in the end. Interrupts:
                    # tests run in the background may have been started with them ignored.
                    start_new_session=True, preexec_fn=_interruptible,  # noqa: PLW1509
                )  # fmt: skip
            self._sessions.append(self._process.pid)
            self.starts += 1
            self._process.wait()
            self._closing.wait(1.0)

    def answers(self) -> bool:
        """Whether the web page does."""
        try:
            with urllib.request.urlopen(f"{self.page}/server_info", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def tail(self) -> str:
        """The end of what it has printed."""
        return self.log.read_text(errors="replace")[-4000:]

    def daemon(self) -> int | None:
        """The process of the daemon that runs now."""
        dev = self._process
        if dev is None or dev.poll() is not None:
            return None
        for child in children(dev.pid):
            with suppress(OSError):
                if b"dagster._daemon" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            self._keeper.join(60)
        # What it has started ends by itself a little later, and cleans up; what does not is killed.
        deadline = time.monotonic() + 60
        for session in self._sessions:
            with suppress(ProcessLookupError):
                while time.monotonic() < deadline:
                    os.killpg(session, 0)
                    time.sleep(0.1)
                os.killpg(session, signal.SIGKILL)
        self._keeper.join(60)


def children(parent: int) -> list[int]:
    """The processes that `parent` has started and not yet waited for."""
    with suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{parent}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
