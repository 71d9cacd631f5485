"""Alerts are told once, again once a day, and once when they are over, to channels that may be down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ledgerlake import alerts
from ledgerlake.alerts import (
    Alarm,
    Alert,
    AlertNotDelivered,
    AlertRefused,
    Notice,
    Webhook,
    channels,
    failing_parts,
    troubles,
)
from ledgerlake.application import Lag, LedgerStatus
from ledgerlake.reconciliation import Recorded

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE = Alert("late/event_lake", "warning", "event_lake is late.", "Refresh.")
STOPPED = Alert("stopped/payment_trends", "error", "payment_trends has stopped.", "Look.")


@dataclass
class Ear:
    """A channel that remembers what it was told, and may be down."""

    heard: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False

    def __call__(self, notice: Notice) -> None:
        if self.down:
            raise AlertNotDelivered("down")
        self.heard.append((notice.kind, notice.alert.key))

    def taken(self) -> list[tuple[str, str]]:
        heard, self.heard = self.heard, []
        return heard


def at(**after: float) -> datetime:
    return NOON + timedelta(**after)


def test_told_once_then_daily_then_that_it_is_over() -> None:
    ear = Ear()
    alarm = Alarm({"ear": ear})
    assert alarm.look([], now=at()) == []
    alarm.look([LATE], now=at(seconds=30))
    assert ear.taken() == [("raised", LATE.key)]
    for hours in (1, 12, 23.9):
        alarm = Alarm({"ear": ear}, alarm.memory)  # whoever looks is started anew
        assert alarm.look([LATE], now=at(hours=hours)) == []
    alarm.look([LATE, STOPPED], now=at(hours=24.1))
    assert ear.taken() == [("repeated", LATE.key), ("raised", STOPPED.key)]
    alarm.look([STOPPED], now=at(hours=25))
    assert ear.taken() == [("resolved", LATE.key)]
    alarm.look([STOPPED], now=at(hours=26))
    assert ear.taken() == []
    alarm.look([LATE, STOPPED], now=at(hours=27))
    assert ear.taken() == [("raised", LATE.key)]


def test_what_could_not_be_looked_at_is_not_over() -> None:
    ear = Ear()
    alarm = Alarm({"ear": ear})
    alarm.look([LATE], now=at())
    away = alerts.unreachable(ConnectionError("mongodb://user:secret@host"))
    alarm.look([away], complete=False, now=at(minutes=1))
    alarm.look([LATE], now=at(minutes=2))
    assert ear.taken() == [("raised", LATE.key), ("raised", "ledger"), ("resolved", "ledger")]
    assert "secret" not in str(away)


def test_a_channel_that_is_down_is_told_later_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear, other = Ear(down=True), Ear()
    alarm = Alarm({"ear": ear, "other": other})
    for minute in range(3):
        alarm = Alarm({"ear": ear, "other": other}, alarm.memory)
        alarm.look([LATE], now=at(minutes=minute))
    assert other.taken() == [("raised", LATE.key)]
    assert len(caplog.messages) == 1, "one warning for as long as it is down"
    ear.down = False
    alarm.look([LATE], now=at(minutes=4))
    assert ear.taken() == [("raised", LATE.key)]
    ear.down = True
    alarm.look([], now=at(minutes=5))
    ear.down = False
    alarm.look([], now=at(minutes=6))
    assert (ear.taken(), other.taken()) == ([("resolved", LATE.key)], [("resolved", LATE.key)])


def test_a_look_ends_in_time_and_the_rest_is_told_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_ENOUGH_SECONDS", 0.0)  # every notice takes too long
    ear, heard = Ear(), []
    memory = None
    for minute, wrong in enumerate([[LATE, STOPPED]] * 3 + [[]] * 3):
        alarm = Alarm({"ear": ear}, memory)
        alarm.look(wrong, now=at(minutes=minute))
        memory = alarm.memory
        heard.append(ear.taken())
    assert heard == [
        [("raised", LATE.key)], [("raised", STOPPED.key)], [],
        [("resolved", LATE.key)], [("resolved", STOPPED.key)], [],
    ]  # fmt: skip


def test_a_part_that_fails_is_told_unless_it_has_stopped() -> None:
    """That it is late as well, or has set events aside, does not make its failing over."""
    ear = Ear()
    alarm = Alarm({"ear": ear})
    aside = Alert("set_aside/event_lake", "error", "event_lake has set events aside.", "Look.")
    for wrong in ([], [LATE], [LATE, aside], [STOPPED]):
        alarm.look([*wrong, *failing_parts(["event_lake", "payment_trends"], wrong)], now=at())
    told = ear.taken()
    assert told.count(("raised", "failing/event_lake")) == 1
    assert ("resolved", "failing/event_lake") not in told
    # What has stopped is told once, and was the reason.
    assert told.index(("raised", STOPPED.key)) < told.index(("resolved", "failing/payment_trends"))


def test_what_was_over_before_anybody_could_be_told_is_not_told() -> None:
    ear = Ear(down=True)
    alarm = Alarm({"ear": ear})
    alarm.look([LATE], now=at())
    ear.down = False
    alarm.look([], now=at(minutes=1))
    assert ear.taken() == []


@pytest.mark.parametrize(
    "memory", ["", "no JSON", "[]", '{"ear": {}}', '{"ear": {"silent": 1, "told": {"x": {}}}}']
)
def test_a_memory_that_can_not_be_read_is_none(memory: str) -> None:
    ear = Ear()
    Alarm({"ear": ear}, memory).look([LATE])
    assert ear.taken() == [("raised", LATE.key)]


def status(*parts: Lag) -> LedgerStatus:
    return LedgerStatus(100, parts, NOON)


def part(name: str = "payment_trends", **how: Any) -> Lag:
    return Lag(name, 90, 10, how.pop("status", "live"), None, how.pop("last_error", None), **how)


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        (part(lag_seconds=899.0), []),
        (part(lag_seconds=901.0), ["late/payment_trends"]),
        (part("payment_trends#shadow", status="rebuilding", lag_seconds=90_000.0), []),
        (part(status="stopped", last_error="Alice", lag_seconds=901.0), ["stopped/payment_trends"]),
        (part(status="newer", lag_seconds=901.0), ["version/payment_trends"]),
        (part(dead_letters=3), ["set_aside/payment_trends"]),
        (part("mails", last_error="2 parked"), ["parked/mails"]),
        (part(), []),
    ],
)
def test_what_is_wrong_by_the_checkpoints(found: Lag, keys: list[str]) -> None:
    wrong = troubles(status(found), lag_seconds=900)
    assert [alert.key for alert in wrong] == keys
    for alert in wrong:
        assert alert.remedy
        assert "Alice" not in f"{alert.message} {alert.remedy}", "errors may quote what is personal"


def test_what_is_wrong_by_the_last_verifications() -> None:
    sound = Recorded("everything", 90, NOON, 1.0)
    broken = Recorded("reports", 90, NOON, 1.0, ("billing reports",))
    assert troubles(status(), [sound]) == []
    [alert] = troubles(status(), [sound, broken])
    assert (alert.key, alert.severity) == ("check/billing reports", "error")


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted; answers as its server says."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.posts.append((self.path, self.headers["Content-Type"], json.loads(body)))
        answer = server.answers.pop(0) if server.answers else 204
        if answer == "hang":
            server.ended.wait(60)
            return
        if answer == "garbage":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
            return
        self.send_response(answer)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        server: Any = self.server
        server.posts.append(("GET", self.path, {}))

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiver(*answers: Any) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.posts, server.answers, server.ended = [], list(answers), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/hooks/secret"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(alerts, "_PAUSE_SECONDS", 0.0)


def test_a_webhook_gets_json_that_says_everything() -> None:
    with receiver() as server:
        alarm = Alarm(channels(server.url, "ledger"))
        alarm.look([STOPPED], now=NOON)
        alarm.look([], now=NOON)
    (path, kind, body), (_, _, over) = server.posts
    assert (path, kind) == ("/hooks/secret", "application/json")
    assert {name: body[name] for name in ("event", "key", "severity", "message", "remedy", "ledger")} == {
        "event": "raised",
        "key": "stopped/payment_trends",
        "severity": "error",
        "message": "payment_trends has stopped.",
        "remedy": "Look.",
        "ledger": "ledger",
    }
    assert body["since"] == "2026-03-01T12:00:00+00:00"
    assert datetime.fromisoformat(body["at"]).tzinfo is not None
    assert body["text"] == "LedgerLake ledger: payment_trends has stopped. Look."
    assert (over["event"], over["text"]) == (
        "resolved",
        "LedgerLake ledger: Over: payment_trends has stopped.",
    )


def test_a_webhook_is_tried_twice_at_each_look_until_it_takes_the_alert(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with receiver(500, 204, 503, 503, 204) as server:
        alarm = Alarm({"webhook": Webhook(server.url, "ledger")})
        assert [notice.kind for notice in alarm.look([LATE])] == ["raised"]
        assert len(server.posts) == 2
        assert alarm.look([LATE, STOPPED]) == []
        assert [notice.alert for notice in alarm.look([LATE, STOPPED])] == [STOPPED]
    assert len(server.posts) == 5
    assert ["HTTP 503" in text for text in caplog.messages] == [True]


def test_an_alert_that_is_refused_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(400, 204, 404) as server:
        alarm = Alarm({"webhook": Webhook(server.url, "ledger")})
        assert [notice.alert for notice in alarm.look([LATE, STOPPED], now=at())] == [STOPPED]
        assert len(server.posts) == 2, "and it is not tried again at once"
        assert alarm.look([LATE, STOPPED], now=at(minutes=1)) == []
        assert [notice.alert for notice in alarm.look([], now=at(minutes=2))] == [STOPPED]
    assert len(server.posts) == 4
    assert ["HTTP 400" in text for text in caplog.messages] == [True, False]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("answer", [302, 404, 408, 429, "garbage", "hang"])
def test_a_webhook_that_does_not_work_breaks_nothing_and_is_not_named(answer: Any) -> None:
    with receiver(answer, answer) as server:
        # Who answers may take its time.
        webhook = Webhook(server.url, "ledger", seconds=0.3 if answer == "hang" else 60.0)
        with pytest.raises(AlertNotDelivered) as caught:
            webhook(Notice("raised", LATE, NOON))
        posts = 1 if answer == 404 else 2
        assert isinstance(caught.value, AlertRefused) == (answer == 404)
        deadline = time.monotonic() + 60
        while len(server.posts) < posts and time.monotonic() < deadline:
            time.sleep(0.01)
        # And no redirect is followed.
        assert [path for path, _, _ in server.posts] == ["/hooks/secret"] * posts
        assert "secret" not in str(caught.value)
    with pytest.raises(AlertNotDelivered):  # nobody listens any more
        webhook(Notice("raised", LATE, NOON))
