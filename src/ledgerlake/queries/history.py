"""Time travel: what a payment was at any moment.

Answered from the log itself, event by event, not from a read model: so it needs no refresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ledgerlake.domain.events import AGGREGATE_TYPE, PaymentFailed, PaymentRefunded, read_event
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import NOTHING, evolve
from ledgerlake.eventstore.contract import EventReader
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.queries.model import AsOf, Db, PaymentNotFound, QueryError, text
from ledgerlake.queries.payments import Payment, PaymentResult


@dataclass(frozen=True, slots=True)
class GetPaymentAt:
    """A payment as it was: after its event `version`, at `position` of the log, or at an `instant`.

    An instant means what the ledger knew by then: events recorded (`recordedAt`) up to and including it.
    When they happened in business (`timestamp`) plays no part; a late report was not known earlier.
    """

    payment_id: str
    version: int | None = None
    position: int | None = None
    instant: datetime | None = None

    def answer_from(self, log: EventReader, db: Db) -> PaymentResult:  # noqa: ARG002 - the log alone tells
        """The payment, with `as_of`: the position (and time) that was asked for or, where a version or an
        instant was, those of the last event that the answer counts.

        Raises:
            QueryError: not one of the three, or one that can not be, such as an instant to come.
            PaymentNotFound: there was no such payment, or it has not come to that version.
        """
        given = (self.version, self.position, self.instant)
        if sum(value is not None for value in given) != 1:
            raise QueryError("A payment is asked for at one version, position or instant: give one of them.")
        payment_id = text("payment_id", self.payment_id)
        if self.version is not None:
            return self._at_version(log, payment_id, _number("version", self.version, 1))
        if self.position is not None:
            return self._at_position(log, payment_id, _number("position", self.position, 0))
        assert self.instant is not None
        return self._at_instant(log, payment_id, _instant(self.instant))

    def _at_version(self, log: EventReader, payment_id: str, version: int) -> PaymentResult:
        events = _payment_events(log, payment_id, to_version=version)
        last = events[-1]
        if last.version < version:
            raise PaymentNotFound(
                f"Payment {payment_id!r} has come to version {last.version} (position {last.position}):"
                f" there is no version {version} yet."
            )
        return PaymentResult(_payment(events), AsOf(last.position, last.recorded_at))

    def _at_position(self, log: EventReader, payment_id: str, position: int) -> PaymentResult:
        head = log.head()
        if position > head:
            raise QueryError(f"The log ends at position {head}: there is no position {position} yet.")
        events = _payment_events(log, payment_id)
        then = [event for event in events if event.position <= position]
        if not then:
            raise PaymentNotFound(
                f"There was no payment {payment_id!r} at position {position}:"
                f" it begins at position {events[0].position}."
            )
        at = next(iter(log.read_all(position - 1, up_to=position)))
        return PaymentResult(_payment(then), AsOf(position, at.recorded_at))

    def _at_instant(self, log: EventReader, payment_id: str, instant: datetime) -> PaymentResult:
        events = _payment_events(log, payment_id)
        # Clocks of two writers differ. What an event was decided on was known with it, whatever its
        # own time says; so the last event recorded by then brings all before it along.
        then = events[: max((n for n, e in enumerate(events, 1) if e.recorded_at <= instant), default=0)]
        if not then:
            raise PaymentNotFound(
                f"The ledger knew no payment {payment_id!r} at {instant.isoformat()}:"
                f" its first event was recorded at {events[0].recorded_at.isoformat()}."
            )
        return PaymentResult(_payment(then), AsOf(then[-1].position, instant))


def _payment_events(
    log: EventReader, payment_id: str, to_version: int | None = None
) -> Sequence[StoredEvent]:
    events = of_payment(payment_id, log.read_stream(payment_id, to_version=to_version))
    if not events:
        raise unknown(payment_id)
    return events


def of_payment(payment_id: str, events: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
    """The events, if they are a payment's. Raises PaymentNotFound if they are of another type."""
    for event in events:
        if event.aggregate_type != AGGREGATE_TYPE:
            raise PaymentNotFound(
                f"Stream {payment_id!r} is no payment: it is of type {event.aggregate_type}."
            )
    return events


def unknown(payment_id: str) -> PaymentNotFound:
    """What to raise for a payment of which nothing is in the log."""
    return PaymentNotFound(f"The log has no payment {payment_id!r}.", "Check the id.")


def _payment(events: Sequence[StoredEvent]) -> Payment:
    """The payment that its first events come to: the same as its read model said after the last of them."""
    state = NOTHING
    failed, reason, failures, refunds = 0, None, 0, 0
    for stored in events:
        event = read_event(stored.event_type, stored.schema_version, stored.data)
        state = evolve(state, event, stored.metadata["organizationId"])
        if isinstance(event, PaymentFailed):
            failed, reason, failures = event.amount.minor, event.reason, failures + 1
        refunds += isinstance(event, PaymentRefunded)
    assert state.status is not None
    processed = 0 if state.processed is None else state.processed
    amount = state.refunded if state.unreferenced else failed if state.processed is None else processed
    users = (event.metadata.get("userId") for event in events)
    last = events[-1]
    return Payment(
        payment_id=last.stream_id,
        organization_id=state.organization_id,
        user_id=next((user for user in users if user is not None), None),
        currency=state.currency,
        status=state.status.value,
        unreferenced=state.unreferenced,
        amount=Money(amount, state.currency).amount,
        refunded=Money(state.refunded, state.currency).amount,
        net=Money(processed - state.refunded, state.currency).amount,
        attempts=state.attempts,
        failures=failures,
        refunds=refunds,
        last_failure_reason=reason or None,
        opened_at=events[0].timestamp,
        first_at=min(event.timestamp for event in events),
        last_at=max(event.timestamp for event in events),
        completed_at=next((e.timestamp for e in events if e.event_type == "PaymentProcessed"), None),
        version=last.version,
        position=last.position,
    )


def _number(name: str, value: object, least: int) -> int:
    if type(value) is not int or not least <= value < 2**63:
        raise QueryError(f"{name} is a whole number from {least}, not {value!r}.")
    return value


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise QueryError(f"instant is a datetime with a time zone, not {value!r}.")
    try:
        instant = value.astimezone(UTC)
    except OverflowError:  # of the first or the last day that there is
        raise QueryError(f"instant is {value.isoformat()}, which is no time in UTC.") from None
    if instant > datetime.now(UTC):
        raise QueryError(f"{instant.isoformat()} is still to come: nobody knows what the ledger will know.")
    return instant
