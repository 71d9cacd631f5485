"""No payment was refunded more than was processed of it: by the read models, and by the lake's events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ledgerlake.lake.definitions import PAYMENTS
from ledgerlake.projections import model
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, units
from ledgerlake.reconciliation.read_side import of_part

_NAMED: Final = 10
READ_MODEL_BALANCES: Final = "payment balances"
LAKE_BALANCES: Final = "lake payment balances"


def check_balances(log: Log, position: int) -> Check:
    """Every payment of the read model keeps what was processed of it, or less; names those that do not.

    A refund that names no payment has nothing to be taken from, and is none of them.
    """
    # What was never completed was never processed, whatever its attempts were about.
    processed: Any = {"$cond": [{"$eq": ["$status", "failed"]}, 0, "$amountMinor"]}
    over = {"unreferenced": {"$ne": True}, "$expr": {"$gt": ["$refundedMinor", processed]}}
    payments = model(log.db, "payment_read_models", log.session)
    found = payments.find(over, sort=[("_id", 1)], session=log.session).limit(_NAMED + 1)
    told = [
        _told(each["_id"], each["currency"], each["amountMinor"], each["refundedMinor"], each["status"])
        for each in found
    ]
    return of_part(log, READ_MODEL_BALANCES, "payment_read_models", position, _short(told))


def check_lake_balances(log: Log, views: LakeViews, position: int) -> Check:
    """The same of every payment folded from the lake's events."""
    with views.at(position) as connection:
        rows = connection.sql(
            "SELECT payment_id, currency, amount_minor, refunded_minor, status"
            f" FROM ({PAYMENTS.sql.rstrip().rstrip(';')}) AS payments"
            " WHERE NOT unreferenced"
            " AND refunded_minor > CASE WHEN status = 'failed' THEN 0 ELSE amount_minor END"
            f" ORDER BY payment_id LIMIT {_NAMED + 1}"
        ).fetchall()
    found = of_part(log, LAKE_BALANCES, "event_lake", position, _short([_told(*row) for row in rows]))
    return replace(found, detail=f"{found.detail}, every payment folded again")


def _told(payment: str, currency: str, processed: int, refunded: int, status: str) -> str:
    kept = 0 if status == "failed" else processed
    return (
        f"payment {payment!r}: {units(refunded, currency)} {currency} refunded of"
        f" {units(kept, currency)} processed"
    )


def _short(told: list[str]) -> list[str]:
    return [*told[:_NAMED], "... and more payments"] if len(told) > _NAMED else told
