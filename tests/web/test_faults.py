"""A server that is killed or stopped under load, a database that goes away: nothing is lost or doubled."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.cli.serve import serve
from ledgerlake.mongo.connection import MongoUnreachable
from ledgerlake.mongo.embedded import ensure_running, status, stop
from ledgerlake.settings import Settings
from ledgerlake.web.sessions import COOKIE
from tests.ports import free_ports
from tests.web.serving import PATIENCE, as_, charge, make_token, send, serving, until

CLIENTS = 8
COMMANDS = 40  # of each client
SERVE = "from ledgerlake.cli import main; main()"


class Server:
    """`ledgerlake serve` on one port, started as often as it takes."""

    def __init__(self, environ: dict[str, str], *options: str) -> None:
        [self.port] = free_ports(1)
        self._options = options
        self.address = f"http://127.0.0.1:{self.port}"
        self._environ = {**environ, "LEDGERLAKE_WEB_RATE": "100000"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, "serve", "--port", str(self.port), *self._options]
        self._process = subprocess.Popen(command, env=self._environ)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server starts"
                time.sleep(0.05)

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        self._process = None
        return code

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)


class Load:
    """Clients that send commands, each again under its key until it is answered."""

    def __init__(self, address: str, secret: str) -> None:
        self.answered: dict[str, int] = {}
        self.hung_up: set[str] = set()
        self.failed: list[str] = []
        self._address, self._secret = address, secret
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CLIENTS)]

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.answered) < answers:
            assert not self.failed, self.failed
            assert time.monotonic() < deadline, f"{len(self.answered)} of {answers} answers"
            time.sleep(0.005)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self.failed, self.failed[:3]

    def _work(self, client: int) -> None:
        try:
            with as_(self._address, self._secret) as http:
                for number in range(COMMANDS):
                    self._send(http, f"k-{client}-{number}", f"p-{client}-{number % 10}", number < 10)
        except Exception as error:  # noqa: BLE001 - it is told by `join`
            self.failed.append(repr(error))

    def _send(self, http: httpx.Client, key: str, payment: str, first: bool) -> None:
        body = {
            "payment_id": payment,
            "amount": "10.00" if first else "0.01",
            "currency": "EUR",
            "occurred_at": "2026-03-01T12:00:00Z",
        }
        path = f"/api/v1/commands/{'process' if first else 'refund'}-payment"
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, f"{key} is answered"
            try:
                answer = http.post(path, json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                self.hung_up.add(key)
                time.sleep(0.05)
                continue
            if answer.status_code in (200, 201):
                with self._lock:
                    self.answered[key] = answer.json()["position"]
                return
            assert answer.status_code in (429, 503), answer.text
            time.sleep(0.05)


def stored(ledger: LedgerLake) -> dict[str, int]:
    """The position of each command that is in the log; fails where one is there twice."""
    events = list(ledger.store.read_all())
    counts = Counter(event.command_id for event in events)
    assert set(counts.values()) == {1}
    return {str(event.command_id): event.position for event in events}


@pytest.fixture
def ledger(settings: Settings, database: Any) -> Iterator[LedgerLake]:
    with LedgerLake.open(settings) as opened:
        yield opened


def test_a_server_that_is_killed_under_load_carries_out_every_command_once(
    ledger: LedgerLake, environ: dict[str, str]
) -> None:
    secret = make_token(ledger, "service", "acme")
    with Server(environ) as server:
        load = Load(server.address, secret).start()
        for share in (1, 2):
            load.wait_for(share * CLIENTS * COMMANDS // 3)
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            server.start()
        load.join()
    assert load.hung_up, "the kills met requests"
    assert stored(ledger) == load.answered
    assert len(load.answered) == CLIENTS * COMMANDS


def test_a_server_that_is_stopped_answers_what_it_has_accepted(
    ledger: LedgerLake, environ: dict[str, str]
) -> None:
    secret = make_token(ledger, "service", "acme")
    with Server(environ) as server:
        load = Load(server.address, secret).start()
        load.wait_for(CLIENTS * COMMANDS // 3)
        assert server.end(signal.SIGTERM) == 0
        by_then = stored(ledger)
        # Whatever was stored was answered: nobody needs to ask again.
        until(lambda: by_then.items() <= load.answered.items(), "stored, and not answered")
        server.start()
        load.join()
    assert stored(ledger) == load.answered


def test_two_workers_are_one_server_and_end_with_the_process_that_started_them(
    ledger: LedgerLake, environ: dict[str, str]
) -> None:
    secret, reader = make_token(ledger, "service", "acme"), make_token(ledger, "operator", "acme")
    with Server(environ, "--workers", "2") as server:
        # A session that one of them gave out is good for the other, and they carry out a command once.
        session = _session(server.address, reader)
        body = {"payment_id": "p", "amount": "1.00", "currency": "EUR", "occurred_at": "2026-03-01T12:00:00Z"}
        headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": "once"}
        served_by: set[str] = set()

        def both() -> bool:
            # One connection is one worker's.
            with httpx.Client(base_url=server.address, cookies=session, timeout=PATIENCE) as client:
                page = client.get("/organizations/acme")
                command = client.post("/api/v1/commands/process-payment", json=body, headers=headers)
            assert (page.status_code, command.status_code in (200, 201)) == (200, True)
            workers = {answer.headers["x-request-id"][:8] for answer in (page, command)}
            assert len(workers) == 1
            served_by.update(workers)
            return len(served_by) == 2

        until(both, "both workers serve")
        assert [event.command_id for event in ledger.store.read_all()] == ["once"]
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not _listened_to(server.port), "the workers end, too")


def _session(address: str, secret: str) -> dict[str, str]:
    with httpx.Client(base_url=address, timeout=PATIENCE) as browser:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', browser.get("/sign-in").text)
        assert found is not None
        assert browser.post("/sign-in", data={"token": secret, "form_token": found[1]}).status_code == 303
        return {COOKIE: browser.cookies[COOKIE]}


def _listened_to(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_server_without_its_database_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGERLAKE_HOME", str(tmp_path))
    monkeypatch.setenv("LEDGERLAKE_MONGODB_URI", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
    for workers in (1, 2):
        with pytest.raises(MongoUnreachable, match="No MongoDB answers"):
            serve(port=0, workers=workers)


def test_while_the_database_is_gone_the_answer_is_503_and_then_it_serves_again(tmp_path: Path) -> None:
    home = Settings(home=tmp_path / "home")
    uri = ensure_running(home)
    try:
        settings = Settings(home=home.home, mongodb_uri=uri, database=f"gone_{uuid.uuid4().hex[:8]}")
        with LedgerLake.open(settings) as ledger:
            ledger.refresh()
            secret = make_token(ledger, "service", "acme")
        with serving(settings) as (address, _), as_(address, secret) as client:

            def charged(number: int) -> httpx.Response:
                answer: httpx.Response = send(client, charge(payment_id=f"p{number}"), f"c{number}")
                return answer

            assert charged(1).status_code == 201
            pid = status(home).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda: client.get("/readyz").status_code == 503, "not ready")
            assert client.get("/healthz").status_code == 200
            for answer in (charged(2), client.get("/api/v1/payments"), client.get("/api/v1/payments/p1")):
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
                assert "same Idempotency-Key" in answer.json()["remedy"]
            assert ensure_running(home) == uri
            until(lambda: charged(2).status_code in (200, 201), "it serves again")
            assert charged(1).json()["duplicate"] is True
            assert client.get("/readyz").status_code == 200
    finally:
        stop(home)
        shutil.rmtree(home.home, ignore_errors=True)
