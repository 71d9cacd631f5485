"""Projections: read models that follow the event log from their own checkpoints, exactly once."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any, Final

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from ledgerlake.mongo.indexes import COLLECTIONS
from ledgerlake.projections.batch import Prepared, columns_of, prepare, write
from ledgerlake.projections.checkpoints import Checkpoint, Part, Slot, checkpoint, collection_of
from ledgerlake.projections.dead_letters import DeadLetter
from ledgerlake.projections.engine import Advance, SlotGone, advance, live_slots, make_models, open_slot
from ledgerlake.projections.failure_reasons import FAILURE_REASONS
from ledgerlake.projections.model import (
    Derived,
    Field,
    OnPoison,
    Projection,
    ProjectionError,
    ProjectionOutdated,
    ProjectionStopped,
    misfits,
)
from ledgerlake.projections.parts import part_slot, split
from ledgerlake.projections.payment_quarters import PAYMENT_QUARTERS
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.projections.per_event import per_event
from ledgerlake.projections.retrying import Retried, retry
from ledgerlake.projections.statistics import STATISTICS
from ledgerlake.projections.trends import TRENDS

# Also those that LEDGERLAKE_PROJECTIONS adds, once `add_projections` was called.
PROJECTIONS: dict[str, Projection] = {
    projection.name: projection
    for projection in (PAYMENTS, STATISTICS, TRENDS, PAYMENT_QUARTERS, FAILURE_REASONS)
}

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def add_projections(paths: Sequence[str]) -> dict[str, Projection]:
    """PROJECTIONS, with those that stand at these import paths, `package.module:NAME`.

    Raises:
        ProjectionError: a path that leads to no projection, or to one whose name is taken or can not be.
    """
    for path in paths:
        module, _, name = path.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise _no_projection(path, str(error)) from error
        if not isinstance(found, Projection):
            raise _no_projection(path, f"it is a {type(found).__name__}")
        if PROJECTIONS.get(found.name) is found:
            continue
        taken = {*COLLECTIONS, *(model for each in PROJECTIONS.values() for model in each.models)}
        for model_name in found.models:
            if model_name in taken or not _NAME.fullmatch(model_name) or "__" in model_name:
                raise _no_projection(
                    path, f"its name {model_name!r} is taken, or is no name for a collection"
                )
        PROJECTIONS[found.name] = found
    return PROJECTIONS


def model(
    db: Database[dict[str, Any]], name: str, session: ClientSession | None = None
) -> Collection[dict[str, Any]]:
    """The live collection of a read model: of a projection, or of totals that are derived from one.

    A rebuild swaps it: ask in the session of the snapshot that is read.
    """
    owner = next((each.name for each in PROJECTIONS.values() if name in each.models), name)
    return db[collection_of(name, checkpoint(db, owner, session).generation)]


def _no_projection(path: str, why: str) -> ProjectionError:
    return ProjectionError(
        f"{path!r} is no projection that can be added: {why}.",
        "LEDGERLAKE_PROJECTIONS names them as package.module:NAME, by commas.",
    )


__all__ = [
    "PROJECTIONS",
    "Advance",
    "Checkpoint",
    "DeadLetter",
    "Derived",
    "Field",
    "OnPoison",
    "Part",
    "Prepared",
    "Projection",
    "ProjectionError",
    "ProjectionOutdated",
    "ProjectionStopped",
    "Retried",
    "Slot",
    "SlotGone",
    "add_projections",
    "advance",
    "checkpoint",
    "collection_of",
    "columns_of",
    "live_slots",
    "make_models",
    "misfits",
    "model",
    "open_slot",
    "part_slot",
    "per_event",
    "prepare",
    "retry",
    "split",
    "write",
]
