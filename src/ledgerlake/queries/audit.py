"""Audit: who did what to a payment, when and why, and what it came to: its events and refused commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pymongo import DESCENDING

from ledgerlake.domain.commands import CREDIT_NOTE
from ledgerlake.domain.events import read_event
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import NOTHING, evolve
from ledgerlake.eventstore.contract import EventReader
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.mongo.indexes import REJECTIONS
from ledgerlake.queries.history import of_payment, unknown
from ledgerlake.queries.model import AsOf, Db, text

MOST_REFUSALS = 200
"""Refused commands of a payment that an answer tells of: anybody can have as many refused as they like."""
_AMOUNT = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
# In the metadata of every event, and shown in fields of their own, or (the hash) of no use to a reader.
_NAMED_METADATA = frozenset({"userId", "organizationId", "requestHash"})


@dataclass(frozen=True, slots=True)
class StateAfter:
    """What a payment has come to; amounts in units, exact. `left` is what may still be refunded."""

    status: str
    currency: str
    processed: Decimal | None
    refunded: Decimal
    left: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command was refused, and since when it no longer is (`resolved_at`): accepted after all."""

    reason_code: str
    detail: str
    resolved_at: datetime | None
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class AuditStep:
    """An event of a payment or (`refused`) a command on it that changed nothing.

    `what` is the event's type or the command's name. `occurred_at` is the business time, `recorded_at`
    when the ledger wrote it down. Of a refused command, `amount` and `occurred_at` are what was given,
    as text where it is no amount or no instant. `metadata` holds the free keys. `state` is that after the
    step; None before the first event.
    """

    what: str
    recorded_at: datetime
    occurred_at: datetime | str | None
    amount: Decimal | str | None
    currency: str | None
    user_id: str | None
    organization_id: str | None
    reason: str | None
    command_id: str | None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    position: int | None = None
    refused: Refusal | None = None
    state: StateAfter | None = None


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Everything that was done, or tried, on a payment, in the order in which it was recorded.

    Of refused commands the latest MOST_REFUSALS; `older_refusals` says that there are more.
    """

    payment_id: str
    steps: tuple[AuditStep, ...]
    as_of: AsOf
    older_refusals: bool = False


@dataclass(frozen=True, slots=True)
class GetAudit:
    """Who did what to a payment, when and why, and what it came to: its events and the refused commands.

    Of refused commands those of the `organizations`; None: of all, and those that name none.
    """

    payment_id: str
    organizations: frozenset[str] | None = None

    def answer_from(self, log: EventReader, db: Db) -> AuditResult:
        """Raises PaymentNotFound where no event and no refused command names the payment; QueryError."""
        payment_id = text("payment_id", self.payment_id)
        head = log.head()
        events = [event for event in log.read_stream(payment_id) if event.position <= head]
        refusals = [_refused(found) for found in self._rejections(payment_id, db)]
        if not events and not refusals:
            raise unknown(payment_id)
        steps = _in_order(_recorded(of_payment(payment_id, events)), refusals[:MOST_REFUSALS])
        return AuditResult(payment_id, tuple(steps), AsOf(head, None), len(refusals) > MOST_REFUSALS)

    def _rejections(self, payment_id: str, db: Db) -> list[dict[str, Any]]:
        """The latest rejections first, one more than are told of."""
        whose = {} if self.organizations is None else {"organizationId": {"$in": sorted(self.organizations)}}
        found: list[dict[str, Any]] = []
        # One by one: each is then read in the order of its index, and no further than it is told.
        for wanted in _rejections_of(payment_id):
            asked = db[REJECTIONS].find({**wanted, **whose}, sort=[("rejectedAt", DESCENDING)])
            found += asked.limit(MOST_REFUSALS + 1)
        return sorted(found, key=lambda each: each["rejectedAt"], reverse=True)


def _recorded(events: Iterable[StoredEvent]) -> Iterator[AuditStep]:
    state = NOTHING
    for stored in events:
        event = read_event(stored.event_type, stored.schema_version, stored.data)
        state = evolve(state, event, stored.metadata["organizationId"])
        assert state.status is not None
        processed = None if state.processed is None else Money(state.processed, state.currency)
        refunded = Money(state.refunded, state.currency)
        left = Money(0, state.currency) if processed is None else processed - refunded
        yield AuditStep(
            what=stored.event_type,
            recorded_at=stored.recorded_at,
            occurred_at=stored.timestamp,
            amount=event.amount.amount,
            currency=event.amount.currency,
            user_id=stored.metadata.get("userId"),
            organization_id=stored.metadata["organizationId"],
            reason=getattr(event, "reason", None),
            command_id=stored.command_id,
            correlation_id=stored.correlation_id,
            causation_id=stored.causation_id,
            metadata={key: value for key, value in stored.metadata.items() if key not in _NAMED_METADATA},
            version=stored.version,
            position=stored.position,
            state=StateAfter(
                state.status.value,
                state.currency,
                None if processed is None else processed.amount,
                refunded.amount,
                left.amount,
            ),
        )


def _rejections_of(payment_id: str) -> list[dict[str, Any]]:
    named: dict[str, Any] = {"paymentId": payment_id}
    if not payment_id.startswith(CREDIT_NOTE):
        return [named]
    # A credit note has no payment id: its stream is named after its command. Whoever gives such a name as
    # the id of a payment is refused, and is shown here too.
    return [named, {"commandId": payment_id.removeprefix(CREDIT_NOTE), "paymentId": None}]


def _refused(found: Mapping[str, Any]) -> AuditStep:
    return AuditStep(
        what=found["command"] or "no command",
        recorded_at=found["rejectedAt"],
        occurred_at=_as_instant(found["occurredAt"]),
        amount=_as_amount(found["amount"]),
        currency=found["currency"],
        user_id=found["userId"],
        organization_id=found["organizationId"],
        reason=None,
        command_id=found["commandId"],
        refused=Refusal(
            found["reasonCode"],
            found["detail"],
            found["resolvedAt"],
            found["source"]["file"],
            found["source"]["line"],
        ),
    )


def _in_order(events: Iterable[AuditStep], refusals: Sequence[AuditStep]) -> Iterator[AuditStep]:
    """Events in the order of their versions; between them refusals, with the state when each was recorded.

    An import records what it refused behind the events of its batch.
    """
    waiting = sorted(refusals, key=lambda step: step.recorded_at)
    state: StateAfter | None = None
    for event in events:
        while waiting and waiting[0].recorded_at < event.recorded_at:
            yield replace(waiting.pop(0), state=state)
        yield event
        state = event.state
    for refusal in waiting:
        yield replace(refusal, state=state)


def _as_amount(given: str | None) -> Decimal | str | None:
    # Whoever sends a row must not decide how many digits are printed: 1e999999 is text.
    return Decimal(given) if given is not None and _AMOUNT.fullmatch(given) else given


def _as_instant(given: str | None) -> datetime | str | None:
    try:
        at = None if given is None else datetime.fromisoformat(given)
        if at is None:
            return None
        # As the import reads it: without a zone it is UTC, wherever this machine stands.
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return given
