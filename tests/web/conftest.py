"""A server on a ledger with payments of two organizations and a closed month, for all tests here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pymongo import WriteConcern

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.settings import Settings
from tests.web.serving import ROLES, as_, make_token, serving

NOVEMBER = datetime(2011, 11, 3, 9, 26, tzinfo=UTC)


@dataclass(frozen=True)
class Served:
    """A running server; `tokens` by role are acme's."""

    address: str
    settings: Settings
    ledger: LedgerLake
    tokens: dict[str, str]

    def client(self, role: str) -> httpx.Client:
        return as_(self.address, self.tokens[role])


def command(number: int, organization: str, minor: int = 1230, **fields: Any) -> dict[str, Any]:
    return {
        "command_id": f"c-{organization}-{number}",
        "organization_id": organization,
        "amount": Money(minor, "EUR"),
        "occurred_at": NOVEMBER,
        "user_id": "u-17",
        **fields,
    }


def fill(ledger: LedgerLake) -> None:
    """Payments of acme and of globex in November 2011, one of them with personal details, one failed."""
    for organization in ("acme", "globex"):
        ledger.payments.handle_batch(
            [
                ProcessPayment(
                    payment_id=f"{organization}-1", **command(1, organization, personal={"name": "Ann Onym"})
                ),
                RefundPayment(payment_id=f"{organization}-1", **command(2, organization, 230)),
                FailPayment(
                    payment_id=f"{organization}-2", **command(3, organization, reason="card_expired")
                ),
                ProcessPayment(payment_id=f"{organization}-3", **command(4, organization, 500)),
                RefundPayment(payment_id=None, **command(5, organization, 100)),
            ]
        )
    ledger.refresh()
    ledger.close_period("2011-11", by="finance")
    ledger.refresh()


@pytest.fixture(scope="session")
def served(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        mongodb_uri=mongo_uri,
        database=f"test_{uuid.uuid4().hex[:16]}",
        web_rate=100_000,
    )
    with LedgerLake.open(settings) as ledger:
        fill(ledger)
        tokens = {role: make_token(ledger, role, "acme") for role in ROLES}
        with serving(settings) as (address, _):
            yield Served(address, settings, ledger, tokens)
        ledger.db.client.get_database(settings.database, write_concern=WriteConcern(1)).command(
            "dropDatabase"
        )
