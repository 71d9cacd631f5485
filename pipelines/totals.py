"""Gross and refunds per currency, from wherever an asset keeps them. Integers of minor units throughout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.reconciliation.sums import ControlSums, Sums
    from ledgerlake.reports import BillingTotals
    from pipelines.materialization import Totals

_GROSS, _REFUNDS = ("PaymentProcessed", "completed"), ("PaymentRefunded", "refunded")


def of_read_model(db: Database[dict[str, Any]], name: str) -> Totals | None:
    """From a read model; None from one that has failed attempts only.

    As they were added up last, where nobody has written to it since.
    """
    # They bring Polars along, which loading definitions can spare.
    from ledgerlake.errors import LedgerLakeError
    from ledgerlake.reconciliation.sums import ControlSums
    from ledgerlake.reconciliation.verify import MISSHAPEN

    if name == "failure_reasons":
        return None
    if name == "payment_read_models":
        # Of its totals by state, which are kept up with it: as many documents as states, not as payments.
        completed = {"$and": [{"$ne": ["$status", "failed"]}, {"$not": ["$unreferenced"]}]}
        return _summed(db, "payment_states", {"$cond": [completed, "$amountMinor", 0]}, "$refundedMinor")
    try:
        return _of_sums(ControlSums(db, name).of_read_model(name)[0])
    except (LedgerLakeError, *MISSHAPEN):  # more than 64 bits hold, or what a check will name
        gross, refunds = (
            {"$cond": [{"$eq": ["$status", status]}, "$totalMinor", 0]}
            for status in ("completed", "refunded")
        )
        return _summed(db, name, gross, refunds)


def _summed(db: Database[dict[str, Any]], name: str, gross: Any, refunds: Any) -> Totals:
    from ledgerlake.projections import model

    # Decimals have 34 digits.
    sums = {"gross": {"$sum": {"$toDecimal": gross}}, "refunds": {"$sum": {"$toDecimal": refunds}}}
    found = model(db, name).aggregate([{"$group": {"_id": "$currency", **sums}}])
    return {each["_id"]: (_integer(each["gross"]), _integer(each["refunds"])) for each in found}


def of_lake(lake: EventLake) -> Totals:
    """From the control sums in the footers of the segments; reads no event."""
    return _of(
        (currency, kind, minor)
        for segment in lake.segments()
        for (currency, kind), (_, minor) in segment.totals.items()
    )


def of_table(sums: ControlSums, root: Path, path: str) -> Totals | None:
    """From a table of the lake in the folder `root`; None from a damaged one, which a check will name."""
    from ledgerlake.lake.errors import CorruptFileError

    try:
        return _of_sums(sums.of_table(root, path)[0])
    except CorruptFileError:
        return None


def _of_sums(sums: Sums) -> Totals:
    return _of((currency, status, figure.minor or 0) for (_, currency, status), figure in sums.items())


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
