"""A machine that does random things to a store and to the store in memory, and compares the outcomes."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ledgerlake.eventstore.expected import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, exact
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointMove,
    EventStoreError,
    NewEvent,
    StoredEvent,
)
from ledgerlake.testing.cases.sample import NOON, Store
from ledgerlake.testing.memory import InMemoryEventStore

Opens: TypeAlias = Callable[[ExitStack], tuple[Store, Store]]

STEPS_PER_EXAMPLE = 80
STREAMS = ("a", "b", "c", "d", "e", "f")
COMMANDS = tuple(f"c{number}" for number in range(12))
CONSUMERS = ("p", "q")
# What writing can come to; a run that never met one of them has not looked there.
OUTCOMES = (
    "Appended",
    "Repeated",
    "ConcurrencyError",
    "Broken",
    "CommandIdReused",
    "CheckpointConflict",
)
# Stand for the version (or position) that is right when the step is taken, and for the one before: what a
# writer expects whose store has not seen the last event yet.
RIGHT = "right"
BEHIND = "behind"

# Few names and small numbers, so that things meet; and few draws, which are what a step costs most.
_some_streams = st.sampled_from(STREAMS)
_events = st.sampled_from(
    [
        NewEvent(name, {"number": number}, NOON, correlation, "cause", {"organizationId": organization})
        for number, (name, correlation, organization) in enumerate(
            itertools.product(("Opened", "Closed"), ("x", "y"), ("acme", "bolt"))
        )
    ]
)
some_appends = st.builds(
    Append,
    stream_id=_some_streams,
    aggregate_type=st.sampled_from(("Account", "Card")),
    events=st.lists(_events, min_size=1, max_size=3),
    expected=st.sampled_from(
        (*[RIGHT] * 8, *[BEHIND] * 3, *[ANY] * 3, *[NO_STREAM] * 3, STREAM_EXISTS, *map(exact, range(4)))  # type: ignore[arg-type]
    ),
    command_id=st.sampled_from((*[None] * 12, *COMMANDS)),
    request_hash=st.sampled_from(("h", "h", "h", "other")),
    first_version=st.sampled_from((1, 1, 0)),
)
some_moves = st.builds(
    CheckpointMove,
    name=st.sampled_from(CONSUMERS),
    position=st.integers(1, 9),
    after=st.sampled_from((RIGHT, RIGHT, None, 0, 1, 2, 3, 5)),  # type: ignore[arg-type]
)
_bound = st.none() | st.integers(0, 8)
_limit = st.none() | st.integers(0, 4)
_filters = st.builds(
    EventFilter,
    event_types=st.sampled_from((None, None, frozenset({"Opened"}), frozenset())),
    aggregate_types=st.sampled_from((None, None, frozenset({"Card"}))),
    organizations=st.sampled_from((None, None, frozenset({"acme"}), frozenset({"acme", "bolt"}))),
)
_first_or_second = st.integers(0, 1)


class StoreMachine(RuleBasedStateMachine):
    """Each rule is one step: the same call to a store and to the model, whose outcomes must be equal.

    There are two stores on the log, and either may be the one that is called, so what one of them
    remembers of the log goes stale.
    """

    opens: ClassVar[Opens]
    steps: ClassVar[int]
    met: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self._stores = type(self).opens(self._open)
        self._model = InMemoryEventStore()
        self._sent: list[Append] = []

    def teardown(self) -> None:
        try:
            for each in self._stores:
                assert seen(list(each.read_all())) == seen(list(self._model.read_all()))
        finally:
            self._open.close()

    @rule(which=_first_or_second, append=some_appends)
    def append(self, which: int, append: Append) -> None:
        [append] = self._decided([append])
        self._compare(which, lambda store: store.append(append))

    @rule(which=_first_or_second, appends=st.lists(some_appends, max_size=4))
    def append_many(self, which: int, appends: list[Append]) -> None:
        appends = self._decided(appends)
        self._compare(which, lambda store: store.append_many(appends))

    @rule(which=_first_or_second, requests=st.lists(st.lists(some_appends, max_size=2), max_size=3))
    def submit_several(self, which: int, requests: list[list[Append]]) -> None:
        """What is committed in one transaction comes out as if it had been committed one by one."""
        requests = [self._decided(appends) for appends in requests]

        def submit(store: Store) -> list[Any]:
            pending = [store.submit(appends) for appends in requests]
            return [each.wait() for each in pending]

        self._compare(which, submit)

    @rule(which=_first_or_second, appends=st.lists(some_appends, max_size=3), move=st.none() | some_moves)
    def append_atomically(self, which: int, appends: list[Append], move: CheckpointMove | None) -> None:
        appends = self._decided(appends)
        if move is not None and move.after == RIGHT:  # type: ignore[comparison-overlap]
            move = replace(move, after=self._model.checkpoint(move.name))
        self._compare(which, lambda store: store.append_atomically(appends, move))

    @rule(
        which=_first_or_second,
        number=st.integers(0, 99),
        how_many=st.integers(1, 2),
        other_content=st.sampled_from((False, False, True)),
        atomic=st.booleans(),
    )
    def repeat(self, which: int, number: int, how_many: int, other_content: bool, atomic: bool) -> None:
        """Send again what was sent before, as after a lost answer."""
        at = number % len(self._sent) if self._sent else 0
        appends = self._sent[at : at + how_many]
        if other_content:
            appends = [replace(each, request_hash="changed") for each in appends]
        if atomic:
            self._compare(which, lambda store: store.append_atomically(appends))
        else:
            self._compare(which, lambda store: store.append_many(appends))

    @rule(
        which=_first_or_second,
        stream=_some_streams,
        first=_bound,
        last=_bound,
        backwards=st.booleans(),
        limit=_limit,
    )
    def read_stream(self, which: int, stream: str, **bounds: Any) -> None:
        named = {
            "from_version": bounds["first"],
            "to_version": bounds["last"],
            "backwards": bounds["backwards"],
            "limit": bounds["limit"],
        }
        self._compare(which, lambda store: store.read_stream(stream, **named))

    @rule(which=_first_or_second, after=st.integers(0, 60), span=_bound, limit=_limit, only=_filters)
    def read_all(
        self, which: int, after: int, span: int | None, limit: int | None, only: EventFilter
    ) -> None:
        up_to = None if span is None else after + span
        self._compare(which, lambda store: list(store.read_all(after, up_to=up_to, limit=limit, only=only)))

    @rule(which=_first_or_second, streams=st.lists(_some_streams, max_size=3))
    def read_streams(self, which: int, streams: list[str]) -> None:
        self._compare(which, lambda store: list(store.read_streams(streams).items()))

    @rule(which=_first_or_second, correlation=st.sampled_from(("x", "y", "z")))
    def read_correlation(self, which: int, correlation: str) -> None:
        self._compare(which, lambda store: store.read_correlation(correlation))

    @rule(which=_first_or_second, commands=st.lists(st.sampled_from(COMMANDS), max_size=3))
    def find_commands(self, which: int, commands: list[str]) -> None:
        self._compare(which, lambda store: sorted(store.find_commands(commands).items()))

    @rule(which=_first_or_second, stream=_some_streams, consumer=st.sampled_from(CONSUMERS))
    def look(self, which: int, stream: str, consumer: str) -> None:
        self._compare(which, lambda s: (s.head(), s.stream_version(stream), s.checkpoint(consumer)))

    def _decided(self, appends: Sequence[Append]) -> list[Append]:
        """The appends with what RIGHT and BEHIND mean now, counting on those before them in the request."""
        versions: dict[str, int | None] = {}
        decided: list[Append] = []
        for each in appends:
            stream = each.stream_id
            version = versions[stream] if stream in versions else self._model.stream_version(stream)
            meant: dict[object, ExpectedVersion] = {
                RIGHT: exact(version) if version is not None else NO_STREAM,
                BEHIND: exact(version - 1) if version else NO_STREAM,
            }
            decided.append(replace(each, expected=meant.get(each.expected, each.expected)))
            before = each.first_version - 1 if version is None else version
            versions[stream] = before + len(each.events)
        self._sent.extend(each for each in decided if each.command_id is not None)
        return decided

    def _compare(self, which: int, call: Callable[[Store], object]) -> None:
        type(self).steps += 1
        expected, actual = outcome(call, self._model), outcome(call, self._stores[which])
        assert actual == expected
        type(self).met.update(kinds(expected))


def outcome(call: Callable[[Store], object], store: Store) -> object:
    """What the call returns or raises, in values that two stores can be compared by."""
    try:
        return seen(call(store))
    except (EventStoreError, ValueError) as error:
        return seen(error)


def seen(value: object) -> object:
    """`value` without what each store makes up by itself: an event's id and the time it was recorded at."""
    if isinstance(value, StoredEvent):
        return replace(value, event_id="", recorded_at=NOON)
    if isinstance(value, Exception):
        return type(value), str(value), vars(value)
    if isinstance(value, (list, tuple)):
        return [seen(each) for each in value]
    return value


