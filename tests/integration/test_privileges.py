"""The roles of docs/operations.md are enough for what they are for, and let nobody change the log."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import CheckpointMove, StoredEvent
from ledgerlake.lake.retention import archive_streams
from ledgerlake.lake.tables import TABLES
from ledgerlake.mongo.embedded import ensure_running, stop
from ledgerlake.projections import PROJECTIONS
from ledgerlake.queries import GetAudit, GetPayment, GetPaymentAt, GetStatistics
from ledgerlake.reconciliation import record
from ledgerlake.settings import Settings
from ledgerlake.subscriptions import HandlingPolicy, OnFailure

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSWORD = "only-on-loopback"
DATABASE = "ledger"
ROLES = ("appends", "refreshes", "closes", "asks", "admits", "subscribes", "archives", "forgets")
UNAUTHORIZED = 13
TABLE = "statistics/payment_statistics.parquet"
Opened = Callable[[str], AbstractContextManager[LedgerLake]]


def documented() -> dict[str, dict[str, list[str]]]:
    """The privileges of each role: actions by collection."""
    [block] = re.findall(r"^```json\n(.*?)^```$", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    found: dict[str, dict[str, list[str]]] = json.loads(block)
    return found


def read_models() -> list[str]:
    """The collections that "read models" stands for on the page, with two generations to come."""
    names = [name for each in PROJECTIONS.values() for name in (each.name, *_derived(each))]
    return [f"{name}{generation}" for name in names for generation in ("", "__2", "__3")]


def _derived(projection: Any) -> list[str]:
    return [each.name for each in getattr(projection, "derived", ())]


def privileges(actions: dict[str, list[str]]) -> list[dict[str, Any]]:
    collections = {
        collection: granted
        for name, granted in actions.items()
        for collection in (read_models() if name == "read models" else [name])
    }
    return [
        {"resource": {"db": DATABASE, "collection": collection}, "actions": granted}
        for collection, granted in collections.items()
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of its own that lets in nobody without a password."""
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text(secrets.token_hex(64))
    key.chmod(0o600)
    guarded = Settings(home=folder / "home")
    try:
        uri = ensure_running(guarded, extra_args=("--keyFile", str(key)))
        _make_users(uri)
        yield uri
    finally:
        stop(guarded)
        shutil.rmtree(folder, ignore_errors=True)


