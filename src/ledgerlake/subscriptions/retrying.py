"""Handling parked events after all, in order, for either driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ledgerlake.eventstore.filter import EVERYTHING
from ledgerlake.eventstore.model import Append, LogCorrupted, StoredEvent, StoreUnavailable
from ledgerlake.mongo.steps import Steps
from ledgerlake.subscriptions import parking, standing
from ledgerlake.subscriptions.parking import ParkedEvent

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of parked events: how many are handled now, and how many are still parked."""

    handled: int
    left: int


def retry_parked(
    name: str,
    handler: Callable[[StoredEvent], Any],
    store: Any,
    collection: Any,
    collect: Callable[[Any], Any],
) -> Steps[Retried]:
    """Call the handler once with each parked event, in position order; what succeeds is parked no more.

    Where an event of a stream fails again, the later ones of that stream stay parked without being tried.
    What the handler returns is stored once, whenever this is killed and begun again: appends without a
    command id get one that the subscription and the position decide.

    Raises:
        StoreUnavailable: MongoDB did not answer; what is not handled is still parked.
        LogCorrupted: a parked event is not in the log.
    """
    handled = left = at = 0
    failed: set[str] = set()
    while batch := (yield from parking.parked(collection, name, _AT_ONCE, at)):
        for item in batch:
            at = item.position
            if item.stream_id in failed:
                left += 1
                continue
            event = yield from _event(item, store, collect)
            try:
                appends = yield handler(event)
                if appends:
                    yield store.append_atomically(_identified(item, appends))
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the handler raises, it stays parked
                yield from parking.failed_again(collection, item, standing.told(error))
                failed.add(item.stream_id)
                left += 1
            else:
                yield from parking.unpark(collection, item)
                handled += 1
    return Retried(handled, left)


def _event(item: ParkedEvent, store: Any, collect: Callable[[Any], Any]) -> Steps[StoredEvent]:
    before = item.position - 1
    found = yield collect(store.read_all(before, up_to=item.position, limit=1, only=EVERYTHING))
    if not found:
        raise LogCorrupted(
            f"The log has no position {item.position}, which {item.subscription!r} has parked.",
            "Run `ledgerlake verify`.",
        )
    event: StoredEvent = found[0]
    return event


def _identified(item: ParkedEvent, appends: Sequence[Append]) -> list[Append]:
    return [
        append
        if append.command_id is not None
        else replace(append, command_id=f"{parking.parked_id(item.subscription, item.position)}|{number}")
        for number, append in enumerate(appends)
    ]
