"""Event stores that tell of their appends; only made where someone observes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from ledgerlake.eventstore.async_committer import AsyncRequest
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.committer import Request
from ledgerlake.eventstore.inline import Inline
from ledgerlake.eventstore.model import Appended, ConcurrencyError, Outcome, WriteRequest
from ledgerlake.eventstore.planning import Request as Batched
from ledgerlake.eventstore.store import EventStore
from ledgerlake.eventstore.transaction import AppendTransaction, Committed
from ledgerlake.mongo.steps import Steps
from ledgerlake.telemetry.port import Telemetry, Written


@dataclass(frozen=True, slots=True)
class ObservedWrite(WriteRequest):
    """A write request that knows where its writer was: the committer's thread is not the writer's."""

    here: Any = None


class ObservedTransaction(AppendTransaction):
    """Tells of each batch, and of the appends in it."""

    def __init__(
        self, database: Any, telemetry: Telemetry, sleep: Callable[[float], Any], inline: Inline | None
    ) -> None:
        super().__init__(database, sleep=sleep, inline=inline)
        self._telemetry = telemetry

    def commit(self, requests: Sequence[Batched]) -> Steps[Committed]:
        """As AppendTransaction.commit."""
        with self._telemetry.committing([_written(request.write) for request in requests]) as batch:
            try:
                committed = yield from super().commit(requests)
            except BaseException as error:
                batch.failed(type(error).__name__)
                raise
            batch.settled(
                [
                    [_word(committed.refused.get(number, outcome)) for outcome in outcomes]
                    for number, outcomes in enumerate(committed.outcomes)
                ],
                int(committed.documents[-1]["position"]) if committed.documents else None,
            )
            return committed


class ObservedEventStore(EventStore):
    """An event store that tells of its appends. Takes what EventStore takes."""

    def __init__(
        self,
        database: Database[dict[str, Any]],
        telemetry: Telemetry,
        *,
        inline: Inline | None = None,
        **options: Any,
    ) -> None:
        transaction = ObservedTransaction(database, telemetry, time.sleep, inline)
        super().__init__(database, transaction=transaction, **options)
        self._telemetry = telemetry

    def _submit(self, write: WriteRequest) -> Request:
        return super()._submit(_noted(write, self._telemetry))


class ObservedAsyncEventStore(AsyncEventStore):
    """The same for asyncio."""

    def __init__(
        self,
        database: AsyncDatabase[dict[str, Any]],
        telemetry: Telemetry,
        *,
        inline: Inline | None = None,
        **options: Any,
    ) -> None:
        transaction = ObservedTransaction(database, telemetry, asyncio.sleep, inline)
        super().__init__(database, transaction=transaction, **options)
        self._telemetry = telemetry

    async def _submit(self, write: WriteRequest) -> AsyncRequest:
        return await super()._submit(_noted(write, self._telemetry))


def _noted(write: WriteRequest, telemetry: Telemetry) -> ObservedWrite:
    return ObservedWrite(write.appends, write.atomic, write.checkpoint, telemetry.here())


def _written(write: WriteRequest) -> Written:
    events = [event for append in write.appends for event in append.events]
    correlations = dict.fromkeys(event.correlation_id for event in events)
    return Written(
        getattr(write, "here", None), tuple(correlations), appends=len(write.appends), events=len(events)
    )


def _word(outcome: Outcome) -> str:
    match outcome:
        case Appended(duplicate=True):
            return "duplicate"
        case Appended():
            return "stored"
        case ConcurrencyError():
            return "conflict"
    return "refused"
