"""Why payments fail: failed attempts by the reason that was given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import ClassVar

from ledgerlake.projections import model
from ledgerlake.projections.failure_reasons import FAILURE_REASONS
from ledgerlake.queries.figures import days, exact, share, units
from ledgerlake.queries.model import AsOf, Db, as_of, snapshot, text


@dataclass(frozen=True, slots=True)
class FailureReasonRow:
    """Failed attempts of one organization and currency for one reason (None: none was given).

    `total` is what they tried to take, in units; `share` is this reason's part of the organization's
    failed attempts in the currency, by count, from 0 to 1. Where reasons are declared personal, each payer's
    are a token, and a row, of their own.
    """

    organization_id: str
    currency: str
    reason: str | None
    count: int
    total_minor: int
    total: Decimal
    share: Decimal


@dataclass(frozen=True, slots=True)
class FailureReasonsResult:
    """By organization and currency, the most frequent reason first."""

    rows: tuple[FailureReasonRow, ...]
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class GetFailureReasons:
    """Why attempts failed that were made on the UTC days of [start, end); either end may be open."""

    reads: ClassVar[tuple[str, ...]] = (FAILURE_REASONS.name,)

    organization_id: str | None = None
    start: date | None = None
    end: date | None = None
    currency: str | None = None

    def answer(self, db: Db) -> FailureReasonsResult:
        """Raises QueryError for an interval that ends before it starts, or a sum beyond 64 bits."""
        wanted = days(self.organization_id, self.start, self.end)
        if self.currency is not None:
            wanted["currency"] = text("currency", self.currency)
        key = {"o": "$organizationId", "c": "$currency", "r": "$reason"}
        group = {"_id": key, "count": {"$sum": "$count"}, "total": {"$sum": "$totalMinor"}}
        with snapshot(db) as session:
            reasons = model(db, FAILURE_REASONS.name, session)
            found = list(reasons.aggregate([{"$match": wanted}, {"$group": group}], session=session))
            fresh = as_of(db, FAILURE_REASONS.name, session)
        attempts: dict[tuple[str, str], int] = {}
        for each in found:
            whose = (each["_id"]["o"], each["_id"]["c"])
            attempts[whose] = attempts.get(whose, 0) + int(each["count"])
        rows = [
            FailureReasonRow(
                organization_id=each["_id"]["o"],
                currency=(currency := each["_id"]["c"]),
                reason=each["_id"]["r"],
                count=int(each["count"]),
                total_minor=exact(each["total"]),
                total=units(each["total"], currency),
                share=share(int(each["count"]), attempts[each["_id"]["o"], currency]) or Decimal(0),
            )
            for each in found
        ]
        rows.sort(key=lambda row: (row.organization_id, row.currency, -row.count, row.reason or ""))
        return FailureReasonsResult(tuple(rows), fresh)
