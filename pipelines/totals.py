"""Gross and refunds per currency, from wherever an asset keeps them. Integers of minor units throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.reports import BillingTotals
    from pipelines.materialization import Totals

_GROSS, _REFUNDS = ("PaymentProcessed", "completed"), ("PaymentRefunded", "refunded")


def of_read_model(db: Database[dict[str, Any]], name: str) -> Totals | None:
    """From a read model; None from one that has failed attempts only."""
    from ledgerlake.projections import model  # brings Polars along, which loading definitions can spare

    if name == "failure_reasons":
        return None
    if name == "payment_read_models":
        # Of its totals by state, which are kept up with it: as many documents as states, not as payments.
        name = "payment_states"
        completed = {"$and": [{"$ne": ["$status", "failed"]}, {"$not": ["$unreferenced"]}]}
        gross: Any = {"$cond": [completed, "$amountMinor", 0]}
        refunds: Any = "$refundedMinor"
    else:
        gross, refunds = (
            {"$cond": [{"$eq": ["$status", status]}, "$totalMinor", 0]}
            for status in ("completed", "refunded")
        )

    def summed(number: Callable[[Any], Any]) -> list[dict[str, Any]]:
        sums = {"gross": {"$sum": number(gross)}, "refunds": {"$sum": number(refunds)}}
        return list(model(db, name).aggregate([{"$group": {"_id": "$currency", **sums}}]))

    found = summed(lambda field: field)
    if any(isinstance(each[of], float) for each in found for of in ("gross", "refunds")):
        # More than 64 bits hold. Decimals have 34 digits, and cost twice as much.
        found = summed(lambda field: {"$toDecimal": field})
    return {each["_id"]: (_integer(each["gross"]), _integer(each["refunds"])) for each in found}


def of_lake(lake: EventLake) -> Totals:
    """From the control sums in the footers of the segments; reads no event."""
    return _of(
        (currency, kind, minor)
        for segment in lake.segments()
        for (currency, kind), (_, minor) in segment.totals.items()
    )


def of_rows(rows: Iterable[dict[str, Any]]) -> Totals:
    """From rows with currency, status and total_minor, as statistics and trends have them."""
    return _of((row["currency"], row["status"], row["total_minor"]) for row in rows)


def of_billing(totals: Iterable[BillingTotals]) -> Totals:
    """From the totals of billing reports."""
    return {each.currency: (each.gross_minor, each.refunded_minor) for each in totals}


def _of(amounts: Iterable[tuple[str, str, int]]) -> Totals:
    totals: dict[str, tuple[int, int]] = {}
    for currency, kind, minor in amounts:
        gross, refunds = totals.get(currency, (0, 0))
        totals[currency] = (
            gross + (minor if kind in _GROSS else 0),
            refunds + (minor if kind in _REFUNDS else 0),
        )
    return totals


def _integer(sum_: Any) -> int:
    return int(sum_ if isinstance(sum_, int) else sum_.to_decimal())
