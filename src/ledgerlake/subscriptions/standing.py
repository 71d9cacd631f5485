"""How far each named subscription has come: its document in `subscriptions`, for either driver."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bson import Int64
from pymongo.errors import DuplicateKeyError

from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.mongo.steps import Steps
from ledgerlake.subscriptions.following import SubscriptionError

LIVE: Final = "live"
STOPPED: Final = "stopped"

# Of the places in the code that an error passed, so many are kept, the last ones.
_PLACES: Final = 4
# These call the handler, and say nothing of what went wrong in it.
_OWN: Final = tuple(
    str(Path("ledgerlake", *parts))
    for parts in (("subscriptions", "handling.py"), ("subscriptions", "retrying.py"), ("mongo", "steps.py"))
)


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """Where a subscription stands: every event up to `position` that it wants is handled, or parked.

    `status` is live, or stopped (by an event that its handler failed on: `last_error`, see `told`); live says
    nothing of whether someone runs it at the moment, which its lag shows.
    """

    name: str
    position: int = 0
    only: EventFilter = EVERYTHING
    status: str = LIVE
    updated_at: datetime | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a subscription is behind: events that it wants and has not handled, and the age in seconds
    (since it was stored) of the oldest of them; 0 and 0.0 when there is none. What is parked is not in it."""

    events: int
    seconds: float


def read(subscriptions: Any, name: str) -> Steps[SubscriptionState | None]:
    """The state of a subscription; None if there is none of that name."""
    found = yield subscriptions.find_one({"_id": name})
    return None if found is None else state_of(found)


def register(subscriptions: Any, name: str, only: EventFilter) -> Steps[SubscriptionState]:
    """The state that a run starts from; a new subscription starts at position 0.

    Raises:
        SubscriptionError: it has come to where it is with another filter. What the new one wants of the
            events before that would be left out without a word.
    """
    wanted = _filter_document(only)
    while (found := (yield subscriptions.find_one({"_id": name}))) is None:
        try:
            yield subscriptions.insert_one(
                {"_id": name, "position": Int64(0), "filter": wanted, **_as_live()}
            )
        except DuplicateKeyError:
            continue  # another process was faster
    if found.get("filter", wanted) != wanted and found["position"] > 0:
        raise SubscriptionError(
            f"Subscription {name!r} stands at position {found['position']} with another filter.",
            "Give what it is now another name, or forget the old one to begin anew.",
        )
    yield subscriptions.update_one({"_id": name}, {"$set": {"filter": wanted, **_as_live()}})
    return SubscriptionState(name, int(found["position"]), only)


def move(
    subscriptions: Any, name: str, after: int, to: int, *, error: str | None = None, session: Any = None
) -> Steps[bool]:
    """Compare-and-set from one position to another; False if it is not at `after` (any more).

    With an `error` it is stopped there.
    """
    fields = {**_as_live(), "position": Int64(to)}
    if error is not None:
        fields |= {"status": STOPPED, "lastError": error}
    moved = yield subscriptions.update_one(
        {"_id": name, "position": after}, {"$set": fields}, session=session
    )
    return bool(moved.matched_count == 1)


def state_of(document: Mapping[str, Any]) -> SubscriptionState:
    """The state that a document of `subscriptions` holds, be it no more than a checkpoint."""
    given = document.get("filter") or {}
    only = EventFilter.of(
        event_types=given.get("eventTypes"),
        aggregate_types=given.get("aggregateTypes"),
        organizations=given.get("organizations"),
    )
    return SubscriptionState(
        document["_id"],
        int(document["position"]),
        only,
        document.get("status", LIVE),
        document.get("updatedAt"),
        document.get("lastError"),
    )


def lag(events: Any, reader: Any, collect: Any, state: SubscriptionState) -> Steps[Lag]:
    """How far it is behind the log's head. Of a filtered one the events are counted: the cost is the backlog.

    Args:
        events: the collection, read at majority.
        reader, collect: as of a Follower.
    """
    head = yield reader.head()
    if head <= state.position:
        return Lag(0, 0.0)
    oldest = yield collect(reader.read_all(state.position, up_to=head, limit=1, only=state.only))
    if not oldest:
        return Lag(0, 0.0)
    behind = head - state.position
    if not state.only.selects_all:
        # The one that was just read is counted by its position on: what is before it is not wanted.
        since = {"position": {"$gte": oldest[0].position, "$lte": head}}
        behind = yield events.count_documents({**since, **state.only.condition()})
    age = (datetime.now(UTC) - oldest[0].recorded_at).total_seconds()
    return Lag(behind, max(0.0, age))  # two machines' clocks may differ


def told(error: BaseException) -> str:
    """What is kept of a handler's error: its type and the places in the code that it passed, not its text.

    A text quotes what was being handled, and with it personal values, which no `forget` would find here.
    Whoever runs the handler gets the error itself.
    """
    frames = traceback.extract_tb(error.__traceback__)
    passed = [frame for frame in frames if not frame.filename.endswith(_OWN)][-_PLACES:]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in passed)
    return f"{type(error).__name__} ({places})" if places else type(error).__name__


def _as_live() -> dict[str, Any]:
    return {"status": LIVE, "lastError": None, "updatedAt": datetime.now(UTC)}


def _filter_document(only: EventFilter) -> dict[str, Any] | None:
    if only.selects_all:
        return None
    named = {
        "eventTypes": only.event_types,
        "aggregateTypes": only.aggregate_types,
        "organizations": only.organizations,
    }
    return {name: None if values is None else sorted(values) for name, values in named.items()}
