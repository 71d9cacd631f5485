"""Answers to queries, within what a principal may see."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from pydantic import TypeAdapter

from ledgerlake.application import LedgerLake
from ledgerlake.queries import (
    AuditResult,
    AuditStep,
    DocumentQuery,
    GetAudit,
    GetPayment,
    GetPaymentAt,
    LogQuery,
    NotYet,
    PaymentResult,
    Query,
)
from ledgerlake.queries.freshness import Reading
from ledgerlake.web.errors import payment_not_found
from ledgerlake.web.problems import invalid

if TYPE_CHECKING:
    from ledgerlake.web.access import Principal

R = TypeVar("R")
Run: TypeAlias = Callable[..., Any]

WAIT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
_MOST_RENDERED_BYTES: Final = 64 << 20
_LARGEST_RENDERED: Final = 1_000_000
# Of a question and what is known of its answer, beside the answer.
_OVERHEAD: Final = 2_000
# Personal data is for those who deal with who pays; others see tokens in its place.
_IN_CLEAR: Final = frozenset({"finance", "service"})
# The details of these refusals name what may be somebody else's.
_TELLING: Final = {
    "organization_mismatch": "The payment is another organization's.",
    "command_id_reused": "The command id was used before, for other content.",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer as JSON, of so many rows; `tag` differs with the bytes, `stamp` with the checkpoints."""

    rows: int
    body: bytes
    tag: str
    stamp: str


