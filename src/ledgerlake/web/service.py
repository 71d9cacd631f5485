"""What the routes work with: the ledger as it is read and as it is written, and who may do what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request

from ledgerlake.application import LedgerLake
from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.settings import Settings
from ledgerlake.web import lanes
from ledgerlake.web.access import TokenDirectory
from ledgerlake.web.answers import Answers
from ledgerlake.web.exports import ReportReplaced
from ledgerlake.web.limits import Limits
from ledgerlake.web.metrics import Metrics
from ledgerlake.web.sessions import COOKIE, Sessions
from ledgerlake.web.shelf import TRIES, Shelf
from ledgerlake.web.tokens import AccessTokens

R = TypeVar("R")


async def again(ask: Callable[[], Awaitable[R]]) -> R:
    """What `ask` comes to, and once more where a report is written anew meanwhile: then there is another one.

    Raises:
        ReportReplaced: each time.
    """
    for left in reversed(range(TRIES)):
        try:
            return await ask()
        except ReportReplaced:
            if not left:
                raise
    raise AssertionError("unreachable")


class Service:
    """One process's ledger behind the web server. `open` it on a thread; `close` flushes what is appended.

    Attributes:
        reads: the ledger as LEDGERLAKE_MONGODB_READ_URI opens it: what answers.
        writes: the ledger as LEDGERLAKE_MONGODB_URI opens it: what appends.
    """

    def __init__(self, reads: LedgerLake, writes: LedgerLake) -> None:
        self.settings = writes.settings
        self.reads = reads
        self.writes = writes
        self.tokens = TokenDirectory(AccessTokens(reads.db).by_digest)
        self.sessions = Sessions.of_file(self.settings.home / "web" / "session.key")
        self.shelf = Shelf(reads)
        self.limits = Limits(self.settings.web_rate)
        self.metrics = Metrics()
        self._reading = lanes.Reading(reads.db.client)
        # Apart: what others read, and for how long, keeps nobody and no command out.
        self._tokens = lanes.Reading(reads.db.client, threads=1)
        self.answers = Answers(reads, self._reading.run)
        self._writing = lanes.Writing(lambda: writes.commands, self.settings.append_batch, writes.db.client)

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open the ledger, twice where it is read as another user than it is written.

        Raises what `LedgerLake.open` raises.
        """
        writes = LedgerLake.open(settings)
        if settings.mongodb_read_uri is None:
            return cls(writes, writes)
        try:
            reads = LedgerLake.open(replace(settings, mongodb_uri=settings.mongodb_read_uri))
        except BaseException:
            writes.close()
            raise
        return cls(reads, writes)

    def close(self) -> None:
        """Finish what is under way, store what was handed over, and let go of the database."""
        self._writing.close()
        self._reading.close()
        self._tokens.close()
        self.writes.close()
        if self.reads is not self.writes:
            self.reads.close()

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call what blocks on a thread, for reading; raises as `lanes.Reading.run` does."""
        return await self._reading.run(function, *args)

    async def look_up(self, function: Callable[..., R]) -> R:
        """`run` for tokens, which do not wait for others' reading."""
        return await self._tokens.run(function)

    async def look(self, function: Callable[..., R], *args: Any) -> R:
        """`run`, and `again` where a report is written anew meanwhile."""
        return await again(lambda: self.run(function, *args))

    async def dispatch(self, command: PaymentCommand) -> CommandResult:
        """Send a command through the bus; raises as `lanes.Writing.dispatch` does."""
        return await self._writing.dispatch(command)

    def session_of(self, request: Request) -> str | None:
        """The id of the token that the cookie of a request stands for, if it is a good one."""
        session = self.sessions.read(request.cookies.get(COOKIE))
        return None if session is None else session.token_id

    @property
    def waiting(self) -> int:
        """Commands that wait to be carried out."""
        return self._writing.waiting

    @property
    def available(self) -> bool:
        """Whether the database is there, as its driver has seen last."""
        return lanes.available(self.reads.db.client) and lanes.available(self.writes.db.client)
