"""How much at once, how slowly, and how long: what is over a limit is told so, and keeps nobody else out."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from ledgerlake.web import lanes
from ledgerlake.web.limits import MAX_UNDER_WAY, Limits
from ledgerlake.web.problems import Problem
from tests.web.conftest import Served, command
from tests.web.serving import as_, charge, make_token, send, serving, until


@contextmanager
def held(pool: ThreadPoolExecutor, threads: int) -> Iterator[None]:
    """No thread of the pool takes anything meanwhile."""
    go = threading.Event()
    for _ in range(threads):
        pool.submit(go.wait)
    try:
        yield
    finally:
        go.set()


def refused(answer: httpx.Response, code: str) -> bool:
    told = (answer.status_code, answer.json()["code"], answer.headers.get("retry-after", "").isdecimal())
    return told == (429, code, True)


def test_commands_that_are_too_many_are_refused_and_the_others_carried_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_MOST_COMMANDS", 3)
    with serving(served.settings) as (address, server), ThreadPoolExecutor(4) as pool:
        app: Any = server.config.app
        service = app.state.service
        with as_(address, served.tokens["service"]) as client:
            with held(service._writing._pool, 1):
                # One is on its way to the thread, and three wait behind it.
                asked = [pool.submit(send, client, charge())]
                until(lambda: service._writing._sent, "the first one is sent")
                asked += [pool.submit(send, client, charge()) for _ in range(3)]
                until(lambda: service.waiting == 3, "the others wait")
                before = served.ledger.store.head()
                assert refused(send(client, charge()), "too_busy")
                assert served.ledger.store.head() == before
            assert [each.result().status_code for each in asked] == [201] * 4
            assert send(client, charge()).status_code == 201


def test_reading_that_is_too_much_is_refused_and_keeps_no_command_and_no_token_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_MOST_READS", 3)
    with serving(served.settings) as (address, server), ThreadPoolExecutor(3) as pool:
        app: Any = server.config.app
        reading = app.state.service._reading

        def read() -> httpx.Response:
            with as_(address, served.tokens["finance"]) as client:
                return client.get("/api/v1/payments")

        with held(reading._pool, lanes._THREADS):
            asked = [pool.submit(read) for _ in range(3)]
            until(lambda: reading._taken == 3, "they wait for a thread")
            assert refused(read(), "too_busy")
            # One that was made just now has to be looked up.
            with as_(address, make_token(served.ledger, "service", "acme")) as client:
                assert send(client, charge()).status_code == 201
        assert [each.result().status_code for each in asked] == [200] * 3
        assert read().status_code == 200


def test_a_token_whose_requests_take_long_leaves_room_for_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledgerlake.web.limits.MAX_OF_TOKEN", 2)
    with serving(served.settings) as (address, server), ThreadPoolExecutor(2) as pool:
        app: Any = server.config.app
        service = app.state.service

        def read() -> httpx.Response:
            with as_(address, served.tokens["finance"]) as client:
                return client.get("/api/v1/payments")

        with held(service._reading._pool, lanes._THREADS):
            asked = [pool.submit(read) for _ in range(2)]
            until(lambda: service._reading._taken == 2, "they are under way")
            assert refused(read(), "too_busy")
            with as_(address, served.tokens["service"]) as client:
                assert send(client, charge()).status_code == 201
        assert [each.result().status_code for each in asked] == [200, 200]
        # What was refused, or is answered, does not count any more.
        assert {read().status_code for _ in range(4)} == {200}
        until(lambda: not service.limits._under_way, "none is under way")


def received(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def test_a_body_that_comes_too_slowly_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledgerlake.web.envelope.BODY_SECONDS", 0.2)
    host, port = served.address.removeprefix("http://").split(":")
    before = served.ledger.store.head()
    with socket.create_connection((host, int(port)), 120) as connection:
        head = (
            "POST /api/v1/commands/process-payment HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            f"Authorization: Bearer {served.tokens['service']}\r\nContent-Type: application/json\r\n"
            "Idempotency-Key: slow\r\n\r\n"
        )
        connection.sendall(head.encode() + b'{"payment_id":')
        answer = received(connection)  # to its end: the server hangs up
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "body_too_slow"
    assert served.ledger.store.head() == before


def test_who_takes_a_file_too_slowly_is_let_go_of(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledgerlake.web.pages.static import url

    monkeypatch.setattr("ledgerlake.web.envelope.SEND_SECONDS", 0.2)
    with serving(served.settings) as (address, server), httpx.Client(base_url=address) as client:
        app: Any = server.config.app
        metrics = app.state.service.metrics
        host, port = address.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect((host, int(port)))
            connection.sendall(f"GET {url('plotly.js')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: metrics._seconds and not metrics.under_way, "it is given up")
        whole = client.get(url("plotly.js"), headers={"Accept-Encoding": "identity"})
        assert len(whole.content) == int(whole.headers["content-length"]) > 1_000_000


def test_what_fails_in_a_browser_is_a_page_that_tells_nothing_of_what_is_inside(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("mongodb://inside:secret@db/ledger")

    with serving(served.settings) as (address, server), httpx.Client(base_url=address) as client:
        app: Any = server.config.app
        for path in ("/broken", "/api/v1/broken"):
            app.add_api_route(path, fails)
        caplog.set_level(logging.INFO, "ledgerlake.web")
        headers = {"Accept": "text/html", "X-Request-Id": "given-4711"}
        page = client.get("/broken", headers=headers)
        assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
        assert "<h1>Internal Server Error</h1>" in page.text
        assert "request <code>given-4711</code>" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        programs = [client.get("/broken"), client.get("/api/v1/broken", headers=headers)]
        assert [each.json()["code"] for each in programs] == ["internal_error"] * 2
        for answer in (page, *programs):
            for inside in ("ZeroDivision", "mongodb", "secret", "Traceback", "fails"):
                assert inside not in answer.text
        assert "ZeroDivisionError" in caplog.text
        assert "given-4711" in caplog.text
        assert "secret" not in caplog.text

        # Also what is told before any route is asked, and also where no page can be made any more.
        app.state.service.metrics.under_way += MAX_UNDER_WAY
        full = client.get("/sign-in", headers=headers)
        assert (full.status_code, "<h1>Too Many Requests</h1>" in full.text) == (429, True)
        assert full.headers["retry-after"] == "1"
        monkeypatch.setattr("ledgerlake.web.pages.rendering._environment", None)
        full = client.get("/sign-in", headers=headers)
        assert (full.status_code, full.json()["code"]) == (429, "too_busy")


def test_a_token_is_looked_up_while_others_wait_for_a_file_to_be_made(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledgerlake.web.exports._PATIENCE_SECONDS", 600.0)
    shutil.rmtree(served.settings.home / "web" / "exports", ignore_errors=True)
    with serving(served.settings) as (address, server), ThreadPoolExecutor(24) as pool:
        app: Any = server.config.app
        making = app.state.service.shelf._exports._making

        def ask(_: int) -> httpx.Response:
            with as_(address, served.tokens["finance"]) as client:
                return client.get("/api/v1/reports/2011-11/current/report.xlsx")

        with making:  # as if a large one was being made
            asked = [pool.submit(ask, number) for number in range(24)]
            until = time.monotonic() + 120
            while sum(each.done() for each in asked) < 20:
                assert time.monotonic() < until, "they hold the threads"
                time.sleep(0.02)
            with as_(address, make_token(served.ledger, "analyst", "acme")) as client:
                assert client.get("/api/v1/statistics").status_code == 200
        answers = [each.result() for each in asked]
        assert sorted(each.status_code for each in answers) == [200] * 4 + [429] * 20
        assert all(refused(each, "exports_busy") for each in answers if each.status_code == 429)
        assert ask(0).status_code == 200


def test_a_server_that_ends_answers_the_batch_under_way_and_refuses_the_next(served: Served) -> None:
    from ledgerlake.commands.model import CommandResult
    from ledgerlake.domain.commands import ProcessPayment
    from ledgerlake.web.lanes import Writing

    started, go = threading.Event(), threading.Event()

    class Held:
        def dispatch_batch(self, commands: Any) -> Any:
            started.set()
            assert go.wait(120)
            return served.ledger.commands.dispatch_batch(commands)

    def one() -> ProcessPayment:
        key = f"end-{uuid.uuid4().hex}"
        at = datetime(2026, 3, 1, 12, tzinfo=UTC)
        return ProcessPayment(payment_id=key, **{**command(0, "acme"), "command_id": key, "occurred_at": at})

    async def end() -> list[Any]:
        bus: Any = Held
        writing = Writing(bus, 1, served.ledger.db.client)
        asked = [asyncio.create_task(writing.dispatch(one())) for _ in range(3)]
        assert await asyncio.to_thread(started.wait, 120)
        closing = asyncio.create_task(asyncio.to_thread(writing.close))
        while not writing._pool._shutdown:
            await asyncio.sleep(0.01)
        go.set()
        await closing
        asked.append(asyncio.create_task(writing.dispatch(one())))
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 120)

    first, *others = asyncio.run(end())
    assert isinstance(first, CommandResult)
    assert [each.status for each in others] == [503, 503, 503]


def test_a_server_that_is_full_is_still_alive(served: Served) -> None:
    with serving(served.settings) as (address, server), as_(address, served.tokens["finance"]) as client:
        app: Any = server.config.app
        app.state.service.metrics.under_way += MAX_UNDER_WAY
        assert client.get("/api/v1/payments").status_code == 429
        assert [client.get(each).status_code for each in ("/healthz", "/readyz")] == [200, 200]


def test_a_token_may_send_so_many_requests_and_no_more(served: Served) -> None:
    with serving(replace(served.settings, web_rate=1)) as (address, _):
        with as_(address, served.tokens["finance"]) as client:
            answers = [client.get("/api/v1/statistics") for _ in range(30)]
        limited = [each for each in answers if each.status_code == 429]
        assert limited
        assert int(limited[0].headers["retry-after"]) >= 1


def test_an_address_without_a_good_token_may_try_so_often_and_no_more() -> None:
    limits = Limits(100)
    one, other = (Request({"type": "http", "client": (host, 1), "headers": []}) for host in ("one", "other"))
    with pytest.raises(Problem) as told:
        _often(limits, one)
    assert (told.value.status, told.value.headers) == (429, {"Retry-After": "5"})
    limits.unknown(other)


def _often(limits: Limits, request: Request) -> None:
    for _ in range(100_000):
        limits.unknown(request)