class Answers:
    """What the ledger answers. Belongs to one event loop; `run` calls what blocks on a thread."""

    def __init__(self, ledger: LedgerLake, run: Run) -> None:
        self._ledger = ledger
        self._run = run
        self._rendered: OrderedDict[Any, Rendered] = OrderedDict()
        self._rendered_bytes = 0
        self._making: dict[Any, asyncio.Task[Rendered]] = {}
        self._looking: asyncio.Task[Reading] | None = None
        self._trusted_seconds = ledger.settings.freshness_ms / 1000

    async def ask(
        self,
        query: Query[R] | DocumentQuery[R] | LogQuery[R],
        principal: Principal,
        wait_for: int | None = None,
    ) -> R:
        """The answer, personal data in clear where the role may see it.

        The query has to name an organization that the principal sees, or the answer has to be looked at.

        Raises what `QueryBus.ask` raises, and

        Raises:
            Problem: 422 for a position beyond the log's end.
        """
        await self._wait(query, wait_for)
        bus = self._ledger.queries_in_clear if principal.role in _IN_CLEAR else self._ledger.queries
        answer: R = await self._run(bus.ask, query)
        return answer

    async def rendered(self, query: Query[Any], wait_for: int | None = None) -> Rendered:
        """The answer as JSON, for queries in whose answers nothing is personal.

        Kept by the checkpoints that it rests on, as answers are: none is older than those, read at most
        LEDGERLAKE_FRESHNESS_MS before it was asked for. What many ask at once is looked up once, and no
        thread waits for another.
        """
        await self._wait(query, wait_for)
        stamp = (await self._reading()).stamp(type(query).reads)
        found = self._rendered.get(query)
        if found is not None and found.stamp == stamp:
            return found
        making = self._making.get((query, stamp))
        if making is None:
            making = self._making[query, stamp] = asyncio.ensure_future(self._make(query))
            making.add_done_callback(lambda _: self._made(query, stamp))
        return await asyncio.shield(making)

    def _made(self, query: Query[Any], stamp: str) -> None:
        made = self._making.pop((query, stamp), None)
        if made is not None and not made.cancelled():
            made.exception()  # told to those who wait, if any still does

    async def _reading(self) -> Reading:
        """The checkpoints, read not longer ago than they are trusted."""
        since = time.monotonic() - self._trusted_seconds
        reading = self._ledger.freshness.trusted()
        if reading is not None:
            if reading.started < since + self._trusted_seconds / 2:
                # So that whoever comes when it is trusted no more need not wait.
                _ = self._look()
            return reading
        looked: Reading = await asyncio.shield(self._look())
        # That look may have begun too long ago; the next one has begun after this call.
        return looked if looked.started >= since else await asyncio.shield(self._look())

    def _look(self) -> asyncio.Task[Reading]:
        """The look at the checkpoints that is under way, or a new one."""
        # One that is done counts as none, also while `_looked` is still to be called.
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._run(self._ledger.freshness.now))
            self._looking.add_done_callback(self._looked)
        return self._looking

    def _looked(self, look: asyncio.Task[Reading]) -> None:
        if self._looking is look:
            self._looking = None
        if not look.cancelled():
            look.exception()  # told to those who wait, if any does

    async def _make(self, query: Query[Any]) -> Rendered:
        made: Rendered = await self._run(self._render, query)
        self._drop(query)
        if len(made.body) <= _LARGEST_RENDERED:
            self._rendered[query] = made
            self._rendered_bytes += len(made.body) + _OVERHEAD
            while self._rendered_bytes > _MOST_RENDERED_BYTES:
                self._drop(next(iter(self._rendered)))
        return made

    def _drop(self, query: Query[Any]) -> None:
        dropped = self._rendered.pop(query, None)
        if dropped is not None:
            self._rendered_bytes -= len(dropped.body) + _OVERHEAD

    async def payment(
        self, payment_id: str, principal: Principal, wait_for: int | None = None
    ) -> PaymentResult:
        """A payment as its read model has it.

        Raises:
            Problem: 404 there is none, or it is of an organization that the principal does not see.
        """
        return _seen(await self.ask(GetPayment(payment_id), principal, wait_for), principal)

    async def payment_at(self, query: GetPaymentAt, principal: Principal) -> PaymentResult:
        """A payment as it was; raises as `payment` does."""
        return _seen(await self.ask(query, principal), principal)

    async def audit(self, payment_id: str, principal: Principal) -> AuditResult:
        """Who did what to a payment, as far as the principal may know.

        Raises:
            Problem: 404 there is none, or it is of an organization that the principal does not see.
        """
        found = await self.ask(GetAudit(payment_id, principal.organizations), principal)
        if principal.organizations is None:
            return found
        owners = {step.organization_id for step in found.steps if step.refused is None}
        steps = [step for step in found.steps if _concerns(step, principal)]
        if not steps or not all(owner is not None and principal.sees(owner) for owner in owners):
            raise payment_not_found()
        return replace(found, steps=tuple(map(_untelling, steps)))

    def _render(self, query: Query[Any]) -> Rendered:
        # Before the answer: it may hold more, and never less.
        stamp = self._ledger.freshness.reading().stamp(type(query).reads)
        answer = self._ledger.queries.ask(query)
        body = as_json(answer)
        return Rendered(
            len(answer.rows), body, f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"', stamp
        )

    async def _wait(self, query: Any, position: int | None) -> None:
        """Wait until the answer holds every event up to `position`; holds up no thread meanwhile."""
        reads = getattr(type(query), "reads", None)
        if position is None or not reads:
            return
        deadline = time.monotonic() + WAIT_SECONDS
        pause = _FIRST_PAUSE
        while True:
            reading = await self._run(self._ledger.freshness.reading)
            standing, last = min((reading.of(name).position, name) for name in reads)
            if standing >= position:
                return
            if pause == _FIRST_PAUSE and position > await self._run(self._ledger.store.head):
                raise invalid([("query.wait_for", "is beyond the end of the log")])
            if time.monotonic() > deadline:
                raise NotYet(last, standing, position)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def as_json(answer: Any) -> bytes:
    """An answer as JSON: amounts as text, so that no digit is lost."""
    kind = type(answer)
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        adapter = _ADAPTERS[kind] = TypeAdapter(kind)
    return adapter.dump_json(answer, fallback=str)


_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def _seen(found: PaymentResult, principal: Principal) -> PaymentResult:
    if not principal.sees(found.payment.organization_id):
        raise payment_not_found()
    return found


def _concerns(step: AuditStep, principal: Principal) -> bool:
    return step.organization_id is not None and principal.sees(step.organization_id)


def _untelling(step: AuditStep) -> AuditStep:
    if step.refused is None or step.refused.reason_code not in _TELLING:
        return step
    return replace(step, refused=replace(step.refused, detail=_TELLING[step.refused.reason_code]))
