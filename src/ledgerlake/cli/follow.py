"""`ledgerlake refresh --follow`: the runner as a service, what it tells a terminal, and its alerts.

The lake is followed by a process of its own, with what processor time is left over: its tables and reports
are computed from all of it, and would make the projections late.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ledgerlake.cli.ending import on_signal
from ledgerlake.cli.render import console
from ledgerlake.errors import LedgerLakeError

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake, LedgerStatus
    from ledgerlake.projections.live import LiveRunner
    from ledgerlake.settings import Settings

log = logging.getLogger(__name__)

TICK_SECONDS = 10.0
_LESS_URGENT = 10
_LAST_LOOK_SECONDS = 2.0


def follow(ledger: LedgerLake, lake_every: float) -> None:
    """Keep everything at the head until a signal ends it, after the batches in hand."""
    out = console()
    with (
        _Lake(ledger.settings, lake_every) as lake,
        ledger.follow() as runner,
        on_signal(runner.close),
        _Alerts(ledger, runner),
    ):
        status = None
        running = True
        while running:
            # A service's log is the log (LEDGERLAKE_LOG), not a line every ten seconds.
            if out.is_terminal:
                status, line = _tick(ledger, runner, status)
                out.print(line, markup=False, soft_wrap=True)
            running = runner.wait(TICK_SECONDS)
            if running:
                lake.keep()


class _Alerts:
    """Tells what is wrong, in a thread of its own: a webhook that hangs holds up nothing, nor the end.

    Without `whole` it tells of the runner's own parts only: another process looks at the ledger. What was
    told is kept in LEDGERLAKE_HOME, by each of the two, so that whoever is started next does not repeat it.
    """

    def __init__(self, ledger: LedgerLake, runner: LiveRunner, *, whole: bool = True) -> None:
        self._ledger = ledger
        self._runner = runner
        self._whole = whole
        self._thread = threading.Thread(target=self._watch, name="alerts", daemon=True)

    def _watch(self) -> None:
        from ledgerlake.alerts import LOOK_SECONDS, Alarm, channels, failing_parts, look_at

        settings = self._ledger.settings
        kept = _Kept(settings.home / "alerts" / f"{'follow' if self._whole else 'follow_lake'}.json")
        alarm = Alarm(channels(settings.alert_webhook, settings.database), kept.memory)
        # The first look after a while: what is late when it starts is why it was started.
        while self._runner.wait(LOOK_SECONDS):
            try:
                # Before the checkpoints: what has stopped says so there before it is known to fail.
                tried, failing = self._runner.tried, list(self._runner.failing)
                wrong, complete = look_at(self._ledger) if self._whole else ([], True)
                # While the ledger is away, everything fails.
                wrong += failing_parts(failing, wrong) if complete else []
                # What failed before this process was started is not over because it has not tried yet.
                alarm.look(wrong, complete=complete and tried)
                kept.keep(alarm.memory)
            except Exception:  # a service goes on, and says so
                if self._runner.wait(0):
                    log.exception("It could not be looked for what is wrong; it is tried again.")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._thread.join(_LAST_LOOK_SECONDS)


class _Kept:
    """A text in a file, which survives whoever wrote it. Without it, all that is wrong is told again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.memory: str | None = None
        self._writable = True
        with suppress(OSError, UnicodeDecodeError):
            self.memory = path.read_text("utf-8")

    def keep(self, memory: str) -> None:
        """Write it down if it is another one."""
        from ledgerlake.lake.files import write_atomically

        if memory == self.memory:
            return
        try:
            with write_atomically(self._path) as temp:
                temp.write_text(memory, "utf-8")
            self.memory, self._writable = memory, True
        except OSError as error:
            if self._writable:
                log.warning("What was told can not be kept, and is told again after a restart: %s", error)
            self._writable = False


class _Lake:
    """The process that follows the lake. It ends with this one, also if that is killed."""

    def __init__(self, settings: Settings, every: float) -> None:
        self._settings = settings
        self._every = every
        self._spawn = multiprocessing.get_context("spawn")

    def _start(self) -> None:
        theirs, self._ours = self._spawn.Pipe(duplex=False)
        self._process = self._spawn.Process(target=_follow_lake, args=(self._settings, self._every, theirs))
        self._process.start()
        theirs.close()

    def keep(self) -> None:
        """Start it again if it has died."""
        if not self._process.is_alive():
            self._ours.close()
            self._start()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.join()


def _follow_lake(settings: Settings, every: float, ending: Connection) -> None:
    from ledgerlake.application import LedgerLake

    # A terminal's Ctrl-C and a service manager's SIGTERM reach both processes: the other one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_LESS_URGENT)
    try:
        with (
            LedgerLake.open(settings) as ledger,
            ledger.follow_lake(every) as runner,
            _Alerts(ledger, runner, whole=False),
        ):
            # Nothing is ever sent: it ends when the other end is closed, or gone with its process.
            ending.poll(None)
    except LedgerLakeError as error:
        print(f"ledgerlake: {error}", file=sys.stderr)
        sys.exit(2)


def _tick(
    ledger: LedgerLake, runner: LiveRunner, earlier: LedgerStatus | None
) -> tuple[LedgerStatus | None, str]:
    """A look, and the line that tells of it."""
    from pymongo.errors import PyMongoError

    try:
        status = ledger.status(earlier)
    except PyMongoError as error:
        return earlier, f"MongoDB does not answer ({type(error).__name__}); it is asked again."
    rate = "" if status.rate is None else f", {status.rate:,.0f} ev/s"
    behind = [f"{part.name} {part.lag:,}" for part in status.parts if part.lag]
    line = f"{status.at:%H:%M:%S}Z  head {status.head:,}{rate}; behind: {', '.join(behind) or 'nothing'}"
    failing = [f"{name}: {error}" for name, error in runner.failing.items()]
    return status, "\n".join([line, *failing])
