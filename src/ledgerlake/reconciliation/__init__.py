"""Whether the log, the read models and the Parquet files tell the same story, to the minor unit."""

from __future__ import annotations

from ledgerlake.reconciliation.chain import NotedHead
from ledgerlake.reconciliation.model import Check, Verification
from ledgerlake.reconciliation.verify import verify

__all__ = ["Check", "NotedHead", "Verification", "verify"]
