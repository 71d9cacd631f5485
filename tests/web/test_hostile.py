"""A thousand requests of somebody who means harm: each is told no, nothing is written, no file is opened."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.conftest import Served

COUNT = 1_000
SEED = 20_260_301
GOOD = {
    "payment_id": "p-hostile",
    "amount": "12.30",
    "currency": "EUR",
    "occurred_at": "2026-03-01T12:00:00Z",
}
OPERATORS = [{"$ne": None}, {"$gt": ""}, {"$where": "sleep(9)"}, {"$regex": ".*"}, ["$ne"], {"$expr": {}}]
TRAVERSALS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "file:///etc/passwd",
    "%00/etc/passwd",
    "..%c0%af..%c0%afetc/passwd",
    "~root/.ssh/id_rsa",
]
FORMULAS = ["=1+1", "=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1"]
ENCODINGS = ["\x00", "a\x00b", "\ud800", "\u202ecod.exe", "a\u0000", "\x1b[31m", "\r\nX-Evil: 1", "\u2028x"]
NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999999",
    "1E2",
    "-1",
    "0",
    "0.0",
    "00000000000000000000",
    "9" * 50,
    "1.000000001",
    "٣",
    "1,5",
    "0x10",
    " 1",
    "1_000",
]
RAW_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000, "12.30", "true", "null"]
EDGES = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
DATES = [
    *EDGES,
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z",
    "2026-03-01",
    "1e9",
    "now",
]
FIELDS = ["payment_id", "amount", "currency", "occurred_at", "user_id", "reason", "correlation_id"]
COMMANDS = ["process", "fail", "refund"]
CALLERS = ["service", "finance"]


def requests(chance: random.Random) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Role, method, address and options of each request."""
    while True:
        kind = chance.choice((operator, formula, encoding, number, date, nested, raw, header, address, query))
        yield kind(chance)


