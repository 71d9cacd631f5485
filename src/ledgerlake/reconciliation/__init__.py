"""Whether the log, the read models and the Parquet files tell the same story, to the minor unit."""

from __future__ import annotations

from ledgerlake.reconciliation.chain import NotedHead
from ledgerlake.reconciliation.model import Check, Verification
from ledgerlake.reconciliation.quick import Reconciled, reconcile
from ledgerlake.reconciliation.record import (
    Recorded,
    last_verification,
    last_verifications,
    record,
    record_verification,
)
from ledgerlake.reconciliation.verify import verify

__all__ = [
    "Check",
    "NotedHead",
    "Reconciled",
    "Recorded",
    "Verification",
    "last_verification",
    "last_verifications",
    "reconcile",
    "record",
    "record_verification",
    "verify",
]
