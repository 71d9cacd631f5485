"""The events of one save as appends to streams, with what each stream is expected to be."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self
from uuid import UUID

from eventsourcing.persistence import DataError, StoredEvent

from ledgerlake.eventstore.expected import NO_STREAM, ExpectedVersion, exact
from ledgerlake.eventstore.model import Append, ConcurrencyError, NewEvent

# The topic names an event's class, and a class may be inherited: it does not say what the aggregate is.
AGGREGATE_TYPE: Final = "eventsourcing"


@dataclass(frozen=True, slots=True)
class Run:
    """Events of one stream whose versions follow one another, from `first`."""

    stream_id: str
    first: int
    events: Sequence[NewEvent]


@dataclass(frozen=True, slots=True)
class Save:
    """What an application stores at once, under an id of its own: sent again under it, it happens once."""

    save_id: str
    runs: Sequence[Run]

    @classmethod
    def of(
        cls,
        stored_events: Sequence[StoredEvent],
        stream_id: Callable[[UUID | str], str],
        *,
        cause: str | None = None,
    ) -> Self:
        """The events of a save, in their order; the order in the log is the same.

        Raises DataError for a version below 0 and for what `stream_id` refuses.
        """
        save_id = str(uuid.uuid4())
        now = datetime.now(UTC)
        runs: list[Run] = []
        events: list[NewEvent] = []
        for event in stored_events:
            stream, version = stream_id(event.originator_id), event.originator_version
            if version < 0:
                raise DataError(f"Version {version} of {stream!r} is below 0: versions start at 0 or 1.")
            if not runs or runs[-1].stream_id != stream or runs[-1].first + len(events) != version:
                events = []
                runs.append(Run(stream, version, events))
            events.append(
                NewEvent(
                    event_type=event.topic,
                    data={"state": event.state},
                    timestamp=now,
                    correlation_id=save_id,
                    causation_id=cause or save_id,
                )
            )
        return cls(save_id, runs)


def appends_of(save: Save, from_zero: Collection[str]) -> list[Append]:
    """One append for each run. `from_zero`: streams known to be at version 0."""
    last: dict[str, int] = {}
    appends = []
    for number, run in enumerate(save.runs):
        known = run.stream_id in last or run.stream_id in from_zero
        appends.append(
            Append(
                stream_id=run.stream_id,
                aggregate_type=AGGREGATE_TYPE,
                events=run.events,
                expected=_expected(run.first, known=known),
                command_id=f"{save.save_id}:{number}",
                first_version=run.first,
            )
        )
        last[run.stream_id] = run.first + len(run.events) - 1
    return appends


def starts_at_zero(error: BaseException | None) -> str | None:
    """The stream whose run from version 1 was refused only because it counts from 0, and is at 0."""
    if isinstance(error, ConcurrencyError) and error.expected == NO_STREAM and error.actual == 0:
        return error.stream_id
    return None


def _expected(first: int, *, known: bool) -> ExpectedVersion:
    # Version 1 opens an aggregate that counts from 1 and is the second event of one that counts from 0. It is
    # taken for the first kind, which the package's own aggregates are, until the store says otherwise.
    if first == 0 or (first == 1 and not known):
        return NO_STREAM
    return exact(first - 1)
