"""Live runners, and writers whose projections are inline, that are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo import steps
from ledgerlake.projections import PROJECTIONS, advance, checkpoint, checkpoints, engine
from ledgerlake.projections.inline import InlineProjections
from ledgerlake.projections.live import LiveRunner, OnProgress, Part
from tests.builders import insert_events, payment_history
from tests.faults.forks import AFTER, BEFORE, Forks, Moment, forks
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
STATISTICS = PROJECTIONS["payment_statistics"]
KILLS = 20
KILLS_INLINE = 8
MOST_TRIES = 80
DEADLINE = 120.0


@pytest.fixture
def forking(database: Db, environ: Mapping[str, str]) -> Iterator[Forks]:
    with forks(database, environ) as running:
        yield running


@pytest.fixture
def chance(record_property: Callable[[str, object], None]) -> random.Random:
    seed = random.SystemRandom().randrange(10_000)
    record_property("seed", seed)
    return random.Random(seed)


def follow(db: Db, up_to: int, names: list[str]) -> None:
    """Run live until everything is at a position."""

    def bring_up(name: str, on_progress: OnProgress) -> int:
        return advance(db, PROJECTIONS[name], batch=20, on_progress=on_progress).to_position

    with LiveRunner(db, [Part(name, partial(bring_up, name)) for name in names]) as runner:
        deadline = time.monotonic() + DEADLINE
        while min(checkpoint(db, name).position for name in names) < up_to:
            assert time.monotonic() < deadline, runner.failing
            runner.wait(0.05)


def follow_apart(db: Db) -> None:
    """The design that this one is not: a checkpoint moves by itself. Killed between the two."""
    run = engine.in_transaction

    def killed_between(db: Db, body: Callable[[Any], Any]) -> bool:
        def later(*arguments: Any) -> steps.Steps[bool]:
            moves.append(arguments)
            return True
            yield

        moves: list[Any] = []
        checkpoints.move = later
        run(db, body)
        if moves:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    engine.in_transaction = killed_between  # type: ignore[assignment]
    follow(db, 10**9, [STATISTICS.name])


def append(db: Db, seed: int, events: int) -> None:
    """Append one event after the other, with two projections inline."""
    from tests.integration.test_inline import append_of

    among = InlineProjections(db, [PROJECTIONS["payment_read_models"], STATISTICS])
    with EventStore(db, inline=among) as store:
        for document in payment_history(seed, events):
            store.append(append_of({**document, "commandId": f"{seed}-{document['commandId']}"}))


def head(db: Db) -> int:
    return int(db["counters"].find_one({"_id": "events"})["position"])


def is_fresh(db: Db, names: list[str]) -> bool:
    """Whether these read models, once they are advanced, are what the whole log comes to."""
    for name in names:
        assert checkpoint(db, name).status == "live"
        advance(db, PROJECTIONS[name])
        assert stored(db, PROJECTIONS[name]) == fresh_fold(db, PROJECTIONS[name])
    return True


def moment(chance: random.Random, commands: int) -> Moment:
    return Moment(chance.randrange(1, commands), chance.choice((BEFORE, AFTER)))


def test_live_runners_killed_at_random_moments_leave_every_event_counted_once(
    database: Db, forking: Forks, chance: random.Random
) -> None:
    names = list(PROJECTIONS)
    kills = tries = 0
    while kills < KILLS:
        insert_events(database, payment_history(60 + tries, 60, payments=20, after=60 * tries))
        tries += 1
        assert tries < MOST_TRIES, "the runners are done before they are killed"
        both = [
            (f"{__name__}:follow", (60 * tries, names), moment(chance, commands)) for commands in (60, 120)
        ]
        kills += sum(outcome.killed for outcome in forking.together(both))
    assert is_fresh(database, names)


def test_writers_killed_at_random_moments_leave_events_and_read_models_in_step(
    database: Db, forking: Forks, chance: random.Random
) -> None:
    names = ["payment_read_models", STATISTICS.name]
    kills = tries = 0
    while kills < KILLS_INLINE:
        tries += 1
        assert tries < MOST_TRIES, "the writers are done before they are killed"
        kills += forking.run(f"{__name__}:append", tries, 8, moment=moment(chance, 80)).killed
        # Not one event ahead, and not one behind: there is nothing to advance.
        assert {checkpoint(database, name).position for name in names} == {head(database)}
    assert is_fresh(database, names)


def test_negative_control_with_the_checkpoint_apart_the_same_kill_counts_twice(
    database: Db, forking: Forks
) -> None:
    insert_events(database, payment_history(70, 40))
    advance(database, STATISTICS, up_to=20)
    assert forking.run(f"{__name__}:follow_apart", moment=Moment(10**9)).killed
    advance(database, STATISTICS)
    counted = sum(each["count"] for each in database[STATISTICS.name].find())
    assert counted == 60
