"""Given, when, then: holds for any aggregate, and tells the whole story where it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

from ledgerlake.errors import LedgerLakeError
from ledgerlake.testing.scenario import Decider, Scenario


# A lift: several events at once, none at all, refusals of its own, and events that are tuples.
@dataclass(frozen=True)
class Call:
    floor: int


class Moved(NamedTuple):
    floor: int


class DoorOpened(NamedTuple):
    floor: int


class NoSuchFloor(LedgerLakeError):
    code = "no_such_floor"


@dataclass(frozen=True)
class Lift:
    floor: int = 0
    open: bool = False


def decide(lift: Lift, call: Call) -> Any:
    if not 0 <= call.floor <= 5:
        raise NoSuchFloor(f"There is no floor {call.floor}.")
    if call.floor == 5:
        raise ZeroDivisionError("the motor is on fire")
    if call.floor != lift.floor:
        return [Moved(call.floor), DoorOpened(call.floor)]
    return None if lift.open else DoorOpened(call.floor)


def evolve(lift: Lift, event: Any) -> Lift:
    return (
        Lift(event.floor, isinstance(event, DoorOpened)) if event.floor >= 0 else replace(lift, floor=1 // 0)
    )


lift = Scenario(Decider(decide, evolve, Lift()))
upstairs = lift.given(Moved(3), DoorOpened(3))


def test_what_holds_passes_for_one_event_several_none_and_an_error() -> None:
    lift.when(Call(0)).then(DoorOpened(0))
    lift.when(Call(3)).then(Moved(3), DoorOpened(3))
    upstairs.when(Call(3)).then_nothing()
    upstairs.when(Call(3)).then_state(Lift(3, open=True))
    upstairs.when(Call(1)).then_state(lambda state: state.floor == 1)
    for error in ("no_such_floor", NoSuchFloor, LedgerLakeError, NoSuchFloor("There is no floor 9.")):
        upstairs.when(Call(9)).then_error(error)
    upstairs.when(Call(5)).then_error(ZeroDivisionError)


def test_a_story_goes_on_and_a_scenario_can_be_told_on_twice() -> None:
    story = lift.when(Call(3)).then(Moved(3), DoorOpened(3)).when(Call(3)).then_nothing()
    story = story.when(Call(9)).then_error("no_such_floor")
    story.when(Call(1)).then(Moved(1), DoorOpened(1))
    assert story.when(Call(2)).then(Moved(2), DoorOpened(2)).events == (
        *(Moved(3), DoorOpened(3)),
        *(Moved(2), DoorOpened(2)),
    )
    assert lift.events == ()


@pytest.mark.parametrize(
    "statement",
    [
        lambda: upstairs.when(Call(1)).then(Moved(1)),
        lambda: upstairs.when(Call(1)).then(DoorOpened(1), Moved(1)),
        lambda: upstairs.when(Call(1)).then(Moved(1), DoorOpened(1), DoorOpened(1)),
        lambda: upstairs.when(Call(3)).then(DoorOpened(3)),
        lambda: upstairs.when(Call(9)).then(DoorOpened(9)),
        lambda: upstairs.when(Call(1)).then_nothing(),
        lambda: upstairs.when(Call(9)).then_nothing(),
        lambda: upstairs.when(Call(1)).then_error("no_such_floor"),
        lambda: upstairs.when(Call(3)).then_error("no_such_floor"),
        lambda: upstairs.when(Call(9)).then_error("another_code"),
        lambda: upstairs.when(Call(9)).then_error(ValueError),
        lambda: upstairs.when(Call(9)).then_error(LedgerLakeError("There is no floor 9.")),
        lambda: upstairs.when(Call(9)).then_error(NoSuchFloor("There is no floor 8.")),
        lambda: upstairs.when(Call(5)).then_error("no_such_floor"),
        lambda: upstairs.when(Call(1)).then_state(Lift(1, open=False)),
        lambda: upstairs.when(Call(1)).then_state(lambda state: not state.open),
        lambda: upstairs.when(Call(9)).then_state(Lift(3, open=True)),
    ],
)
def test_what_does_not_hold_fails_and_tells_given_and_when(statement: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match=r"(?s)Given:\n  Moved\(floor=3\)\n  DoorOpened.*When:\n  Call"):
        statement()


def failure(statement: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as failed:
        statement()
    return str(failed.value)


def test_a_difference_shows_what_was_expected_and_what_happened() -> None:
    told = failure(lambda: lift.when(Call(3)).then(Moved(2), DoorOpened(3)))
    assert "  - Moved(floor=2)\n" in told
    assert "  + Moved(floor=3)\n" in told
    assert "    DoorOpened(floor=3)\n" in told
    assert "Given:\n  (no events)\nWhen:\n  Call(floor=3)\n" in told


def test_a_refusal_where_events_were_expected_is_quoted_and_is_the_cause() -> None:
    with pytest.raises(AssertionError, match="NoSuchFloor no_such_floor: There is no floor 9") as failed:
        lift.when(Call(9)).then(Moved(9))
    assert isinstance(failed.value.__cause__, NoSuchFloor)


def test_events_where_a_refusal_was_expected_are_shown() -> None:
    told = failure(lambda: lift.when(Call(3)).then_error("no_such_floor"))
    assert "an error with code 'no_such_floor', but the command was taken, and there was 2 events" in told
    assert "Happened:\n  Moved(floor=3)\n  DoorOpened(floor=3)" in told


def test_unequal_events_that_look_alike_are_told_apart() -> None:
    class Quiet:
        def __repr__(self) -> str:
            return "Moved(floor=3)"

    told = failure(
        lambda: Scenario(Decider(lambda state, command: Moved(3), evolve, Lift())).when(1).then(Quiet())
    )
    assert "- Moved(floor=3)    # test_unequal" in told
    assert "+ Moved(floor=3)    # Moved" in told


def test_saying_nothing_is_not_a_way_to_expect_nothing() -> None:
    with pytest.raises(TypeError, match="then_nothing"):
        upstairs.when(Call(3)).then()


def test_events_that_do_not_fold_are_never_taken_for_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        lift.given(Moved(-1)).when(Call(1)).then_error(ZeroDivisionError)


def test_the_kit_needs_no_test_framework_and_no_driver() -> None:
    import subprocess
    import sys

    code = "import sys, ledgerlake.testing.scenario; print(*{'pytest', 'pymongo', 'bson'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
