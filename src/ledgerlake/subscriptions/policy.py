"""What a consumer of a subscription is told, and what it tells: handlers, policies, results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ledgerlake.eventstore.model import Append, StoredEvent
from ledgerlake.subscriptions.following import SubscriptionError

# What a handler returns is stored atomically with the checkpoint. An async one returns it as a coroutine.
Handler: TypeAlias = Callable[[StoredEvent], Sequence[Append] | None]


class OnFailure(Enum):
    """What becomes of an event that its handler failed on, every retry included.

    STOP: the subscription stops before it, and says so; it tries again when it is run again.
    PARK_EVENT: the event is parked, and the next one handled.
    PARK_STREAM: the same, and what follows in its stream is parked behind it, so that each stream's events
    are handled in order or not at all.
    """

    STOP = "stop"
    PARK_EVENT = "park_event"
    PARK_STREAM = "park_stream"


@dataclass(frozen=True, slots=True)
class HandlingPolicy:
    """How failures are met, and how often the checkpoint is stored.

    `retries` come after the first attempt, the n-th after first_delay * 2^(n-1) seconds, at most max_delay.
    The checkpoint is stored after so many events, or so many seconds after the first that it leaves out,
    whichever comes first: after a crash at most these are handled a second time.
    """

    on_failure: OnFailure = OnFailure.STOP
    retries: int = 4
    first_delay: float = 0.1
    max_delay: float = 10.0
    checkpoint_events: int = 100
    checkpoint_seconds: float = 1.0

    def __post_init__(self) -> None:
        if (
            self.retries < 0
            or self.checkpoint_events < 1
            or min(self.first_delay, self.checkpoint_seconds) < 0
        ):
            raise ValueError(f"No policy can be like this: {self}.")

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the n-th failed attempt."""
        return min(self.max_delay, self.first_delay * 2.0 ** min(attempt - 1, 60))


class HandlerFailed(SubscriptionError):
    """A handler failed on an event for good; the subscription stands right before it."""

    def __init__(self, name: str, event: StoredEvent, error: Exception) -> None:
        super().__init__(
            f"Subscription {name!r} stopped before position {event.position}, {event.event_type} of"
            f" {event.stream_id!r}: {type(error).__name__}: {error}",
            "Mend the cause and run it again: it goes on with that event.",
        )
        self.subscription = name
        self.event = event


@dataclass(frozen=True, slots=True)
class Handled:
    """What a run did: the checkpoint before and after it, events handled, and events parked."""

    subscription: str
    from_position: int
    to_position: int
    events: int
    parked: int
