"""Runners of projections that are killed: at random moments, and right at a commit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.mongo import steps
from ledgerlake.projections import (
    PROJECTIONS,
    ProjectionStopped,
    advance,
    checkpoint,
    checkpoints,
    engine,
    part_slot,
    split,
    transaction,
)
from tests.builders import insert_events, payment_history
from tests.faults.forks import AFTER, BEFORE, Forks, Moment, forks
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
PAYMENTS = PROJECTIONS["payment_read_models"]
KILLS = 40
BATCH = 40


@pytest.fixture
def forking(database: Db, environ: Mapping[str, str]) -> Iterator[Forks]:
    with forks(database, environ) as running:
        yield running


def work(db: Db, name: str, worker: int | None = None) -> None:
    projection = PROJECTIONS[name]
    slot = None if worker is None else part_slot(db, projection, worker)
    advance(db, projection, batch=BATCH, slot=slot)


def work_until_a_commit(db: Db, name: str, number: int, side: str, apart: bool) -> None:
    """Advance, and die before or after the commit of that number."""
    commit, run, move = transaction.commit_until_known, engine.in_transaction, checkpoints.move
    # The making of the checkpoint is a commit of its own, and no batch.
    commits = 0 if checkpoint(db, name).version else -1

    def committing(session: Any, deadline: float) -> None:
        nonlocal commits
        commits += 1
        if (commits, side) == (number, BEFORE):
            os.kill(os.getpid(), signal.SIGKILL)
        commit(session, deadline)
        if (commits, side) == (number, AFTER):
            os.kill(os.getpid(), signal.SIGKILL)

    def checkpoint_later(db: Db, body: Callable[[Any], Any]) -> bool:
        # The design that this one is not: the read model is committed first, then its checkpoint by itself.
        moves = []

        def later(*arguments: Any) -> steps.Steps[bool]:
            moves.append(arguments)
            return True
            yield

        checkpoints.move = later
        run(db, body)
        if not moves:
            return True
        *given, _, set_aside, changed = moves[-1]
        return steps.run(move(*given, None, set_aside, changed))

    transaction.commit_until_known = committing
    if apart:
        engine.in_transaction = checkpoint_later  # type: ignore[assignment]
    work(db, name)


def test_runners_killed_at_random_moments_leave_every_event_counted_once(
    database: Db, forking: Forks, record_property: Callable[[str, object], None]
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    record_property("seed", seed)
    chance = random.Random(seed)
    history = payment_history(seed, 4_000, payments=150)
    kills = at = 0
    while kills < KILLS:
        insert_events(database, history[at : at + 200])
        at += 200
        assert at < len(history), "the runners are done before they are killed"
        worker = None
        if kills >= KILLS // 2:
            split(database, PAYMENTS, 2)
            worker = 0
        outcomes = forking.together(
            [
                (
                    f"{__name__}:work",
                    (name, worker if name == PAYMENTS.name else None),
                    Moment(chance.randrange(1, 40), chance.choice((BEFORE, AFTER))),
                )
                for name in PROJECTIONS
            ]
        )
        kills += sum(outcome.killed for outcome in outcomes)
    for projection in PROJECTIONS.values():
        assert checkpoint(database, projection.name).status == "live"
        advance(database, projection)
        assert checkpoint(database, projection.name).position == at
        assert stored(database, projection) == fresh_fold(database, projection)


def test_a_runner_killed_right_before_or_after_a_commit_counts_every_event_once(
    database: Db, forking: Forks
) -> None:
    insert_events(database, payment_history(12, 600, payments=80))
    for number, side in [(1, BEFORE), (1, AFTER), (2, BEFORE), (4, AFTER)]:
        for outcome in forking.together(
            [(f"{__name__}:work_until_a_commit", (name, number, side, False), None) for name in PROJECTIONS]
        ):
            assert outcome.killed
    for projection in PROJECTIONS.values():
        advance(database, projection)
        assert stored(database, projection) == fresh_fold(database, projection)


@pytest.mark.parametrize("name", ["payment_statistics", "payment_read_models"])
def test_negative_control_the_same_kill_with_a_checkpoint_by_itself_counts_twice(
    database: Db, forking: Forks, name: str
) -> None:
    """The read model is committed, the runner is killed, the checkpoint does not know."""
    insert_events(database, payment_history(13, 200, payments=30))
    projection = PROJECTIONS[name]
    assert forking.run(f"{__name__}:work_until_a_commit", name, 2, AFTER, True).killed
    if name == "payment_statistics":
        advance(database, projection)
        assert sum(d["count"] for d in database[name].find()) == 200 + BATCH
    else:  # a payment's document knows how far it is: events that come a second time are noticed
        with pytest.raises(ProjectionStopped, match="not in step"):
            advance(database, projection)
    assert stored(database, projection) != fresh_fold(database, projection)