def post(chance: random.Random, body: Any, **headers: str) -> tuple[str, str, str, dict[str, Any]]:
    given = {"Idempotency-Key": f"h-{chance.getrandbits(64)}", "Content-Type": "application/json", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = f"/api/v1/commands/{chance.choice(COMMANDS)}-payment"
    return "service", "POST", path, {"content": content, "headers": given}


def operator(chance: random.Random) -> Any:
    field = chance.choice([*FIELDS, "metadata", "personal", "organization"])
    value = chance.choice(OPERATORS)
    return post(chance, {**GOOD, field: {"x": value} if field in ("metadata", "personal") else value})


def formula(chance: random.Random) -> Any:
    field = chance.choice(["payment_id", "user_id", "correlation_id", "metadata", "personal"])
    value = chance.choice(FORMULAS)
    return post(chance, {**GOOD, field: {"x": value} if field in ("metadata", "personal") else value})


def encoding(chance: random.Random) -> Any:
    field = chance.choice(["payment_id", "user_id", "currency", "metadata", "personal"])
    value = chance.choice(ENCODINGS)
    return post(chance, {**GOOD, field: {"x": value} if field in ("metadata", "personal") else value})


def number(chance: random.Random) -> Any:
    return post(chance, {**GOOD, "amount": chance.choice(NUMBERS)})


def date(chance: random.Random) -> Any:
    return post(chance, {**GOOD, "occurred_at": chance.choice(DATES)})


def nested(chance: random.Random) -> Any:
    depth = chance.choice((50, 1_000, 20_000))
    deep = (
        b"[" * depth + b"]" * depth
        if chance.random() < 0.5
        else b'{"a":' * (depth // 2) + b"1" + b"}" * (depth // 2)
    )
    return post(chance, b'{"payment_id":"p","metadata":' + deep + b"}")


def raw(chance: random.Random) -> Any:
    bodies = [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{",
        b"{'payment_id': 'p'}",
        json.dumps(GOOD).encode("utf-16"),
        json.dumps(GOOD).encode()[:-1],
        b'{"payment_id": "\xed\xa0\x80"}',
        b"<x/>",
        b"payment_id=p&amount=1",
        json.dumps(GOOD).replace('"12.30"', chance.choice(RAW_NUMBERS)).encode(),
        json.dumps({**GOOD, "reason": "x" * 70_000}).encode(),
    ]
    return post(chance, chance.choice(bodies))


def header(chance: random.Random) -> Any:
    key = chance.choice(
        ["", " ", "=1+1", "../../x", "a..b", "$ne", "k" * 5_000, "é", "{}", "a\tb", "pii:1:x"]
    )
    return post(chance, GOOD, **{"Idempotency-Key": key.encode("latin-1").decode("latin-1")})


def address(chance: random.Random) -> Any:
    hostile = chance.choice(TRAVERSALS)
    path = chance.choice(
        [
            f"/api/v1/reports/2011-11/current/{hostile}",
            f"/api/v1/reports/{hostile}/current/summary.csv",
            f"/api/v1/reports/2011-11/{hostile}/summary.csv",
            f"/api/v1/payments/{hostile}",
            f"/api/v1/audit/{hostile}",
            f"/organizations/{hostile}/periods/2011-11",
            f"/organizations/acme/periods/2011-11/revision-1/files/{hostile}",
        ]
    )
    return "finance", "GET", path, {}


def query(chance: random.Random) -> Any:
    hostile = chance.choice(
        [*TRAVERSALS, *ENCODINGS[:2], *NUMBERS[:4], '{"$ne": null}', "[$ne]", "' OR '1'='1"]
    )
    names = {
        "/api/v1/payments": [
            "cursor",
            "limit",
            "currency",
            "status",
            "sort",
            "min_amount",
            "start",
            "wait_for",
        ],
        "/api/v1/statistics": ["organization", "start", "end", "wait_for", "organization[$ne]"],
        "/api/v1/trends": ["organization", "granularity", "zone", "start"],
        "/api/v1/reports": ["organization"],
        "/api/v1/payments/acme-1": ["version", "position", "at", "wait_for"],
    }
    path = chance.choice(list(names))
    return "finance", "GET", path, {"params": {chance.choice(names[path]): hostile}}


def stored(served: Served) -> dict[str, Any]:
    db = served.ledger.db
    return {name: list(db[name].find().sort("_id")) for name in sorted(db.list_collection_names())}


class Opened:
    """Which files this process opens, while `watching`."""

    def __init__(self) -> None:
        self.watching = False
        self.paths: set[str] = set()
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if (
            self.watching
            and event in ("open", "os.listdir", "os.scandir")
            and isinstance(args[0], str | Path)
        ):
            self.paths.add(str(args[0]))

    @contextmanager
    def watched(self) -> Iterator[set[str]]:
        self.paths = set()
        self.watching = True
        try:
            yield self.paths
        finally:
            self.watching = False


def outside(served: Served, paths: set[str]) -> list[str]:
    """Files that are neither reports nor part of the program."""
    home = served.settings.home
    program = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2] / "src"]
    fine = [
        served.settings.reports_dir,
        home / "web",
        *program,
        Path("/proc/self"),
        Path("/usr/share/zoneinfo"),
    ]
    resolved = [Path(each).absolute() for each in paths]
    return [str(each) for each in resolved if not any(each.is_relative_to(folder) for folder in fine)]


def test_a_thousand_hostile_requests_are_told_no_and_change_nothing(
    served: Served, record_property: Any
) -> None:
    record_property("seed", SEED)
    every = requests(random.Random(SEED))
    opened = Opened()
    clients = {role: served.client(role) for role in CALLERS}
    before = stored(served)
    wrong, sent = [], 0
    with opened.watched() as paths:
        while sent < COUNT:
            role, method, path, options = next(every)
            try:
                answer = clients[role].request(method, path, **options)
            except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeEncodeError):
                continue  # the client would not even send it
            sent += 1
            if not 400 <= answer.status_code < 500:
                wrong.append((answer.status_code, method, path, str(options)[:300], answer.text[:200]))
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"
    assert stored(served) == before
    assert outside(served, paths) == []


def test_negative_control_what_is_written_or_opened_elsewhere_would_be_seen(served: Served) -> None:
    opened = Opened()
    before = stored(served)
    with opened.watched() as paths, served.client("service") as client:
        headers = {"Idempotency-Key": "not-hostile"}
        assert client.post("/api/v1/commands/process-payment", json=GOOD, headers=headers).status_code == 201
        Path("/etc/passwd").read_bytes()
    assert stored(served) != before
    assert outside(served, paths) == ["/etc/passwd"]


@pytest.mark.parametrize("instant", [*EDGES, "2026-02-30T00:00:00Z", "now"])
@pytest.mark.parametrize("asked", ["payments/acme-1?at", "payments?start", "payments?end"])
def test_an_instant_beyond_the_calendar_is_told_no(served: Served, asked: str, instant: str) -> None:
    path, _, name = asked.partition("?")
    with served.client("finance") as client:
        assert client.get(f"/api/v1/{path}", params={name: instant}).status_code in (404, 422)
