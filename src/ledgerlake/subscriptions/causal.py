"""Reads that go on from one another, also when another server has become the primary in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bson.timestamp import Timestamp

from ledgerlake.mongo.steps import Steps


class CausalReads:
    """Sees to it that each read is of a state that is not older than that of the read before.

    Majority reads alone do not promise that: a member that has just become primary holds every event that was
    ever read, but may for a moment not know yet that a majority has the last ones. After the head was read
    from the primary before, it would then answer as if the log ended earlier, and a filtered read would take
    the events that it does not show for unwanted ones. In a causally consistent session it waits until it
    knows. For one thread or task at a time; the calls must use `client`, which may be of either driver.
    Between two reads no session is open, so whoever stops reading has nothing to let go of.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: Timestamp | None = None

    def read(self, call: Callable[[], Any]) -> Steps[Any]:
        """What the call gives, read after what the last call saw."""
        session = self._client.start_session(causal_consistency=True)
        if self._seen is not None:
            session.advance_operation_time(self._seen)
        bound = session.bind()
        if hasattr(bound, "__enter__"):
            enter, leave = bound.__enter__, bound.__exit__
        else:
            enter, leave = bound.__aenter__, bound.__aexit__
        yield enter()
        try:
            return (yield call())
        finally:
            self._seen = session.operation_time
            yield leave(None, None, None)


class PlainReads:
    """For a store that is never of an older state: one in memory, say."""

    def read(self, call: Callable[[], Any]) -> Steps[Any]:
        """What the call gives."""
        return (yield call())
