"""Payment by payment: which read models differ from the fold of their events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ledgerlake.domain.money import exponent
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.bson_columns import Kind, WrongTypeError, decode, documents
from ledgerlake.lake.definitions import PAYMENTS
from ledgerlake.lake.pinned import connect
from ledgerlake.projections import model
from ledgerlake.reconciliation.log import Document, Log

_EVENT: Final = {
    "aggregateId": ("payment_id", Kind.STRING),
    "eventType": ("event_type", Kind.STRING),
    "version": ("version", Kind.INTEGER),
    "eventData.amountMinor": ("amount_minor", Kind.INTEGER),
    "eventData.currency": ("currency", Kind.STRING),
    "eventData.unreferenced": ("unreferenced", Kind.BOOL),
    "eventData.attempt": ("attempt", Kind.INTEGER),
    "timestamp": ("occurred_at", Kind.DATE),
    "metadata.organizationId": ("organization_id", Kind.STRING),
}
_MODEL: Final = {
    "_id": ("payment_id", Kind.STRING),
    "organizationId": ("organization_id", Kind.STRING),
    "currency": ("currency", Kind.STRING),
    "status": ("status", Kind.STRING),
    "unreferenced": ("unreferenced", Kind.BOOL),
    "amountMinor": ("amount_minor", Kind.INTEGER),
    "refundedMinor": ("refunded_minor", Kind.INTEGER),
    "attempts": ("attempts", Kind.INTEGER),
    "failures": ("failures", Kind.INTEGER),
    "refunds": ("refunds", Kind.INTEGER),
    "completedAt": ("completed_at", Kind.DATE),
    "firstRefundAt": ("first_refund_at", Kind.DATE),
    "firstFailedAt": ("first_failed_at", Kind.DATE),
    "failuresBefore": ("failures_before", Kind.INTEGER),
    "version": ("version", Kind.INTEGER),
}


class UnreadableError(LedgerLakeError):
    """Documents that can not be read as columns, because a value has another type."""


def differing_payments(log: Log, organization: str, currency: str, position: int) -> list[str]:
    """Up to ten payments of an organization and currency whose read model differs from the log, in words."""
    try:
        return _differing_payments(log, organization, currency, position)
    except LedgerLakeError as error:
        return [f"organization {organization!r}, {currency}: the payments can not be compared. {error}"]


def _differing_payments(log: Log, organization: str, currency: str, position: int) -> list[str]:
    events = read(
        log.db["events"],
        {
            "metadata.organizationId": organization,
            "eventData.currency": currency,
            "position": {"$lte": position},
        },
        _EVENT,
        log.session,
    )
    if log.archived.any:
        archived = _archived(log, organization, currency, position)
        # The lake's column of attempts is narrower.
        events = pa.concat_tables([events, *archived], promote_options="permissive")
    events = events.append_column("exponent", pa.array([exponent(currency)] * events.num_rows, pa.int8()))
    models = read(
        model(log.db, "payment_read_models", log.session),
        {"organizationId": organization, "currency": currency},
        _MODEL,
        log.session,
    )
    with connect() as connection:
        connection.register("events", events)
        connection.register("expected", PAYMENTS.run(connection))
        connection.register("models", models)
        names = ", ".join(name for name, _ in _MODEL.values())
        query = f"""
            SELECT payment_id, status, amount_minor, refunded_minor, attempts, side FROM (
              SELECT *, 'log' AS side FROM (SELECT {names} FROM expected EXCEPT SELECT {names} FROM models)
              UNION ALL
              SELECT *, 'read model' FROM (SELECT {names} FROM models EXCEPT SELECT {names} FROM expected)
            ) ORDER BY payment_id, side
        """
        found: dict[str, list[str]] = {}
        for payment, status, amount, refunded, attempts, side in connection.execute(query).fetchall():
            state = f"{side} {status} amount {amount} refunded {refunded} attempts {attempts}"
            found.setdefault(payment, []).append(state)
    return [
        f"payment {payment!r}: {'; '.join(states)} (minor units)"
        if len(states) == 2
        else f"payment {payment!r}: only {states[0]} (minor units)"
        for payment, states in list(found.items())[:10]
    ]


def _archived(log: Log, organization: str, currency: str, position: int) -> Iterator[pa.Table]:
    """Archived events of an organization and currency, as `_EVENT`."""
    for events in log.archived.tables():
        mine = pc.and_(
            pc.and_(
                pc.equal(events["organization_id"], organization), pc.equal(events["currency"], currency)
            ),
            pc.less_equal(events["position"], position),
        )
        found = events.filter(mine).select([name for name, _ in _EVENT.values()])
        # Without the promise of no nulls, which what is read from the server does not make.
        yield pa.table(dict(zip(found.column_names, found.columns, strict=True)))


def read(
    collection: Collection[Document],
    query: Document,
    columns: Mapping[str, tuple[str, Kind]],
    session: ClientSession,
    projection: Mapping[str, Any] | None = None,
    sort: Sequence[tuple[str, int]] | None = None,
) -> pa.Table:
    """The documents as an Arrow table with the columns named; nulls of booleans are false.

    Raises:
        UnreadableError: a value of another type.
    """
    parts = batches(collection, query, columns, session, projection, sort)
    return pa.Table.from_batches(list(parts))


def batches(
    collection: Collection[Document],
    query: Document,
    columns: Mapping[str, tuple[str, Kind]],
    session: ClientSession,
    projection: Mapping[str, Any] | None = None,
    sort: Sequence[tuple[str, int]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """As `read`, reply by reply; the first batch is empty, so that there is a schema in any case."""
    kinds = {path: kind for path, (_, kind) in columns.items()}
    names = [name for name, _ in columns.values()]
    yield _batch(b"", kinds, names)
    replies: Any = collection.find_raw_batches(
        query, projection, sort=sort, session=session, allow_disk_use=True
    )
    try:
        for reply in replies:
            yield _batch(reply, kinds, names)
    except (WrongTypeError, pa.ArrowInvalid) as error:
        raise UnreadableError(f"Documents of {collection.name} can not be read: {error}.") from error


def _batch(stream: bytes, kinds: Mapping[str, Kind], names: list[str]) -> pa.RecordBatch:
    arrays = decode(stream, documents(stream), kinds)
    filled = [
        array.fill_null(False) if kind is Kind.BOOL else array
        for array, kind in zip(arrays.values(), kinds.values(), strict=True)
    ]
    return pa.RecordBatch.from_arrays(filled, names)
