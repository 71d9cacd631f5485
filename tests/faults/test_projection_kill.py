"""Projections whose runner is killed at the moments that matter. At random ones: test_projections."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.projections import PROJECTIONS, ProjectionStopped, advance, reset
from tests.builders import insert_events, payment_history

Db = Database[dict[str, Any]]
EVENTS = 3_000
BEFORE = "before the commit"
AFTER = "after the commit"

RUNNER = """
import os, signal, sys
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance, checkpoints, engine, transaction
from ledgerlake.settings import Settings

moment, number, apart = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "apart"
commit, run, move = transaction.commit_until_known, engine.in_transaction, checkpoints.move
commits = 0

def die(now):
    if now == moment and commits == number:
        os.kill(os.getpid(), signal.SIGKILL)

def committing(session, deadline):
    global commits
    commits += 1
    die("before the commit")
    commit(session, deadline)
    die("after the commit")

def checkpoint_later(db, body):
    # The design that this one is not: the read model is committed first, then its checkpoint by itself.
    moves = []
    checkpoints.move = lambda *arguments: moves.append(arguments) or True
    run(db, body)
    return move(*moves[-1][:-1], None)

transaction.commit_until_known = committing
if apart:
    engine.in_transaction = checkpoint_later
db = open_database(Settings.from_env())
for projection in PROJECTIONS.values():
    advance(db, projection, batch=150)
"""


def killed(environ: dict[str, str], moment: str, number: int, checkpoint: str) -> bool:
    """Run a runner that kills itself at the moment of its commit of that number; whether it did."""
    command = [sys.executable, "-c", RUNNER, moment, str(number), checkpoint]
    return subprocess.run(command, env=environ, timeout=120).returncode == -signal.SIGKILL


def counted(db: Db, name: str) -> int:
    return sum(d["count"] for d in db[name].find())


def models(db: Db) -> dict[str, Any]:
    return {name: {d["_id"]: d for d in db[name].find()} for name in PROJECTIONS}


def finish(db: Db) -> None:
    for projection in PROJECTIONS.values():
        advance(db, projection)


def fresh_fold(db: Db) -> dict[str, Any]:
    for projection in PROJECTIONS.values():
        reset(db, projection)
    finish(db)
    return models(db)


def test_a_runner_killed_right_before_or_after_a_commit_counts_every_event_once(
    database: Db, environ: dict[str, str]
) -> None:
    insert_events(database, payment_history(12, EVENTS, payments=200))
    for moment, number in [(BEFORE, 1), (AFTER, 1), (BEFORE, 3), (AFTER, 5), (AFTER, 22)]:
        assert killed(environ, moment, number, "in the transaction")
    finish(database)
    assert counted(database, "payment_statistics") == counted(database, "payment_trends") == EVENTS
    found = models(database)
    assert found == fresh_fold(database)


@pytest.mark.parametrize("name", ["payment_statistics", "payment_read_models"])
def test_negative_control_the_same_kill_with_a_checkpoint_by_itself_counts_twice(
    database: Db, environ: dict[str, str], name: str
) -> None:
    """The read model is committed, the runner is killed, the checkpoint does not know."""
    insert_events(database, payment_history(13, EVENTS, payments=200))
    for other in PROJECTIONS:
        if other != name:
            advance(database, PROJECTIONS[other])
    assert killed(environ, AFTER, 2, "apart")
    if name == "payment_statistics":
        advance(database, PROJECTIONS[name])
        assert counted(database, name) == EVENTS + 150
    else:  # a payment's document knows how far it is: events that come a second time are noticed
        with pytest.raises(ProjectionStopped, match="not in step"):
            advance(database, PROJECTIONS[name])
    found = models(database)
    assert found != fresh_fold(database)