def kinds(value: object) -> Iterator[str]:
    """The outcomes of writing that `value`, made by `seen`, consists of, by name."""
    match value:
        case Appended():
            yield "Repeated" if value.duplicate else "Appended"
        case (type() as kind, str(), dict() as fields):
            yield "Broken" if fields.get("broken") else kind.__name__
        case list():
            for each in value:
                yield from kinds(each)


@dataclass(frozen=True, slots=True)
class Taken:
    """How many steps the machine took, and which outcomes of writing it met how often."""

    steps: int
    met: Counter[str]


def take_steps(opens: Opens, *, at_least: int, first_seed: int, shrink: bool = True) -> Taken:
    """Run the machine on the stores that `opens` makes until it has taken so many steps.

    Examples end early now and then, so it runs again, with the next seed, as long as steps are wanting.
    Raises AssertionError, with the shortest program that shows it, where a store and the model differ.
    """
    taken, met = 0, Counter[str]()
    while taken < at_least:
        print(f"seed {first_seed}, {taken:,} steps taken before")
        machine = type(
            "Machine", (StoreMachine,), {"opens": staticmethod(opens), "steps": 0, "met": Counter()}
        )
        run_state_machine_as_test(
            seed(first_seed)(machine),
            settings=settings(
                max_examples=max(1, (at_least - taken) // STEPS_PER_EXAMPLE),
                stateful_step_count=STEPS_PER_EXAMPLE,
                phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
                deadline=None,
                database=None,
                derandomize=False,  # the seed decides, and is printed
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert machine.steps
        taken += machine.steps
        met += machine.met
        first_seed += 1
    print(f"{taken:,} steps, which met {dict(met)}")
    return Taken(taken, met)


def model_seed(option: str | None, *, in_ci: int) -> int:
    """The seed of --hypothesis-seed; without it a fixed one in CI, and a new one for each run elsewhere."""
    if option is not None:
        return int(option)
    return in_ci if settings.get_profile("ledgerlake").derandomize else random.randrange(2**32)
