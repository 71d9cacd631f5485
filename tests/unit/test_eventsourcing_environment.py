"""Where an application of the `eventsourcing` package keeps its events comes from its environment."""

from __future__ import annotations

import pytest
from eventsourcing.utils import Environment

from ledgerlake.eventsourcing_mongodb.environment import id_type_of, settings_of

_URI = "mongodb://db.example/?replicaSet=rs0"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MONGODB_URI", "MONGODB_DATABASE", "LEDGERLAKE_MONGODB_URI", "LEDGERLAKE_DATABASE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("name", "env", "database"),
    [
        ("", {}, "eventsourcing"),
        ("Bank", {}, "eventsourcing_bank"),
        ("Bank", {"MONGODB_DATABASE": "apps"}, "apps_bank"),
        ("Bank", {"MONGODB_DATABASE": "apps", "BANK_MONGODB_DATABASE": "Money"}, "Money"),
        ("Bank", {"MONGODB_DATABASE": "", "BANK_MONGODB_DATABASE": ""}, "eventsourcing_bank"),
        ("Übers Büro 2", {}, "eventsourcing__bers_b_ro_2"),
    ],
)
def test_each_application_has_a_database_of_its_own(name: str, env: dict[str, str], database: str) -> None:
    assert settings_of(Environment(name, env)).database == database


def test_the_server_is_the_applications_own_or_else_the_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(Environment("Bank")).mongodb_uri is None  # the embedded server
    monkeypatch.setenv("LEDGERLAKE_MONGODB_URI", "mongodb://ledger.example/")
    assert settings_of(Environment("Bank")).mongodb_uri == "mongodb://ledger.example/"
    assert settings_of(Environment("Bank", {"MONGODB_URI": _URI})).mongodb_uri == _URI
    both = {"MONGODB_URI": "mongodb://other.example/", "BANK_MONGODB_URI": _URI}
    assert settings_of(Environment("Bank", both)).mongodb_uri == _URI


@pytest.mark.parametrize(
    "env",
    [
        {"MONGODB_URI": "localhost"},
        {"MONGODB_DATABASE": "a.b"},
        {"BANK_MONGODB_DATABASE": "admin"},
        {"MONGODB_DATABASE": "x" * 60},
        {"LEDGERLAKE_APPEND_LINGER_MS": "soon"},
    ],
    ids=str,
)
def test_a_value_that_can_not_work_is_refused_as_the_package_does(env: dict[str, str]) -> None:
    with pytest.raises(OSError, match="BANK_MONGODB_"):
        settings_of(Environment("Bank", env))


def test_the_ledgers_own_database_is_refused() -> None:
    with pytest.raises(OSError, match="payment ledger"):
        settings_of(Environment("Bank", {"BANK_MONGODB_DATABASE": "ledgerlake"}))
    with pytest.raises(OSError, match="payment ledger"):
        settings_of(Environment("", {"LEDGERLAKE_DATABASE": "apps", "MONGODB_DATABASE": "apps"}))


def test_the_type_of_ids_is_uuid_or_text() -> None:
    assert id_type_of(Environment("Bank")) == "uuid"
    assert id_type_of(Environment("Bank", {"BANK_ORIGINATOR_ID_TYPE": "TEXT"})) == "text"
    with pytest.raises(OSError, match="ORIGINATOR_ID_TYPE"):
        id_type_of(Environment("Bank", {"ORIGINATOR_ID_TYPE": "integer"}))
