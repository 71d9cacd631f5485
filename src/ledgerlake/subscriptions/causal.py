"""Reads that go on from one another, also when another server has become the primary in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledgerlake.mongo.steps import Steps


class CausalReads:
    """Sees to it that each read is of a state that is not older than that of the read before.

    Majority reads alone do not promise that: a member that has just become primary holds every event that was
    ever read, but may for a moment not know yet that a majority has the last ones. After the head was read
    from the primary before, it would then answer as if the log ended earlier, and a filtered read would take
    the events that it does not show for unwanted ones. In a causally consistent session it waits until it
    knows. For one thread or task at a time; the calls must use `client`, which may be of either driver.
    """

    def __init__(self, client: Any) -> None:
        self._session = client.start_session(causal_consistency=True)

    def read(self, call: Callable[[], Any]) -> Steps[Any]:
        """What the call gives, in the session."""
        bound = self._session.bind(end_session=False)
        if hasattr(bound, "__enter__"):
            enter, leave = bound.__enter__, bound.__exit__
        else:
            enter, leave = bound.__aenter__, bound.__aexit__
        yield enter()
        try:
            return (yield call())
        finally:
            yield leave(None, None, None)

    def close(self) -> Steps[None]:
        """End the session."""
        yield self._session.end_session()


class PlainReads:
    """For a store that is never of an older state: one in memory, say."""

    def read(self, call: Callable[[], Any]) -> Steps[Any]:
        """What the call gives."""
        return (yield call())

    def close(self) -> Steps[None]:
        """Nothing."""
        yield from ()
