"""Payments folded from their events, in Polars; one payment, step by step, by the rules of the ledger."""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from ledgerlake.analyst.words import unknown
from ledgerlake.domain.events import PaymentEvent, PaymentFailed, PaymentProcessed, PaymentRefunded
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import NOTHING, evolve
from ledgerlake.eventstore.columnar import AMOUNT
from ledgerlake.lake.errors import LakeError
from ledgerlake.reports.books import Books
from ledgerlake.reports.interval import Interval

_PAYMENT = (
    "payment_id", "organization_id", "user_id", "currency", "exponent", "status", "unreferenced",
    "amount_minor", "refunded_minor", "net_minor", "attempts", "failures", "refunds",
    "failures_before", "last_failure_reason", "first_at", "last_at", "completed_at", "first_refund_at",
)  # fmt: skip
_UNITS = pl.Decimal(AMOUNT.precision, AMOUNT.scale)
_AUDIT: Final[dict[str, Any]] = {
    "step": pl.Int64,
    "what": pl.String,
    "who": pl.String,
    "occurred_at": pl.Datetime("ms", "UTC"),
    "recorded_at": pl.Datetime("ms", "UTC"),
    "booked_in": pl.String,
    "currency": pl.String,
    "exponent": pl.Int8,
    "amount_minor": pl.Int64,
    "amount": _UNITS,
    "reason": pl.String,
    "status": pl.String,
    "refunded_minor": pl.Int64,
    "refunded": _UNITS,
    "left_minor": pl.Int64,
    "left": _UNITS,
    "organization_id": pl.String,
    "position": pl.Int64,
    "event_id": pl.String,
    "command_id": pl.String,
    "correlation_id": pl.String,
    "causation_id": pl.String,
    "details": pl.String,
}


def fold(events: pl.LazyFrame) -> pl.LazyFrame:
    """A row per payment; see `Lake.payments`."""
    kind, amount = pl.col("event_type"), pl.col("amount_minor")
    done, failed, back = (kind == f"Payment{what}" for what in ("Processed", "Failed", "Refunded"))
    return (
        events.group_by("payment_id", maintain_order=True)
        .agg(
            pl.col("organization_id", "currency", "exponent").first(),
            pl.col("user_id").drop_nulls().first(),
            pl.col("unreferenced").any(),
            # A sum of int64 wraps silently; of Int128 it does not, and the cast back is checked.
            amount.filter(done).last().alias("processed"),
            amount.filter(failed).last().alias("attempted"),
            amount.filter(back).cast(pl.Int128).sum().cast(pl.Int64).alias("refunded_minor"),
            (done | failed).sum().cast(pl.Int64).alias("attempts"),
            failed.sum().cast(pl.Int64).alias("failures"),
            back.sum().cast(pl.Int64).alias("refunds"),
            # Attempts are numbered from 1: those before the one that went through, or all of them, failed.
            pl.coalesce(pl.col("attempt").filter(done).min() - 1, failed.sum())
            .cast(pl.Int64)
            .alias("failures_before"),
            pl.col("reason").filter(failed).last().alias("last_failure_reason"),
            pl.col("occurred_at").min().alias("first_at"),
            pl.col("occurred_at").max().alias("last_at"),
            pl.col("occurred_at").filter(done).first().alias("completed_at"),
            pl.col("occurred_at").filter(back).min().alias("first_refund_at"),
        )
        .with_columns(
            pl.when(pl.col("unreferenced"))
            .then(pl.col("refunded_minor"))
            .otherwise(pl.coalesce("processed", "attempted"))
            .alias("amount_minor"),
            (pl.col("processed").fill_null(0) - pl.col("refunded_minor")).alias("net_minor"),
            _status().alias("status"),
        )
        .select(*_PAYMENT)
    )


def _status() -> pl.Expr:
    processed, refunded = pl.col("processed"), pl.col("refunded_minor")
    return (
        pl.when(pl.col("unreferenced"))
        .then(pl.lit("refunded"))
        .when(processed.is_null())
        .then(pl.lit("failed"))
        .when(refunded == 0)
        .then(pl.lit("completed"))
        .when(refunded < processed)
        .then(pl.lit("partially_refunded"))
        .otherwise(pl.lit("refunded"))
    )


def audit(events: pl.LazyFrame, payment_id: str, books: Books | None) -> pl.DataFrame:
    """The steps of one payment; see `Lake.audit`.

    Raises:
        LakeError: no event is of that payment.
    """
    found = events.filter(pl.col("payment_id") == payment_id).sort("version").collect()
    if found.is_empty():
        ids = events.filter(pl.col("payment_id").str.contains(payment_id, literal=True))
        near = ids.select(pl.col("payment_id").unique(maintain_order=True).head(100)).collect()
        if near.is_empty():
            near = events.select(pl.col("payment_id").unique(maintain_order=True).head(10_000)).collect()
        raise unknown("payment", payment_id, near["payment_id"].to_list())
    state, rows = NOTHING, []
    for step in found.iter_rows(named=True):
        state = evolve(state, _event(step), step["organization_id"])
        assert state.status is not None
        left = 0 if state.processed is None else state.processed - state.refunded
        amounts = {"amount": step["amount_minor"], "refunded": state.refunded, "left": left}
        rows.append(
            {
                **step,
                "step": step["version"],
                "what": step["event_type"],
                "who": step["user_id"],
                "booked_in": _booked_in(step, books),
                "status": state.status.value,
                "details": step["extra_metadata"],
                **{f"{name}_minor": minor for name, minor in amounts.items()},
                **{name: Money(minor, state.currency).amount for name, minor in amounts.items()},
            }
        )
    return pl.DataFrame([{name: row[name] for name in _AUDIT} for row in rows], schema=_AUDIT)


def _event(step: dict[str, Any]) -> PaymentEvent:
    amount = Money(step["amount_minor"], step["currency"])
    match step["event_type"]:
        case "PaymentProcessed":
            return PaymentProcessed(amount, step["attempt"])
        case "PaymentFailed":
            return PaymentFailed(amount, step["attempt"], step["reason"])
        case "PaymentRefunded":
            return PaymentRefunded(amount, step["reason"], step["unreferenced"])
    raise LakeError(
        f"Nobody knows what {step['event_type']!r} at position {step['position']:,} does to a payment.",
        "It is of a type that this version does not know: use the newer version.",
    )


def _booked_in(step: dict[str, Any], books: Books | None) -> str | None:
    if books is None:
        return None
    return Interval.month_of(books.booked_at(step["occurred_at"], step["position"]), books.zone).label
