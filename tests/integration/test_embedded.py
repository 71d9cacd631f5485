"""The embedded MongoDB: one per home whoever asks, outliving them all, and back after every kind of death."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ledgerlake.mongo import binary, launch
from ledgerlake.mongo.connection import connect, open_database
from ledgerlake.mongo.embedded import HomeUnusable, ensure_running, status, stop
from ledgerlake.mongo.launch import EmbeddedFailed
from ledgerlake.mongo.process import identify, is_alive
from ledgerlake.settings import Settings

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Settings]:
    """Settings for an own server, in a folder whose name has a space. It is stopped at the end."""
    settings = Settings(home=tmp_path / "a home")
    yield settings
    stop(settings)
    shutil.rmtree(settings.home, ignore_errors=True)


def _environ(settings: Settings, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "LEDGERLAKE_HOME": str(settings.home),
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY / "src"), str(_REPOSITORY)]),
        **more,
    }


def _mongo(settings: Settings, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ledgerlake.mongo.cli import mongo_app; mongo_app()", *arguments]
    return subprocess.run(
        command, env=_environ(settings, **more), capture_output=True, text=True, timeout=300
    )


def _mongods_of(settings: Settings) -> list[int]:
    """The pids of all live mongods whose command line names this home, found without the code under test."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,stat=,command="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 2) for line in listing.stdout.splitlines())
    return [
        int(pid) for pid, stat, command in rows if f"{settings.home}/mongo/data" in command and stat[0] != "Z"
    ]


def _insert_and_count(settings: Settings) -> int:
    with connect(settings) as client:
        client.test.marks.insert_one({})
        return int(client.test.marks.count_documents({}))


def _kill(settings: Settings) -> None:
    found = status(settings)
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)


