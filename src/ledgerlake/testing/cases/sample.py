"""What the cases are written with: a store's type, small events and appends, and a refusal to look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeVar

from bson import Int64

from ledgerlake.eventstore.bus import EventBus
from ledgerlake.eventstore.contract import AsyncEventReader, AsyncEventWriter, EventReader, EventWriter
from ledgerlake.eventstore.expected import ANY, ExpectedVersion
from ledgerlake.eventstore.model import Append, NewEvent, StoredEvent

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

Refusal = TypeVar("Refusal", bound=BaseException)


class Store(EventReader, EventWriter, Protocol):
    """A whole event store."""

    @property
    def bus(self) -> EventBus: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...


class AsyncStore(AsyncEventReader, AsyncEventWriter, Protocol):
    """A whole event store for asyncio."""

    @property
    def bus(self) -> EventBus: ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: Any) -> None: ...


def event(
    event_type: str = "Opened",
    *,
    data: Mapping[str, Any] | None = None,
    correlation: str = "correlation",
    organization: str | None = "acme",
    timestamp: datetime = NOON,
) -> NewEvent:
    """An event with little in it."""
    content = {"amountMinor": Int64(100)} if data is None else data
    metadata = {} if organization is None else {"organizationId": organization}
    return NewEvent(event_type, content, timestamp, correlation, "causation", metadata)


def append(
    stream: str,
    expected: ExpectedVersion = ANY,
    command: str | None = None,
    *,
    events: int | Sequence[NewEvent] = 1,
    request: str | None = "hash",
    kind: str = "Account",
    first_version: int = 1,
) -> Append:
    """An append to `stream`, of so many events or of these."""
    content = [event() for _ in range(events)] if isinstance(events, int) else events
    hashed = None if command is None else request
    return Append(stream, kind, content, expected, command, hashed, first_version)


def places(events: Sequence[StoredEvent]) -> list[tuple[str, int, int]]:
    """Stream, version and position of each event."""
    return [(each.stream_id, each.version, each.position) for each in events]


def refusal(kind: type[Refusal], call: Callable[..., object], *arguments: object, **named: object) -> Refusal:
    """The error of this kind that the call raises; AssertionError if it raises none."""
    try:
        result = call(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, but the call returned {result!r}.")


def assert_whole(store: Store) -> int:
    """Positions are 1..n without a gap up to the head, and each stream's versions follow each other."""
    events = list(store.read_all())
    assert [each.position for each in events] == list(range(1, store.head() + 1))
    last: dict[str, int] = {}
    for each in events:
        assert each.version == last.get(each.stream_id, each.version - 1) + 1
        last[each.stream_id] = each.version
    return len(events)


def at_once(work: Callable[..., object], calls: Iterable[Sequence[object]]) -> None:
    """Make all calls of `work` at the same time, a thread each; the first error of any is raised."""
    failed: list[BaseException] = []
    arguments = list(calls)
    start = threading.Barrier(len(arguments))

    def run(*each: object) -> None:
        start.wait()
        try:
            work(*each)
        except BaseException as error:  # noqa: BLE001 - raised below, where the test sees it
            failed.append(error)

    threads = [threading.Thread(target=run, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
