"""The web server: commands over HTTP against the bus in process, kept answers against a bare FastAPI route.

The clients are 64 connections of one other process, each of which waits for its answer before it sends the
next request. `--soak SECONDS` (python -m benchmarks.web) keeps both going and tells how memory stands.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Scale, child, environment, scratch
from ledgerlake.application import LedgerLake
from ledgerlake.mongo.embedded import ensure_running, stop
from ledgerlake.settings import Settings
from ledgerlake.web.tokens import AccessTokens

CLIENTS = 64
SECONDS = 3.0
ORGANIZATION = "acme"
EMPTY = b""

IN_PROCESS = """
import itertools, json, sys, threading, time, uuid
from datetime import UTC, datetime
from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import ProcessPayment
from ledgerlake.domain.money import Money

clients, seconds = int(sys.argv[1]), float(sys.argv[2])
run, now = uuid.uuid4().hex[:8], datetime(2026, 6, 1, tzinfo=UTC)
times = [[] for _ in range(clients)]
with LedgerLake.open() as ledger:
    bus = ledger.commands

    def send(client, number):
        bus.dispatch(ProcessPayment(
            command_id=f"{run}-{client}-{number}", payment_id=f"p-{run}-{client}-{number}",
            organization_id="acme", amount=Money(1230, "EUR"), occurred_at=now, user_id="u-17"))

    send("warm", 0)
    begun = time.perf_counter()
    end = begun + seconds

    def work(client):
        at = time.perf_counter()
        for number in itertools.count():
            if at >= end:
                return
            send(client, number)
            done = time.perf_counter()
            times[client].append(done - at)
            at = done

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
found = sorted(each for mine in times for each in mine)
result = {"rate": len(found) / taken, "p50": found[len(found) // 2], "p99": found[len(found) * 99 // 100]}
"""

BARE = """
import sys
import uvicorn
from fastapi import FastAPI, Response

body = open(sys.argv[2], "rb").read()
app = FastAPI()

@app.get("/api/v1/statistics")
async def statistics():
    return Response(body, media_type="application/json")

uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""


def run(scale: Scale) -> list[Figure]:
    """Both ratios, with the time that one in a hundred requests takes at least."""
    commands: list[float] = []
    answers: list[float] = []
    slowest: dict[str, list[float]] = {"commands": [], "bus": [], "answers": []}
    with (
        scratch(scale) as (settings, _),
        served(settings) as (port, secret),
        bare(scale, port, secret) as plain,
    ):
        for number in range(scale.rounds + 1):
            http = load(port, secret, "commands", SECONDS)
            bus = child(settings, IN_PROCESS, str(CLIENTS), str(SECONDS))
            kept = load(port, secret, "statistics", SECONDS)
            bytes_ = load(plain, secret, "statistics", SECONDS)
            if number == 0:
                continue  # the first round warms all sides
            commands.append(http["rate"] / bus["rate"])
            answers.append(kept["rate"] / bytes_["rate"])
            slowest["commands"].append(http["p99"])
            slowest["bus"].append(bus["p99"])
            slowest["answers"].append(kept["p99"])
            scale.say(
                f"  commands {http['rate']:,.0f}/s, bus {bus['rate']:,.0f}/s; "
                f"statistics {kept['rate']:,.0f}/s, bare {bytes_['rate']:,.0f}/s"
            )
    p99 = {name: f"{statistics.median(each) * 1000:.0f} ms" for name, each in slowest.items()}
    clients = f"{CLIENTS} clients"
    return [
        Figure(
            f"commands over HTTP, {clients}",
            "through the bus in process",
            commands,
            0.4,
            f"p99 {p99['commands']}, in process {p99['bus']}",
        ),
        Figure(
            f"kept statistics over HTTP, {clients}",
            "a bare FastAPI route with the same bytes",
            answers,
            0.5,
            f"p99 {p99['answers']}",
        ),
    ]


@contextmanager
def served(settings: Settings) -> Iterator[tuple[int, str]]:
    """The port of a server on a refreshed ledger with a few payments, and a token's secret for all of it."""
    with LedgerLake.open(settings) as ledger:
        secrets = {}
        for role in ("service", "finance"):
            _, secrets[role] = AccessTokens(ledger.db).create(role, role, [ORGANIZATION], timedelta(days=1))
        child(settings, IN_PROCESS, "8", "0.5")
        ledger.refresh()
    port = _free_port()
    env = {**environment(settings), "LEDGERLAKE_WEB_RATE": "1000000"}
    command = [sys.executable, "-c", "from ledgerlake.cli import main; main()", "serve", "--port", str(port)]
    with _process(command, port, env):
        yield port, json.dumps(secrets)


@contextmanager
def bare(scale: Scale, port: int, secret: str) -> Iterator[int]:
    """The port of a FastAPI application that does nothing but give out what /api/v1/statistics does."""
    file = scale.folder / "statistics.json"
    file.write_bytes(asyncio.run(_once(port, secret)))
    other = _free_port()
    with _process([sys.executable, "-c", BARE, str(other), str(file)], other, dict(os.environ)):
        yield other


@contextmanager
def _process(command: list[str], port: int, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=env)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def load(port: int, secret: str, what: str, seconds: float) -> dict[str, Any]:
    """What the clients, in a process of their own, got: requests a second, and p50 and p99 in seconds."""
    command = [sys.executable, "-m", "benchmarks.web", "--client", what, str(port), secret, str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def _clients(what: str, port: int, secret: str, seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    every = [_Client(loop, n, what, secret, begun + seconds) for n in range(CLIENTS)]
    for client in every:
        await loop.create_connection(lambda c=client: c, "127.0.0.1", port)
    await asyncio.gather(*(client.done for client in every))
    times = sorted(each for client in every for each in client.times)
    wrong = sum(client.wrong for client in every)
    assert not wrong, f"{wrong} of {len(times)} answers were no"
    return {
        "rate": len(times) / (loop.time() - begun),
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
    }


class _Client(asyncio.Protocol):
    """One connection, as cheap as can be: the clients share two cores with what they measure."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, number: int, what: str, secret: str, end: float
    ) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self.times: list[float] = []
        self.wrong = 0
        self._loop = loop
        self._end = end
        self._buffer = EMPTY
        make = {"commands": _command, "statistics": _statistics}[what]
        self._next: Callable[[int], bytes] = make(f"{os.getpid()}-{number}", secret)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._at = self._loop.time()
        self._transport.write(self._next(len(self.times)))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer.lower().find(b"content-length:", 0, head) + 15
        length = int(self._buffer[start : self._buffer.find(b"\r\n", start)])
        if len(self._buffer) < head + 4 + length:
            return
        self.wrong += self._buffer[9:11] != b"20"
        self._buffer = EMPTY
        now = self._loop.time()
        self.times.append(now - self._at)
        if now < self._end:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._loop.time() >= self._end:
            self.done.set_result(None)
        else:
            self.done.set_exception(error or ConnectionError("hung up"))


def _command(name: str, secret: str) -> Callable[[int], bytes]:
    token = json.loads(secret)["service"]

    def request(number: int) -> bytes:
        body = json.dumps(
            {
                "payment_id": f"p-{name}-{number}",
                "amount": "12.30",
                "currency": "EUR",
                "occurred_at": "2026-06-01T00:00:00Z",
                "user_id": "u-17",
            }
        ).encode()
        head = (
            "POST /api/v1/commands/process-payment HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: k-{name}-{number}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    return request


def _statistics(_: str, secret: str) -> Callable[[int], bytes]:
    head = (
        "GET /api/v1/statistics HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {json.loads(secret)['finance']}\r\n\r\n"
    ).encode()
    return lambda _: head


async def _once(port: int, secret: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_statistics("", secret)(0))
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    return body


def soak(seconds: float) -> None:
    """Commands and statistics at once for so long; the memory of the server every tenth of that."""
    with tempfile.TemporaryDirectory(prefix="ledgerlake-soak-") as folder:
        home = Settings(home=Path(folder))
        uri = ensure_running(home)
        try:
            scale = Scale(Path(folder), uri, 1, 0, Path(), print)
            with scratch(scale) as (settings, _), served(settings) as (port, secret):
                for _ in range(10):
                    for what in ("commands", "statistics"):
                        told = load(port, secret, what, seconds / 20)
                        print(
                            f"{what}: {told['rate']:,.0f}/s, p99 {told['p99'] * 1000:.0f} ms,"
                            f" server {_megabytes(port)} MB",
                            flush=True,
                        )
        finally:
            stop(home)


def _megabytes(port: int) -> int:
    """The resident memory of the process that listens on the port."""
    for folder in Path("/proc").iterdir():
        try:
            if f"--port\0{port}\0" in (folder / "cmdline").read_text():
                return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
        except OSError:
            continue
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--client", nargs=4, metavar=("WHAT", "PORT", "SECRET", "SECONDS"))
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="keep it under load for so long")
    options = parser.parse_args()
    if options.client:
        import uvloop

        what, port, secret, seconds = options.client
        print(json.dumps(uvloop.run(_clients(what, int(port), secret, float(seconds)))))
    elif options.soak:
        soak(options.soak)
