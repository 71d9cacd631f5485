"""Given these events, when this command comes, then that happens: the rules of any aggregate as examples.

    payment = Scenario(Decider(decide, evolve, NOTHING))
    payment.given(processed).when(refund).then(refunded)
    payment.given(processed).when(pay_again).then_error("already_completed")

No event store takes part: the command is decided on the state that the given events come to. A statement
that does not hold raises an AssertionError which tells the whole story.
"""

from __future__ import annotations

import difflib
import pprint
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

C = TypeVar("C")  # commands
E = TypeVar("E")  # events
S = TypeVar("S")  # state

_WIDTH = 96


@dataclass(frozen=True, slots=True)
class Decider(Generic[C, E, S]):
    """An aggregate: a state to begin with, and two pure functions.

    `decide(state, command)` gives an event, a list or tuple of them, or None where nothing happens; it
    raises what it refuses. `evolve(state, event)` gives the state after the event.
    """

    decide: Callable[[S, C], E | Sequence[E] | None]
    evolve: Callable[[S, E], S]
    initial: S

    def state_after(self, events: Sequence[E]) -> S:
        """The state that the events, from the first on, come to."""
        state = self.initial
        for event in events:
            state = self.evolve(state, event)
        return state


@dataclass(frozen=True, slots=True)
class Scenario(Generic[C, E, S]):
    """What has happened so far to one aggregate. A value: it can be shared, and told on from anywhere."""

    decider: Decider[C, E, S]
    events: tuple[E, ...] = ()

    def given(self, *events: E) -> Scenario[C, E, S]:
        """The same, after these events have happened too."""
        return Scenario(self.decider, (*self.events, *events))

    def when(self, command: C) -> Decided[C, E, S]:
        """Decide a command on what the events come to."""
        # Outside the try: events that do not fold are no answer of the aggregate, whatever is expected.
        state = self.decider.state_after(self.events)
        try:
            decided = self.decider.decide(state, command)
        except Exception as error:  # noqa: BLE001 - then_error judges it, anything else reports it
            return Decided(self, command, (), error)
        return Decided(self, command, _events(decided), None)


@dataclass(frozen=True, slots=True)
class Decided(Generic[C, E, S]):
    """What a command led to: events (maybe none), or an error. Say what it should be, with one `then...`.

    Each returns the scenario as it goes on after the command, so that a story may have several steps.
    """

    scenario: Scenario[C, E, S]
    command: C
    events: tuple[E, ...]
    error: Exception | None

    def then(self, *expected: E) -> Scenario[C, E, S]:
        """Exactly these events happened, in this order.

        Raises:
            AssertionError: with the difference.
            TypeError: no event is given; what is meant may be `then_nothing()`.
        """
        __tracebackhide__ = True
        if not expected:
            raise TypeError("then() needs events: say then_nothing() where none is expected.")
        if self.error is not None:
            raise self._failed(f"Expected {_count(expected)}, but the command was refused.") from self.error
        if not _same(self.events, expected):
            differences = "\n".join(_difference(expected, self.events))
            raise self._failed(
                f"The events are not the expected ones (- expected, + happened):\n{differences}"
            )
        return self._after()

    def then_nothing(self) -> Scenario[C, E, S]:
        """The command was taken, and no event came of it.

        Raises:
            AssertionError: with what happened instead.
        """
        __tracebackhide__ = True
        if self.error is not None:
            raise self._failed("Expected no event, but the command was refused.") from self.error
        if self.events:
            raise self._failed(f"Expected no event, but there was {_count(self.events)}.")
        return self._after()

    def then_error(self, expected: str | type[Exception] | Exception) -> Scenario[C, E, S]:
        """The command was refused, with this error.

        Args:
            expected: the `code` that the error has; or its class; or an error of the same class that has
                the same text.

        Raises:
            AssertionError: with what happened instead.
        """
        __tracebackhide__ = True
        wanted = _described(expected)
        if self.error is None:
            happened = _count(self.events) if self.events else "no event"
            raise self._failed(f"Expected {wanted}, but the command was taken, and there was {happened}.")
        if not _is(self.error, expected):
            raise self._failed(f"Expected {wanted}, but the error was another one.") from self.error
        return self._after()

    def then_state(self, expected: S | Callable[[S], bool]) -> Scenario[C, E, S]:
        """The state after the command equals this one, or this function is true of it.

        Raises:
            AssertionError: with the difference, or with the state.
        """
        __tracebackhide__ = True
        if self.error is not None:
            raise self._failed("Expected another state, but the command was refused.") from self.error
        after = self._after()
        state = self.scenario.decider.state_after(after.events)
        if callable(expected):
            if not expected(state):
                raise self._failed(f"The state is not as expected:\n{_block([state])}")
        elif not _same([state], [expected]):
            differences = "\n".join(_difference([expected], [state]))
            raise self._failed(f"The state is not the expected one (- expected, + is):\n{differences}")
        return after

    def _after(self) -> Scenario[C, E, S]:
        return self.scenario.given(*self.events)

    def _failed(self, what: str) -> AssertionError:
        given = _block(self.scenario.events) if self.scenario.events else "  (no events)"
        story = [what, "Given:", given, "When:", _block([self.command])]
        if self.error is not None:
            code = getattr(self.error, "code", None)
            story += [
                "Refused with:",
                f"  {type(self.error).__name__}{'' if code is None else f' {code}'}: {self.error}",
            ]
        elif self.events:
            story += ["Happened:", _block(self.events)]
        return AssertionError("\n".join(story))


def _events(decided: Any) -> tuple[Any, ...]:
    if decided is None:
        return ()
    # Only these two: an event may be a named tuple, or anything else that can be iterated over.
    return tuple(decided) if type(decided) in (list, tuple) else (decided,)


def _same(actual: Sequence[Any], expected: Sequence[Any]) -> bool:
    # The class is part of what an event says: named tuples of two classes are equal if their fields are.
    return len(actual) == len(expected) and all(
        type(one) is type(other) and one == other for one, other in zip(actual, expected, strict=True)
    )


def _is(error: Exception, expected: str | type[Exception] | Exception) -> bool:
    if isinstance(expected, str):
        return getattr(error, "code", None) == expected
    if isinstance(expected, type):
        return isinstance(error, expected)
    return type(error) is type(expected) and str(error) == str(expected)


def _described(expected: str | type[Exception] | Exception) -> str:
    if isinstance(expected, str):
        return f"an error with code {expected!r}"
    return f"the error {expected.__name__ if isinstance(expected, type) else repr(expected)}"


def _count(events: Sequence[Any]) -> str:
    return f"{len(events)} event{'' if len(events) == 1 else 's'}"


def _lines(values: Sequence[Any]) -> list[str]:
    return [line for value in values for line in pprint.pformat(value, width=_WIDTH).splitlines()]


def _block(values: Sequence[Any]) -> str:
    return "\n".join(f"  {line}" for line in _lines(values))


def _difference(expected: Sequence[Any], actual: Sequence[Any]) -> list[str]:
    before, after = _lines(expected), _lines(actual)
    if before == after:
        # They look alike and are not equal: of different classes, or with a field that repr leaves out.
        before = [f"{line}    # {type(value).__qualname__}" for value in expected for line in _lines([value])]
        after = [f"{line}    # {type(value).__qualname__}" for value in actual for line in _lines([value])]
    return [f"  {line.rstrip()}" for line in difflib.ndiff(before, after)]
