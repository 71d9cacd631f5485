"""The machine that compares stores finds one that breaks a rule: the negative controls of the model tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from ledgerlake.eventstore.expected import ANY
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import Append, Appended, CheckpointMove, Outcome, StoredEvent
from ledgerlake.testing.cases.sample import Store
from ledgerlake.testing.memory import InMemoryEventStore
from tests.store_machine import OUTCOMES, take_steps

SEED = 7


class ForgetsCommands(InMemoryEventStore):
    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return super().append_many([replace(each, command_id=None) for each in appends])


class IgnoresRequestHashes(InMemoryEventStore):
    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return super().append_many([replace(each, request_hash="same") for each in appends])


class IgnoresExpectedVersions(InMemoryEventStore):
    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return super().append_many([replace(each, expected=ANY) for each in appends])


class TakesTheFirstOnesOfAnAtomicRequest(InMemoryEventStore):
    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        for each in appends[:-1]:
            super().append_atomically([each])
        return super().append_atomically(appends, checkpoint)


class MovesCheckpointsFromAnywhere(InMemoryEventStore):
    def append_atomically(
        self, appends: Sequence[Append], checkpoint: CheckpointMove | None = None
    ) -> list[Appended]:
        if checkpoint is not None and checkpoint.after is not None:
            checkpoint = replace(checkpoint, after=self.checkpoint(checkpoint.name))
        return super().append_atomically(appends, checkpoint)


class StartsEveryStreamAtOne(InMemoryEventStore):
    def append_many(self, appends: Sequence[Append]) -> list[Outcome]:
        return super().append_many([replace(each, first_version=1) for each in appends])


class LimitsBeforeItTurnsRound(InMemoryEventStore):
    def read_stream(self, stream_id: str, **bounds: Any) -> list[StoredEvent]:
        backwards = bounds.pop("backwards", False)
        events = super().read_stream(stream_id, **bounds)
        return events[::-1] if backwards else events


class FiltersByOneOrganizationOnly(InMemoryEventStore):
    def read_all(
        self, after: int = 0, *, only: EventFilter = EVERYTHING, **bounds: Any
    ) -> Iterator[StoredEvent]:
        one = None if only.organizations is None else frozenset(sorted(only.organizations)[:1])
        return super().read_all(after, only=replace(only, organizations=one), **bounds)


class RemembersVersionsOfItsOwn(InMemoryEventStore):
    """A cache that another writer makes stale: what two stores on one log are in the machine for."""

    def second(self) -> InMemoryEventStore:
        stale = InMemoryEventStore()
        stale.__dict__.update({**self.__dict__, "_versions": {}})
        return stale


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsCommands,
        IgnoresRequestHashes,
        IgnoresExpectedVersions,
        TakesTheFirstOnesOfAnAtomicRequest,
        MovesCheckpointsFromAnywhere,
        StartsEveryStreamAtOne,
        LimitsBeforeItTurnsRound,
        FiltersByOneOrganizationOnly,
        RemembersVersionsOfItsOwn,
    ],
)
def test_negative_control_a_store_that_breaks_a_rule_is_found(broken: type[InMemoryEventStore]) -> None:
    def opens(stack: ExitStack) -> tuple[Store, Store]:
        store = stack.enter_context(broken())
        return store, store.second() if isinstance(store, RemembersVersionsOfItsOwn) else store

    with pytest.raises((AssertionError, ExceptionGroup)):
        take_steps(opens, at_least=5_000, first_seed=SEED, shrink=False)


def test_a_store_that_keeps_the_rules_is_left_alone() -> None:
    def opens(stack: ExitStack) -> tuple[Store, Store]:
        store = stack.enter_context(InMemoryEventStore())
        return store, store

    taken = take_steps(opens, at_least=500, first_seed=SEED)
    assert taken.steps >= 500
    assert set(taken.met) >= set(OUTCOMES)


def test_a_seed_gives_the_same_steps_again() -> None:
    def program(number: int) -> list[str]:
        taken: list[str] = []

        class Listens(InMemoryEventStore):
            def append(self, append: Append) -> Appended:
                taken.append(repr((append.stream_id, append.expected, append.command_id)))
                return super().append(append)

        def opens(stack: ExitStack) -> tuple[Store, Store]:
            store = stack.enter_context(Listens())
            return store, store

        take_steps(opens, at_least=400, first_seed=number)
        return taken

    assert program(SEED) == program(SEED)
    assert program(SEED) != program(SEED + 1)
