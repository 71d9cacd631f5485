"""Rebuilds that are killed at random moments, and in the swap at every one: read models are never wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.projections import PROJECTIONS, advance, checkpoint
from ledgerlake.projections import rebuild as rebuilding
from ledgerlake.projections.rebuild import drop_replaced, rebuild, shadow
from tests.builders import insert_events, payment_history
from tests.faults.forks import AFTER, BEFORE, Forks, Moment, forks
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
KILLS = 40
STATISTICS = PROJECTIONS["payment_statistics"]
HERE = "tests.faults.test_rebuild_kill"


def rebuild_all(db: Db, name: str) -> None:
    """Work for a fork: what was replaced before is dropped, the live one goes on, and is rebuilt."""
    drop_replaced(db, PROJECTIONS[name], grace_seconds=0)
    advance(db, PROJECTIONS[name], batch=40)
    rebuild(db, PROJECTIONS[name], batch=60)


def swap_in(db: Db, name: str, apart: bool) -> None:
    """Work for a fork: only the swap, which has to take the last events itself.

    `apart`: without its transaction, as the design would be that this one is not.
    """
    rebuilding._Rebuild._fill = lambda *_: None  # type: ignore[method-assign,assignment]
    if apart:
        rebuilding.in_transaction = lambda _, body: body(None)  # type: ignore[assignment]
    rebuild(db, PROJECTIONS[name])


@pytest.fixture
def forking(database: Db, environ: Mapping[str, str]) -> Iterator[Forks]:
    with forks(database, environ) as running:
        yield running


def grow(db: Db, events: int) -> None:
    found = db["counters"].find_one({"_id": "events"}) or {}
    head = int(found["position"])
    insert_events(db, payment_history(head, events, after=head))


def right(db: Db, name: str) -> bool:
    """Whether the live read model, brought up to the head, is what the log comes to."""
    advance(db, PROJECTIONS[name])
    return stored(db, PROJECTIONS[name]) == fresh_fold(db, PROJECTIONS[name])


def test_a_rebuild_killed_at_any_moment_leaves_every_event_counted_once(
    database: Db, forking: Forks, record_property: Any
) -> None:
    seed = 20261123
    record_property("seed", seed)
    chance = random.Random(seed)
    names = list(PROJECTIONS)
    grow(database, 300)
    for _ in range(2):  # the second time as it is from then on
        whole = forking.together([(f"{HERE}:rebuild_all", [name], None) for name in names])
    commands = {name: outcome.commands for name, outcome in zip(names, whole, strict=True)}
    kills = 0
    while kills < KILLS // 2:
        moments = [
            Moment(chance.randint(1, commands[name]), chance.choice((BEFORE, AFTER))) for name in names
        ]
        works = [(f"{HERE}:rebuild_all", [name], at) for name, at in zip(names, moments, strict=True)]
        kills += sum(outcome.killed for outcome in forking.together(works))
        grow(database, 10)
        assert [name for name in names if not right(database, name)] == []
    # Whatever was left half done is finished by the next.
    for name in names:
        rebuild_all(database, name)
        assert right(database, name)
        assert shadow(database, name) is None


def a_swap(db: Db) -> None:
    """All is ready for a swap but the last events, which came after the comparison."""
    rebuild(db, STATISTICS, swap=False)
    grow(db, 12)
    advance(db, STATISTICS)


def test_a_swap_killed_at_any_moment_happens_whole_or_not_at_all(database: Db, forking: Forks) -> None:
    grow(database, 100)
    advance(database, STATISTICS)
    a_swap(database)
    commands = forking.run(f"{HERE}:swap_in", STATISTICS.name, False).commands
    kills = swapped = 0
    moments = [Moment(number, side) for number in range(commands, 0, -1) for side in (AFTER, BEFORE)]
    while kills < KILLS // 2:
        a_swap(database)
        before = checkpoint(database, STATISTICS.name).generation
        outcome = forking.run(f"{HERE}:swap_in", STATISTICS.name, False, moment=moments.pop(0))
        kills += outcome.killed
        swapped += outcome.killed and checkpoint(database, STATISTICS.name).generation > before
        assert right(database, STATISTICS.name)
    assert 0 < swapped < kills


def test_negative_control_a_swap_without_its_transaction_loses_events(database: Db, forking: Forks) -> None:
    grow(database, 100)
    advance(database, STATISTICS)
    a_swap(database)
    commands = forking.run(f"{HERE}:swap_in", STATISTICS.name, True).commands
    for number in range(1, commands + 1):
        a_swap(database)
        forking.run(f"{HERE}:swap_in", STATISTICS.name, True, moment=Moment(commands - number, BEFORE))
        rebuild(database, STATISTICS)
        if not right(database, STATISTICS.name):
            return
    pytest.fail("Every event was counted, whenever it was killed.")