def _edit_state(settings: Settings, **changes: Any) -> None:
    file = settings.mongo_dir / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_ten_processes_that_start_at_once_end_with_one_server(home: Settings, tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = (
        "import sys, time, pathlib\n"
        "from ledgerlake.settings import Settings\n"
        "from ledgerlake.mongo.connection import open_database\n"
        "print('ready', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.001)\n"
        "db = open_database(Settings.from_env())\n"
        "db.marks.insert_one({})\n"
        "print(db.client.address[1], db.client.admin.command('serverStatus')['pid'])\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=_environ(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    go.touch()
    answers = [racer.communicate(timeout=300) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 10, answers
    assert len({answer for answer, _ in answers}) == 1, answers
    assert len(_mongods_of(home)) == 1
    assert _mongods_of(home) == [status(home).pid]
    with connect(home) as client:
        assert client.ledgerlake.marks.count_documents({}) == 10


def test_the_server_survives_the_process_that_started_it_and_its_whole_group(home: Settings) -> None:
    code = (
        "import time\n"
        "from ledgerlake.settings import Settings\n"
        "from ledgerlake.mongo.embedded import ensure_running\n"
        "print(ensure_running(Settings.from_env()), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=_environ(home),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    uri = parent.stdout.readline().strip()
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal's Ctrl-C sends
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait(timeout=60)
    # Nothing of the parent's is held by the server: a pipe's reader sees its end.
    assert parent.stdout.read() == ""
    assert status(home).running
    assert ensure_running(home) == uri
    assert _insert_and_count(home) == 1


def test_a_running_server_is_found_within_milliseconds(home: Settings) -> None:
    ensure_running(home)
    took = []
    for _ in range(20):
        begin = time.process_time()  # of the processor's: other tests have it, too
        ensure_running(home)
        took.append(time.process_time() - begin)
    assert sorted(took)[10] < 0.02


def test_the_server_serves_loopback_only_as_a_replica_set_without_zlib_and_with_short_transactions(
    home: Settings,
) -> None:
    with connect(home) as client:
        options = client.admin.command("getCmdLineOpts")["parsed"]
        assert options["net"]["bindIp"] == "127.0.0.1"
        assert options["net"]["compression"]["compressors"] == "snappy,zstd"
        lifetime = client.admin.command({"getParameter": 1, "transactionLifetimeLimitSeconds": 1})
        assert lifetime["transactionLifetimeLimitSeconds"] == 3
        assert options["replication"]["oplogSizeMB"] == 512
        assert client.admin.command("hello")["setName"] == "ledgerlake"
        with client.start_session() as session, session.start_transaction():
            client.test.marks.insert_one({}, session=session)


@pytest.mark.parametrize("state", ["kept", "lost", "torn"])
def test_after_kill_9_the_next_caller_gets_a_server_with_all_the_data(home: Settings, state: str) -> None:
    assert _insert_and_count(home) == 1
    _kill(home)
    if state == "lost":
        (home.mongo_dir / "state.json").unlink()
    elif state == "torn":
        (home.mongo_dir / "state.json").write_text('{"pid": 12')
    assert _insert_and_count(home) == 2
    assert len(_mongods_of(home)) == 1


@pytest.mark.parametrize("state", ["lost", "torn"])
def test_a_running_server_whose_state_file_is_gone_is_found_again(home: Settings, state: str) -> None:
    uri = ensure_running(home)
    before = status(home)
    if state == "lost":
        (home.mongo_dir / "state.json").unlink()
    else:
        (home.mongo_dir / "state.json").write_text("")
    assert status(home) == before
    assert ensure_running(home) == uri
    assert _mongods_of(home) == [before.pid]
    assert stop(home)
    assert _mongods_of(home) == []


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("knows_its_start", [False, True])
def test_a_recycled_pid_is_neither_taken_for_the_server_nor_killed(
    home: Settings, bystander: subprocess.Popen[bytes], knows_its_start: bool
) -> None:
    ensure_running(home)
    _kill(home)
    while _mongods_of(home):
        time.sleep(0.05)
    innocent = identify(bystander.pid)
    assert innocent is not None
    # The worse half: even the start time fits, and only the command line shows that it is no mongod.
    _edit_state(home, pid=innocent.pid, **({"started": innocent.started} if knows_its_start else {}))
    (home.mongo_dir / "data" / "mongod.lock").write_text(f"{innocent.pid}\n")

    assert not status(home).running
    state = (home.mongo_dir / "state.json").read_text()
    assert stop(home) is False
    assert is_alive(innocent)

    (home.mongo_dir / "state.json").write_text(state)
    assert _insert_and_count(home) == 1
    assert stop(home)
    assert is_alive(innocent)
    assert bystander.poll() is None


def test_the_server_of_another_home_is_not_mistaken_for_ours(home: Settings, tmp_path: Path) -> None:
    """A copied home brings along the state file of the original, whose server runs."""
    assert _insert_and_count(home) == 1
    original = status(home)
    stop(home)
    copy = Settings(home=tmp_path / "copy")
    shutil.copytree(home.home, copy.home)
    ensure_running(home)
    original = status(home)
    shutil.copy(home.mongo_dir / "state.json", copy.mongo_dir / "state.json")
    try:
        assert not status(copy).running
        assert stop(copy) is False
        assert status(home) == original
        # Its port is taken by the original, so the replica set in the copied data gets a new address.
        assert _insert_and_count(copy) == 2
        assert status(copy).port != original.port
        assert _insert_and_count(home) == 2
    finally:
        stop(copy)
    assert status(home) == original


def test_a_home_that_was_moved_serves_its_data_from_the_new_place(home: Settings, tmp_path: Path) -> None:
    assert _insert_and_count(home) == 1
    stop(home)
    moved = Settings(home=tmp_path / "moved")
    home.home.rename(moved.home)
    try:
        assert _insert_and_count(moved) == 2
    finally:
        stop(moved)


def _hang_up_on_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_port_that_someone_else_took_is_left_to_them(home: Settings) -> None:
    assert _insert_and_count(home) == 1
    stop(home)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        threading.Thread(target=_hang_up_on_all, args=(taken,), daemon=True).start()
        port = taken.getsockname()[1]
        # Not the port that it really served last: another test's server may take, and leave, that one.
        (home.mongo_dir / "port").write_text(str(port))
        assert _insert_and_count(home) == 2
        assert status(home).port != port


def test_stop_ends_the_process_and_keeps_the_data(home: Settings) -> None:
    assert _insert_and_count(home) == 1
    assert stop(home) is True
    assert _mongods_of(home) == []
    assert not status(home).running
    assert stop(home) is False
    assert _insert_and_count(home) == 2


def test_status_and_stop_create_nothing(home: Settings) -> None:
    assert not status(home).running
    assert stop(home) is False
    assert not home.home.exists()


def test_a_mongod_that_does_not_come_up_is_reported_with_the_end_of_its_log_and_the_logs_path(
    home: Settings,
) -> None:
    data = home.mongo_dir / "data"
    data.mkdir(parents=True)
    (data / "WiredTiger").write_text("no such thing")
    (data / "WiredTiger.wt").write_bytes(b"garbage" * 1000)
    (data / "storage.bson").write_bytes(b"garbage")
    with pytest.raises(EmbeddedFailed) as caught:
        ensure_running(home)
    log = home.mongo_dir / "mongod.log"
    assert str(log) in str(caught.value)
    assert "Its log ends with" in str(caught.value)
    assert caught.value.message.count("\n") > 3
    assert _mongods_of(home) == []


def test_a_program_that_is_no_mongod_is_reported_with_what_it_said(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho 'libcrypto.so.3: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(binary, "_in_wheel", lambda: broken)
    with pytest.raises(EmbeddedFailed, match=r"libcrypto\.so\.3") as caught:
        ensure_running(home)
    assert "LEDGERLAKE_MONGODB_URI" in str(caught.value)


def test_without_a_mongod_the_error_says_which_variable_to_set(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "_in_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(binary.EmbeddedUnavailable, match="no bundled mongod for this platform") as caught:
        ensure_running(home)
    assert "set LEDGERLAKE_MONGODB_URI" in str(caught.value)
    assert not home.home.exists()


def test_a_mongod_on_path_serves_where_the_wheel_has_none(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = binary.find_mongod()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mongod").symlink_to(real)
    monkeypatch.setattr(binary, "_in_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    assert binary.find_mongod() == folder / "mongod"
    assert _insert_and_count(home) == 1


def test_a_home_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for unusable in (tmp_path / "file" / "home", tmp_path / ("x" * 300), Path("/proc/ledgerlake")):
        with pytest.raises(HomeUnusable, match="LEDGERLAKE_HOME") as caught:
            ensure_running(Settings(home=unusable))
        assert str(unusable) in str(caught.value)


def test_a_long_log_is_started_anew(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_running(home)
    stop(home)
    monkeypatch.setattr(launch, "_LOG_LIMIT", 1000)
    ensure_running(home)
    assert (home.mongo_dir / "mongod.log.1").stat().st_size > 1000


def test_with_a_uri_none_is_started(home: Settings, mongo_uri: str) -> None:
    settings = Settings(home=home.home, mongodb_uri=mongo_uri)
    assert ensure_running(settings) == mongo_uri
    with connect(settings) as client:
        client.admin.command("ping")
    done = _mongo(home, "start", "--json", LEDGERLAKE_MONGODB_URI="mongodb://u:s3cret@db.example/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "external"
    assert "s3cret" not in done.stdout
    assert not home.home.exists()


def test_the_command_line_starts_shows_and_stops_it(home: Settings) -> None:
    assert json.loads(_mongo(home, "status", "--json").stdout)["running"] is False
    started = json.loads(_mongo(home, "start", "--json").stdout)
    assert started["running"] is True
    assert started["uri"] == f"mongodb://127.0.0.1:{started['port']}/?directConnection=true"
    assert json.loads(_mongo(home, "start", "--json").stdout) == started
    assert json.loads(_mongo(home, "status", "--json").stdout) == started
    shown = _mongo(home, "status").stdout
    assert str(started["pid"]) in shown
    assert str(home.mongo_dir / "mongod.log") in shown
    client: MongoClient[dict[str, Any]] = MongoClient(started["uri"])
    with client:
        client.test.marks.insert_one({})
    assert json.loads(_mongo(home, "stop", "--json").stdout) == {"stopped": True}
    assert json.loads(_mongo(home, "stop", "--json").stdout) == {"stopped": False}
    assert "not running" in _mongo(home, "status").stdout


def test_a_stop_amid_starts_leaves_either_one_server_or_none(home: Settings) -> None:
    ensure_running(home)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "from ledgerlake.mongo.cli import mongo_app; mongo_app()", verb],
            env=_environ(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for verb in ("stop", "start", "start", "stop", "start", "start")
    ]
    complaints = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, complaints
    assert len(_mongods_of(home)) <= 1
    assert status(home).running == bool(_mongods_of(home))
    assert open_database(home).name == "ledgerlake"
