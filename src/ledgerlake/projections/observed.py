"""The commit of a projection's batch, told to whoever observes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pymongo.database import Database

from ledgerlake.eventstore.columnar import head
from ledgerlake.mongo.indexes import EVENTS
from ledgerlake.projections.checkpoints import Slot
from ledgerlake.projections.model import Projection
from ledgerlake.telemetry.port import Telemetry

Db: TypeAlias = Database[dict[str, Any]]
# Of a batch of many thousand events the last ones are joined to their commands; a rebuild must not make a
# span for every payment there ever was.
MOST_CORRELATIONS: Final = 100


def observed(
    commit: Callable[[Db, Projection, Slot, Any], bool], telemetry: Telemetry
) -> Callable[[Db, Projection, Slot, Any], bool]:
    """`commit`, with a span for the batch, one for each correlation in it, and the lag that is left."""

    def told(db: Db, projection: Projection, slot: Slot, prepared: Any) -> bool:
        after, up_to = prepared.after, prepared.up_to
        with telemetry.projecting(projection.name, after, up_to, _correlations(db, after, up_to)) as outcome:
            try:
                moved = commit(db, projection, slot, prepared)
            except BaseException as error:
                outcome.failed(type(error).__name__)
                raise
            outcome.came_to("done" if moved else "dropped", events=up_to - after)
        if moved:
            telemetry.lag(projection.name, head(db) - up_to)
        return moved

    return told


def _correlations(db: Db, after: int, up_to: int) -> list[str]:
    """The correlations of the last events in the range, each once, at most MOST_CORRELATIONS."""
    first = max(after, up_to - MOST_CORRELATIONS)
    events = db[EVENTS].find(
        {"position": {"$gt": first, "$lte": up_to}}, {"_id": 0, "correlationId": 1}, sort=[("position", -1)]
    )
    return list(dict.fromkeys(event["correlationId"] for event in events))