def _make_users(uri: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:  # the one that the server lets in until there is a user
        client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    with MongoClient[dict[str, Any]](_as("root", uri)) as client:
        ledger = client[DATABASE]
        ledger.command("createUser", "owner", pwd=PASSWORD, roles=["readWrite"])
        for role, actions in documented().items():
            ledger.command("createRole", role, privileges=privileges(actions), roles=[])
        refreshes = {
            name: [action for action in actions if action != "collStats"]
            for name, actions in documented()["refreshes"].items()
        }
        ledger.command("createRole", "uncounted", privileges=privileges(refreshes), roles=[])
        ledger.command("createUser", "uncounted", pwd=PASSWORD, roles=["everybody", "uncounted"])
        for role in documented():
            # Closing begins with a refresh.
            beside = {"everybody": [], "closes": ["everybody", "refreshes"]}.get(role, ["everybody"])
            roles = [*beside, role]
            ledger.command("createUser", role, pwd=PASSWORD, roles=roles)


def _as(user: str, uri: str) -> str:
    source = "admin" if user == "root" else DATABASE
    parts = urlsplit(uri)
    query = "&".join(filter(None, (parts.query, f"authSource={source}")))
    return f"mongodb://{user}:{PASSWORD}@{parts.netloc}/?{query}"


@pytest.fixture(scope="module")
def opened(server: str, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """`opened(role)`: the ledger as a user of that role has it, on a log with payments that are refreshed."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(
        home=home,
        database=DATABASE,
        segment_size=20,
        snapshot_every=3,
        personal_fields=("metadata.userId", "metadata.personal"),
    )

    @contextmanager
    def as_user(role: str) -> Iterator[LedgerLake]:
        with LedgerLake.open(replace(settings, mongodb_uri=_as(role, server))) as ledger:
            yield ledger

    with as_user("owner") as ledger:
        ledger.payments.handle_batch([pay(f"p{n}", f"c{n}", user_id="bob") for n in range(50)])
        ledger.payments.handle_batch([refund(f"p{n}", f"r{n}") for n in range(20)])
        ledger.refresh()
    return as_user


def pay(payment: str, command_id: str, **fields: Any) -> ProcessPayment:
    return ProcessPayment(payment_id=payment, **common(command_id), **fields)


def refund(payment: str, command_id: str) -> RefundPayment:
    return RefundPayment(payment_id=payment, **common(command_id))


def common(command_id: str) -> dict[str, Any]:
    amount = Money(1000, "EUR")
    return {"command_id": command_id, "organization_id": "acme", "amount": amount, "occurred_at": NOON}


def test_who_appends_carries_out_commands_and_keeps_what_was_refused(opened: Opened, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "command,command_id,payment_id,organization_id,user_id,amount,currency,occurred_at\n"
        "ProcessPayment,row1,row,acme,u,1.00,EUR,2026-03-01\n"
        "RefundPayment,row2,nowhere,acme,u,1.00,EUR,2026-03-01\n"
    )
    with opened("appends") as ledger:
        ledger.commands.dispatch(pay("new", "n1", user_id="ann", personal={"name": "Ann"}))
        with pytest.raises(CommandRejected):
            ledger.commands.dispatch(refund("late", "n2"))
        ledger.commands.dispatch(pay("late", "n3"))
        ledger.commands.dispatch(refund("late", "n2"))  # accepted after all: its refusal is resolved
        for n in range(8):
            ledger.commands.dispatch(FailPayment(payment_id="long", **common(f"f{n}")))
        assert ledger.snapshots.flush(30)
        for after in (0, 1):
            ledger.store.append_atomically([], CheckpointMove("notes", after + 1, after=after))
        assert ledger.import_file(file).rejected_by_code == {"unknown_payment": 1}
        for first in range(0, 1_000, 250):  # past a link of the hash chain
            ledger.payments.handle_batch([pay(f"q{n}", f"q{n}") for n in range(first, first + 250)])
        assert ledger.store.checkpoint("notes") == 2
    with opened("owner") as ledger:
        kept = {name: ledger.db[name].count_documents({}) for name in ("snapshots", "log_chain")}
        assert min(kept.values()) > 0, kept


def test_who_refreshes_fills_read_models_anew_and_verifies(opened: Opened) -> None:
    with opened("refreshes") as ledger:
        ledger.refresh()
        ledger.rebuild_projection("payment_read_models")
        ledger.drop_replaced("payment_read_models")
        found = ledger.verify()
        assert found.ok, found
        assert ledger.status().head > 0
        assert not ledger.reconcile().full
    a_day_passes(opened)
    with opened("refreshes") as ledger:
        assert not ledger.reconcile().full
        kept = {each["_id"] for each in ledger.db["control_sums"].find({"sums": {"$exists": True}})}
    assert {"events", "payment_trends", TABLE} <= kept


def a_day_passes(opened: Opened) -> None:
    """For the control sums: what was seen a moment ago may have been written by an open transaction."""
    with opened("owner") as ledger:
        ledger.db["control_sums"].update_many({}, {"$set": {"seen": NOON - timedelta(days=1)}})


def test_who_is_not_told_how_much_was_written_adds_up_read_models_each_time(opened: Opened) -> None:
    with opened("owner") as ledger:
        ledger.refresh()
        record(ledger.db, "everything", ledger.store.head(), [], 1.0)
        ledger.db["control_sums"].delete_many({})
    for _ in range(2):
        with opened("uncounted") as ledger:
            assert not ledger.reconcile().full
        a_day_passes(opened)
    with opened("owner") as ledger:
        kept = {each["_id"] for each in ledger.db["control_sums"].find({})}
    assert kept == set(TABLES)


def test_who_closes_a_month_can_not_take_it_back_unseen(opened: Opened) -> None:
    with opened("closes") as ledger:
        [closed] = ledger.close_period("2026-03", by="ann")
        assert closed.new
        ledger.periods.reopen("2026-03", reason="a look at it", by="ann")
        for change in (
            lambda: ledger.db["billing_periods"].update_one({}, {"$set": {"position": 1}}),
            lambda: ledger.db["billing_periods"].delete_one({}),
        ):
            with pytest.raises(OperationFailure) as refused:
                change()
            assert refused.value.code == UNAUTHORIZED


def test_who_asks_gets_answers_from_read_models_and_from_the_log(opened: Opened) -> None:
    with opened("asks") as ledger:
        assert ledger.queries.ask(GetStatistics()).rows
        assert ledger.queries_in_clear.ask(GetPayment("p0")).payment.user_id == "bob"
        assert ledger.queries.ask(GetPaymentAt("p0", version=1)).payment.version == 1
        assert ledger.queries_in_clear.ask(GetAudit("p0")).steps
        assert ledger.status().parts


def test_who_subscribes_follows_live_parks_and_keeps_checkpoints(opened: Opened) -> None:
    def fails(event: StoredEvent) -> None:
        if event.position == 2:
            raise ValueError("no")

    with opened("subscribes") as ledger:
        subscriptions = ledger.subscriptions
        policy = HandlingPolicy(OnFailure.PARK_STREAM, retries=0)
        only = EventFilter.of(organizations=["acme"])
        done = subscriptions.consumer("mail", fails, only=only, policy=policy, live=False).run()
        assert done.parked >= 1
        assert subscriptions.lag("mail").events == 0
        assert subscriptions.retry_parked("mail", lambda event: None).left == 0
        live = subscriptions.subscribe(after=ledger.store.head())
        follower = threading.Thread(target=lambda: list(live), daemon=True)
        follower.start()
        until = time.monotonic() + 60
        while not subscriptions._watch.watching:
            assert time.monotonic() < until, "a change stream"
            time.sleep(0.01)
        live.close()
        follower.join(60)
        subscriptions.forget("mail")


def test_who_archives_leaves_stubs_and_who_asks_reads_through_them(opened: Opened) -> None:
    with opened("archives") as ledger:
        done = archive_streams(ledger.db, ledger.lake, NOON + timedelta(days=1), now=NOON + timedelta(days=2))
        assert done.events >= 20
        assert ledger.verify().ok
    with opened("asks") as ledger:
        assert ledger.queries.ask(GetPaymentAt("p1", version=1)).payment.status == "completed"


def test_who_forgets_destroys_a_key(opened: Opened) -> None:
    with opened("forgets") as ledger:
        assert ledger.forget("bob").subject is not None


@pytest.mark.parametrize("role", ROLES)
def test_nobody_changes_or_removes_an_event(server: str, opened: Opened, role: str) -> None:
    """Who archives may put something else in an event's place: the hash chain tells."""
    with MongoClient[dict[str, Any]](_as(role, server)) as client:
        db = client[DATABASE]
        changes: dict[str, Callable[[], Any]] = {
            "update": lambda: db["events"].update_one({"position": 3}, {"$set": {"eventType": "Gift"}}),
            "delete": lambda: db["events"].delete_one({"position": 3}),
            "drop": db["events"].drop,
            "rename": lambda: db["events"].rename("gone"),
            "expire": lambda: db["events"].create_index("recordedAt", expireAfterSeconds=1),
            "drop index": lambda: db["events"].drop_index("events_position"),
            "drop database": lambda: client.drop_database(DATABASE),
            "unchain": lambda: db["log_chain"].delete_many({}),
        }
        if role != "appends":
            changes["insert"] = lambda: db["events"].insert_one({"position": 9_999})
            changes["count"] = lambda: db["counters"].update_one({}, {"$set": {"position": 1}})
        if role == "archives":
            del changes["update"]
        for name, change in changes.items():
            with pytest.raises(OperationFailure) as refused:
                change()
            assert refused.value.code == UNAUTHORIZED, name
