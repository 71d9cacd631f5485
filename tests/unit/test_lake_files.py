"""Files are whole or absent, and what dead writers leave behind goes away."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ledgerlake.lake.files import (
    FolderBusyError,
    exclusive,
    remove_leftovers,
    temporary,
    write_atomically,
    write_once,
)

WRITER = """
import sys, time
from pathlib import Path
from ledgerlake.lake.files import {name}
with {name}(Path(sys.argv[1])) as temp:
    print("holds", flush=True)
    time.sleep(600)
"""


def start(name: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(name=name), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.parquet"
    with write_atomically(target) as temp:
        temp.write_text("whole")
        assert not target.exists()
        assert temp.parent == target.parent
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.parquet"
    target.write_text("old")

    def fail() -> None:
        with write_atomically(target) as temp:
            temp.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_being_written_matches_no_glob_for_parquet(tmp_path: Path) -> None:
    with temporary(tmp_path / "a.parquet"):
        assert len(list(tmp_path.iterdir())) == 1
        assert list(tmp_path.glob("*.parquet")) == []
        assert list(tmp_path.rglob("**/*.parquet")) == []


def test_a_living_writers_file_stays_and_a_dead_ones_goes(tmp_path: Path) -> None:
    writer = start("temporary", tmp_path / "a.parquet")
    try:
        assert remove_leftovers(tmp_path) == 0
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        writer.kill()
        writer.wait()
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_temporary_files_is_ever_removed(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.tmp", ".a.parquet", ".lock", "x.tmp.parquet"):
        (tmp_path / name).write_text("kept")
    assert remove_leftovers(tmp_path) == 0
    assert remove_leftovers(tmp_path / "absent") == 0
    assert len(list(tmp_path.iterdir())) == 5


def test_cleaners_and_writers_at_once_lose_no_file(tmp_path: Path) -> None:
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            remove_leftovers(tmp_path)

    cleaners = [threading.Thread(target=clean) for _ in range(2)]
    for cleaner in cleaners:
        cleaner.start()
    try:
        for number in range(300):
            with write_atomically(tmp_path / f"{number}.parquet") as temp:
                temp.write_text(str(number))
    finally:
        stop.set()
        for cleaner in cleaners:
            cleaner.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{number}.parquet": str(number) for number in range(300)
    }


def test_of_many_who_write_once_one_wins_and_all_see_the_same(tmp_path: Path) -> None:
    target = tmp_path / "lake.json"
    barrier = threading.Barrier(8)
    won: list[int] = []
    seen: list[bytes] = []

    def write(number: int) -> None:
        barrier.wait()
        if write_once(target, str(number).encode()):
            won.append(number)
        seen.append(target.read_bytes())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert set(seen) == {str(won[0]).encode()}
    assert list(tmp_path.iterdir()) == [target]


def test_a_lock_is_waited_for_named_when_it_takes_too_long_and_free_after_a_kill(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    holder = start("exclusive", lock)
    try:
        with pytest.raises(FolderBusyError, match="folder"), exclusive(lock, timeout=0.1):
            pass
        began = time.monotonic()
        threading.Timer(0.3, holder.kill).start()
        with exclusive(lock, timeout=120):
            assert time.monotonic() - began > 0.2
    finally:
        holder.kill()
        holder.wait()
