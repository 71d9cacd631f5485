"""The server under the roles of docs/operations.md: it reads as who asks, and appends as who appends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ledgerlake.application import LedgerLake
from ledgerlake.settings import Settings
from tests.integration.test_privileges import DATABASE, UNAUTHORIZED, _as, server  # noqa: F401
from tests.web.conftest import fill
from tests.web.serving import ROLES, as_, make_token, serving

BODY = {
    "payment_id": "under-roles",
    "amount": "12.30",
    "currency": "EUR",
    "occurred_at": "2026-03-01T12:00:00Z",
    "user_id": "u-17",
    "personal": {"name": "Ann Onym"},
}
READS = {
    "finance": [
        "/api/v1/payments",
        "/api/v1/payments/acme-1",
        "/api/v1/payments/acme-1?version=1",
        "/api/v1/audit/acme-1",
        "/api/v1/statistics",
        "/api/v1/trends?zone=Europe/Berlin",
        "/api/v1/reports",
        "/api/v1/reports/2011-11/current",
        "/api/v1/reports/2011-11/current/report.xlsx",
    ],
    "operator": ["/api/v1/status", "/metrics"],
}


def test_the_server_needs_no_more_than_to_append_and_to_ask(server: str, tmp_path: Path) -> None:  # noqa: F811
    owner = Settings(home=tmp_path / "home", database=DATABASE, mongodb_uri=_as("owner", server))
    with LedgerLake.open(owner) as ledger:
        fill(ledger)
    with LedgerLake.open(replace(owner, mongodb_uri=_as("admits", server))) as ledger:
        tokens = {role: make_token(ledger, role, "acme") for role in ROLES}
    least = replace(owner, mongodb_uri=_as("appends", server), mongodb_read_uri=_as("asks", server))
    with serving(least) as (address, _):
        with as_(address, tokens["service"]) as client:
            path, headers = "/api/v1/commands/process-payment", {"Idempotency-Key": "r1"}
            assert client.post(path, json=BODY, headers=headers).status_code == 201
            headers = {"Idempotency-Key": "r2"}
            assert client.post(path, json=BODY, headers=headers).status_code == 409
        for role, paths in READS.items():
            with as_(address, tokens[role]) as client:
                for path in paths:
                    answer = client.get(path)
                    assert answer.status_code == 200, (path, answer.text)
        with as_(address, tokens["finance"]) as client:
            assert "Ann Onym" in client.get("/api/v1/audit/acme-1").text
    # The one that reads could not append, and the one that appends can not let anybody in.
    for role, collection in (("asks", "events"), ("asks", "access_tokens"), ("appends", "access_tokens")):
        with (
            MongoClient[dict[str, object]](_as(role, server)) as client,
            pytest.raises(OperationFailure) as refused,
        ):
            client[DATABASE][collection].insert_one({"position": 9_999})
        assert refused.value.code == UNAUTHORIZED
