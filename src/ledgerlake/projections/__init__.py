"""Projections: read models that follow the event log from their own checkpoints, exactly once."""

from __future__ import annotations

from ledgerlake.projections.checkpoints import Checkpoint, checkpoint
from ledgerlake.projections.emptying import reset
from ledgerlake.projections.engine import Advance, advance
from ledgerlake.projections.model import Projection, ProjectionError, ProjectionStopped
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.projections.statistics import STATISTICS
from ledgerlake.projections.trends import TRENDS

PROJECTIONS: dict[str, Projection] = {
    projection.name: projection for projection in (PAYMENTS, STATISTICS, TRENDS)
}

__all__ = [
    "PROJECTIONS",
    "Advance",
    "Checkpoint",
    "Projection",
    "ProjectionError",
    "ProjectionStopped",
    "advance",
    "checkpoint",
    "reset",
]
