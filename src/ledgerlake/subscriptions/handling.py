"""Handling a subscription's events: the rules about failures and checkpoints, for either driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from pymongo.errors import PyMongoError

from ledgerlake.eventstore.model import (
    CheckpointConflict,
    CheckpointMove,
    LogCorrupted,
    StoredEvent,
    StoreUnavailable,
)
from ledgerlake.mongo.steps import Steps
from ledgerlake.mongo.transactions import UnknownCommit
from ledgerlake.subscriptions import parking, standing
from ledgerlake.subscriptions.following import Follower, SubscriptionError, passes
from ledgerlake.subscriptions.policy import Handled, HandlerFailed, HandlingPolicy, OnFailure

log = logging.getLogger(__name__)

_SAVE_TRIES: Final = 10


class Handling:
    """One run of a named subscription, from the position that its follower stands at.

    Args:
        handler: called with one event after the other. What it returns is stored in one transaction with
            the checkpoint, by `store`, an EventWriter or AsyncEventWriter.
        pause: waits for so many seconds, or until the follower is closed.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[[StoredEvent], Any],
        follower: Follower,
        store: Any,
        database: Any,
        policy: HandlingPolicy,
        pause: Callable[[float], Any],
    ) -> None:
        self._name = name
        self._handler = handler
        self._follower = follower
        self._store = store
        self._database = database
        self._subscriptions = database["subscriptions"]
        self._parked_events = database["parked_events"]
        self._policy = policy
        self._pause = pause
        self._start = self._saved = self._position = follower.position
        self._unsaved_events = 0
        self._unsaved_since = 0.0
        self._handled = self._parked = 0
        self._blocked: set[str] = set()

    def run(self) -> Steps[Handled]:
        """Handle events until the follower ends.

        Raises:
            HandlerFailed: by policy.
            CheckpointConflict: someone else runs the same subscription.
            LogCorrupted, SubscriptionError: see Follower; the subscription is stopped there.
            StoreUnavailable: MongoDB did not answer; nothing is lost, run it again.
        """
        if self._policy.on_failure is OnFailure.PARK_STREAM:
            self._blocked = yield from parking.blocked_streams(self._parked_events, self._name)
        while True:
            try:
                page = yield from self._follower.next_page(self._until_due())
            except (LogCorrupted, SubscriptionError) as error:
                # These tell of positions, and never of what an event says.
                yield from self._save(error=str(error))
                raise
            if page is None:
                break
            for event in page.events:
                if self._follower.closed or not (yield from self._settle(event)):
                    break
                self._reached(event.position, events=1)
                if self._unsaved_events >= self._policy.checkpoint_events or self._until_due() == 0:
                    yield from self._save()
            else:
                # Past what the filter leaves out, too: it need never be looked at again.
                self._reached(page.position, events=0)
                if self._until_due() == 0:
                    yield from self._save()
        yield from self._save()
        return Handled(self._name, self._start, self._saved, self._handled, self._parked)

    def _settle(self, event: StoredEvent) -> Steps[bool]:
        """Handle or park the event; False if the run was ended before it came to that."""
        if event.stream_id in self._blocked:
            if (yield from parking.is_blocked(self._parked_events, self._name, event.stream_id)):
                yield from self._park(event, "An earlier event of its stream is parked.", 0)
                return True
            self._blocked.discard(event.stream_id)
        attempts = 0
        while True:
            attempts += 1
            failure = yield from self._attempt(event)
            if failure is None:
                self._handled += 1
                return True
            if attempts > self._policy.retries:
                break
            yield self._pause(self._policy.delay(attempts))
            if self._follower.closed:
                return False
        if self._policy.on_failure is OnFailure.STOP:
            yield from self._save(error=standing.told(failure))
            raise HandlerFailed(self._name, event, failure) from failure
        yield from self._park(event, standing.told(failure), attempts)
        if self._policy.on_failure is OnFailure.PARK_STREAM:
            self._blocked.add(event.stream_id)
        return True

    def _attempt(self, event: StoredEvent) -> Steps[Exception | None]:
        """Call the handler and store what it returns; what went wrong, if it is for the policy to judge."""
        try:
            appends = yield self._handler(event)
        except Exception as error:  # noqa: BLE001 - whatever the handler raises
            return error
        if not appends:
            return None
        checkpoint = CheckpointMove(self._name, event.position, after=self._saved)
        try:
            yield self._store.append_atomically(appends, checkpoint=checkpoint)
        except CheckpointConflict:
            raise
        except StoreUnavailable:
            # Stored or not: the checkpoint tells, since it moved with the appends.
            if (yield from self._standing()) != event.position:
                raise
        except Exception as error:  # noqa: BLE001 - a conflict, say: the handler decides again
            return error
        self._moved_to(event.position)
        return None

    def _park(self, event: StoredEvent, error: str, attempts: int) -> Steps[None]:
        log.warning(
            "Subscription %s parks position %d after %d attempts.", self._name, event.position, attempts
        )
        try:
            moved = yield from parking.park(
                self._database, event, self._name, self._saved, error, attempts, self._pause
            )
        except UnknownCommit as unknown:
            moved = (yield from self._standing()) == event.position
            if not moved:
                raise StoreUnavailable(
                    f"MongoDB did not say whether {self._name} parked position {event.position} ({unknown}).",
                    "Run it again: the checkpoint tells.",
                ) from unknown
        if not moved:
            yield from self._lost(event.position)
        self._parked += 1
        self._moved_to(event.position)

    def _save(self, error: str | None = None) -> Steps[None]:
        if self._position == self._saved and error is None:
            return
        tries = 0
        while True:
            try:
                moved = yield from standing.move(
                    self._subscriptions, self._name, self._saved, self._position, error=error
                )
                break
            except PyMongoError as failure:
                tries += 1
                if not passes(failure) or tries >= _SAVE_TRIES:
                    raise StoreUnavailable(
                        f"The checkpoint of {self._name} could not be stored: {failure}.",
                        f"Run it again: what came after position {self._saved} is handled again.",
                    ) from failure
            yield self._pause(min(5.0, 0.05 * 2**tries))
        # After a failed try it may be this run that has moved it, the answer having been lost.
        if not moved and not (tries and (yield from self._standing()) == self._position):
            yield from self._lost(self._position)
        self._moved_to(self._position)

    def _lost(self, to: int) -> Steps[None]:
        at = yield from self._standing()
        raise CheckpointConflict(CheckpointMove(self._name, to, after=self._saved), at)

    def _standing(self) -> Steps[int]:
        state = yield from standing.read(self._subscriptions, self._name)
        return 0 if state is None else state.position

    def _reached(self, position: int, *, events: int) -> None:
        if position > self._position:
            if self._position == self._saved:
                self._unsaved_since = time.monotonic()
            self._position = position
            self._unsaved_events += events

    def _moved_to(self, position: int) -> None:
        self._saved = self._position = position
        self._unsaved_events = 0

    def _until_due(self) -> float | None:
        """Seconds until the checkpoint is due; None while it is where it should be."""
        if self._position == self._saved:
            return None
        return max(0.0, self._unsaved_since + self._policy.checkpoint_seconds - time.monotonic())
