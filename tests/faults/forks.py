"""Work that is killed at random moments, often: importing everything a hundred times would be most of it.

One process imports what is needed and forks a child for each piece of work. A child works on the test's
database through a client of its own and is killed, if it is to be, right before a command of the driver is
sent or right after it was answered: the n-th one, so that a moment is the same on a slow machine and a fast
one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pymongo import monitoring
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.mongo.connection import connect
from ledgerlake.settings import Settings

APP: Final = "forked work"
BEFORE: Final = "before"
AFTER: Final = "after"


@dataclass(frozen=True, slots=True)
class Moment:
    """Before or after a command: the `number`-th that the work sends, from 1."""

    number: int
    side: str = BEFORE


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a piece of work ended: killed or not, and how many commands it sent if it was not."""

    killed: bool
    commands: int


class Forks:
    """A process that forks. `work` is a function by its name, MODULE:NAME, called with the database first."""

    def __init__(self, process: subprocess.Popen[str], database: Database[dict[str, Any]]) -> None:
        self._process = process
        self._database = database

    def run(
        self, work: str, *arguments: Any, moment: Moment | None = None, seconds: float | None = None
    ) -> Outcome:
        """Have a piece of work done, up to the moment, or for so long, if one is given."""
        return self.together([(work, arguments, moment)], seconds)[0]

    def together(
        self, works: Sequence[tuple[str, Sequence[Any], Moment | None]], seconds: float | None = None
    ) -> list[Outcome]:
        """Several at once. What the killed ones left open is ended, so that nobody has to wait for it."""
        orders = [
            {
                "work": work,
                "arguments": list(arguments),
                "moment": moment and [moment.number, moment.side],
                "seconds": seconds,
            }
            for work, arguments, moment in works
        ]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        answers = json.loads(self._process.stdout.readline())
        failed = [code for code, _ in answers if code not in (0, -signal.SIGKILL)]
        assert not failed, f"work ended with {failed}"
        outcomes = [Outcome(code != 0, commands) for code, commands in answers]
        if any(outcome.killed for outcome in outcomes):
            self._end_transactions()
        return outcomes

    def _end_transactions(self) -> None:
        """What the server does by itself once a transaction has reached its greatest age."""
        admin = self._database.client.get_database("admin", read_concern=ReadConcern("local"))
        sessions = admin.aggregate(
            [
                {"$currentOp": {"allUsers": True, "idleSessions": True}},
                {"$match": {"appName": APP, "transaction": {"$exists": True}}},
                {"$project": {"id": "$lsid.id"}},
            ]
        )
        if found := [{"id": session["id"]} for session in sessions]:
            admin.command("killSessions", found)


@contextmanager
def forks(database: Database[dict[str, Any]], environ: Mapping[str, str]) -> Iterator[Forks]:
    """A process that forks, for work on `database`, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.forks"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Forks(process, database)
        assert process.stdin is not None
        process.stdin.close()


class _Fate(monitoring.CommandListener):
    """Counts commands, and kills this process at its moment."""

    def __init__(self, moment: Moment | None) -> None:
        self._moment = moment
        self._armed = False
        self.commands = 0
        self._answered = 0

    def arm(self) -> None:
        self._armed = True

    def started(self, _: monitoring.CommandStartedEvent) -> None:
        if self._armed:
            self.commands += 1
            self._look(BEFORE, self.commands)

    def succeeded(self, _: monitoring.CommandSucceededEvent) -> None:
        if self._armed:
            self._answered += 1
            self._look(AFTER, self._answered)

    failed = succeeded  # type: ignore[assignment]  # an answer, too

    def _look(self, side: str, number: int) -> None:
        if self._moment == Moment(number, side):
            os.kill(os.getpid(), signal.SIGKILL)


def _child(order: dict[str, Any], told: int) -> None:
    fate = _Fate(Moment(*order["moment"]) if order["moment"] else None)
    monitoring.register(fate)
    settings = Settings.from_env()
    database = connect(settings, APP)[settings.database]
    fate.arm()
    _named(order["work"])(database, *order["arguments"])
    os.write(told, str(fate.commands).encode())


def _named(work: str) -> Any:
    module, _, name = work.partition(":")
    return getattr(importlib.import_module(module), name)


def _fork(order: dict[str, Any]) -> tuple[int, int]:
    """Start the work; its process, and where it tells how many commands it took."""
    told, tell = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what it prints is no answer of this process
            _child(order, tell)
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(tell)
    return process, told


def main() -> None:
    """Forks what the standard input orders, a line of JSON at a time, and tells how it ended."""
    for line in sys.stdin:
        orders = json.loads(line)
        for order in orders:
            _named(order["work"])  # imported here, once
        answers = []
        started = [_fork(order) for order in orders]
        if (seconds := orders[0]["seconds"]) is not None:
            time.sleep(seconds)
            for process, _ in started:
                os.kill(process, signal.SIGKILL)  # nothing to one that has ended: it is waited for below
        for process, told in started:
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            with os.fdopen(told) as answer:
                answers.append((code, int(answer.read() or 0)))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
