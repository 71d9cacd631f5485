"""SIGKILL of a refresh and of a rebuild of the lake: only whole files; the next run makes the same bytes.

A moment is a step: the n-th call or return in the code that writes files, so that it lies before, in and
after each opening, writing, flushing, renaming and removing, on a slow machine as on a fast one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb  # noqa: F401 - once, before there are children
import pytest
from pymongo.database import Database

from ledgerlake.lake import event_lake, files, maintenance, parquet, segments, tables
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_verified
from ledgerlake.lake.tables import TABLES, refresh_tables
from tests.builders import insert_events, payment_history
from tests.faults.forks import Forks, forks
from tests.shared_log import SharedLog, shared_log

Db = Database[dict[str, Any]]
HERE = "tests.faults.test_lake_kill"
SEED = 20261124
REFRESHES = 14
REBUILDS = 10
EVENTS = 1_200
SEGMENT = 150
CODE = {
    module.__file__: module.__name__ for module in (event_lake, files, maintenance, parquet, segments, tables)
}


class Steps:
    """Counts steps from `arm` on, each by the module it is in, and kills this process at the `fatal` one."""

    def __init__(self, fatal: int | None) -> None:
        self._fatal = fatal
        self.modules: list[str] = []

    def arm(self) -> None:
        sys.setprofile(self._look)

    def _look(self, frame: FrameType, _: str, __: object) -> None:
        if (module := CODE.get(frame.f_code.co_filename)) is not None:
            self.modules.append(module)
            if len(self.modules) == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)


def work(db: Db, root: str, how: str, fatal: int | None, told: str) -> None:
    """What a child does; it leaves its steps in `told` if it lives."""
    lake = EventLake(Path(root), SEGMENT)
    steps = Steps(fatal)
    if how == "in place":
        segments.temporary = _in_place
        segments.publish = lambda temp, path: None
    steps.arm()
    if how == "rebuild":
        maintenance.rebuild(lake, db)
    else:
        lake.refresh(db)
        refresh_tables(lake)
    sys.setprofile(None)
    Path(told).write_text(json.dumps(steps.modules))


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """What must not be done: write to where readers look."""
    yield path


class Killer:
    """Has work done on a lake up to a random step, the steps being those of the same work on a copy."""

    def __init__(self, run: Forks, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._chance = random.Random(SEED)

    def kill(self, root: Path, how: str, module: str | None = None) -> bool:
        """Kill at any step, or at one of the module; False if the work took fewer steps than on the copy."""
        rehearsal, told = self._folder / "rehearsal", self._folder / "steps.json"
        shutil.rmtree(rehearsal, ignore_errors=True)
        if root.exists():
            shutil.copytree(root, rehearsal)
        self._run.run(f"{HERE}:work", str(rehearsal), how, None, str(told))
        modules: list[str] = json.loads(told.read_text())
        steps = [number for number, each in enumerate(modules, 1) if module in (None, each)]
        fatal = self._chance.choice(steps)
        return self._run.run(f"{HERE}:work", str(root), how, fatal, str(told)).killed


@pytest.fixture(scope="module")
def log(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedLog]:
    with shared_log(mongo_uri, tmp_path_factory.mktemp("home")) as shared:
        yield shared


@pytest.fixture(scope="module")
def run(log: SharedLog) -> Iterator[Forks]:
    assert log.settings.mongodb_uri is not None
    environ = {
        **os.environ,
        "LEDGERLAKE_HOME": str(log.settings.home),
        "LEDGERLAKE_MONGODB_URI": log.settings.mongodb_uri,
        "LEDGERLAKE_DATABASE": log.settings.database,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with forks(log.database, environ) as started:
        yield started


@pytest.fixture
def database(log: SharedLog) -> Db:
    log.empty()
    return log.database


@pytest.fixture
def killer(run: Forks, tmp_path: Path) -> Killer:
    return Killer(run, tmp_path)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".parquet", ".json")
    }


def uninterrupted(database: Db, root: Path) -> dict[str, str]:
    lake = EventLake(root, SEGMENT)
    lake.refresh(database)
    refresh_tables(lake)
    return contents(root)


def test_kills_of_a_refresh_leave_whole_files_and_change_nothing_in_the_end(
    database: Db, killer: Killer, tmp_path: Path
) -> None:
    documents = payment_history(1, EVENTS)
    root = tmp_path / "lake"
    killed = 0
    for number in range(REFRESHES):
        # The log grows between the kills, so that tails and tables are written again.
        low, high = (EVENTS * each // REFRESHES for each in (number, number + 1))
        insert_events(database, documents[low:high])
        # Half of the kills hit what opens, flushes, renames and removes.
        killed += killer.kill(root, "refresh", files.__name__ if number % 2 else None)
        lake = EventLake(root, SEGMENT)
        assert maintenance.verify(lake, database).problems == ()
        for path in TABLES:
            if (root / path).exists():
                read_verified(root / path, TABLES[path].schema)
    assert killed >= REFRESHES - 2
    assert uninterrupted(database, root) == uninterrupted(database, tmp_path / "uninterrupted")
    assert list(root.rglob("*.tmp")) == []


def test_kills_of_a_rebuild_leave_each_file_as_it_was_or_as_it_should_be(
    database: Db, killer: Killer, tmp_path: Path
) -> None:
    insert_events(database, payment_history(2, 6 * SEGMENT + 70))
    root = tmp_path / "lake"
    expected = uninterrupted(database, root)
    lake = EventLake(root, SEGMENT)
    chance = random.Random(SEED)
    killed = 0
    for number in range(REBUILDS):
        damaged = [*chance.sample(lake.files()[:-1], 2), lake.files()[-1]]
        damaged[0].unlink()
        for path in damaged[1:]:
            content = bytearray(path.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
        before = contents(root)
        killed += killer.kill(root, "rebuild", files.__name__ if number % 2 else None)
        for path, found in contents(root).items():
            assert found in (before.get(path), expected[path]), path
        maintenance.rebuild(lake, database)
        assert contents(root) == expected
        assert maintenance.verify(lake, database).problems == ()
    assert killed >= REBUILDS - 2
    assert list(root.rglob("*.tmp")) == []


def test_negative_control_a_file_that_is_written_in_place_is_seen_half(
    database: Db, killer: Killer, tmp_path: Path
) -> None:
    insert_events(database, payment_history(3, 2 * SEGMENT))
    broken = 0
    for number in range(4):
        root = tmp_path / f"lake {number}"
        killer.kill(root, "in place", parquet.__name__)
        for path in root.rglob("events/*.parquet"):
            try:
                parquet.read_footer(path)
            except CorruptFileError:
                broken += 1
    assert broken > 0
