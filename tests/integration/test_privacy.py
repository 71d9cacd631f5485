"""Personal data: in no document and in no file in clear, and after `forget` nowhere at all."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.commands.payments import PaymentHandler
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.ingest.rows import OPTIONAL, REQUIRED
from ledgerlake.privacy import FORGOTTEN, NO_KEY, KeyRing, MasterKeyError
from ledgerlake.queries import GetPayment, GetStatistics
from ledgerlake.settings import Settings
from ledgerlake.subscriptions import HandlingPolicy, OnFailure
from ledgerlake.subscriptions.policy import HandlerFailed

Db = Database[dict[str, Any]]

ALICE, BOB = "alice.arnaud@example.com", "bob.brandt@example.com"
ALICES = (ALICE, "Alice Arnaud", "12 Rue des Lilas", "the card of Alice was stolen", "Alice moved away")
BOBS = (BOB, "Bob Brandt", "Bob had a change of heart")
DECLARED = "metadata.userId,eventData.reason"
MASTER = b"k" * 32
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLACES = {
    "events",
    "payment_read_models",
    "personal_keys",
    "command_rejections",
    "failure_reasons",
    "imports/rejections.parquet",
    "lake/events",
    "reports/itemised.parquet",
}


class Tool:
    """`ledgerlake` in this process, on the test's own ledger."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def __call__(self, *words: str, exit_code: int = 0, given: str | None = None) -> str:
        result = CliRunner().invoke(app, [*words], env=self._environ, input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result.output

    def json(self, *words: str, exit_code: int = 0) -> Any:
        return json.loads(self(*words, "--json", exit_code=exit_code))


def pay(payment: str, command_id: str, user: str | None = ALICE, **fields: Any) -> ProcessPayment:
    return ProcessPayment(payment_id=payment, **common(command_id, 1000, user), **fields)


def fail(payment: str, command_id: str, user: str | None, reason: str) -> FailPayment:
    return FailPayment(payment_id=payment, **common(command_id, 1000, user), reason=reason)


def refund(
    payment: str, command_id: str, minor: int, user: str | None = None, reason: str | None = None
) -> RefundPayment:
    return RefundPayment(payment_id=payment, **common(command_id, minor, user), reason=reason)


def common(command_id: str, minor: int, user: str | None) -> dict[str, Any]:
    return {
        "command_id": command_id,
        "organization_id": "acme",
        "amount": Money(minor, "EUR"),
        "occurred_at": NOON,
        "user_id": user,
    }


def business(settings: Settings, folder: Path) -> None:
    """Payments of Alice and of Bob, some refused, by themselves and from a file; then all that is derived."""
    details = {"name": ALICES[1], "street": ALICES[2]}
    with LedgerLake.open(replace(settings, snapshot_every=2)) as ledger:
        for command in (
            pay("pa", "a1", personal=details),
            fail("pa", "a2", ALICE, ALICES[3]),
            refund("pa", "a3", 400, ALICE, ALICES[4]),
            pay("pb", "b1", BOB, personal={"name": BOBS[1]}),
            fail("pb", "b2", BOB, BOBS[2]),
        ):
            ledger.commands.dispatch(command)
        with pytest.raises(CommandRejected, match="exceeds"):
            ledger.commands.dispatch(refund("pa", "a4", 9900, ALICE, ALICES[4]))
        assert ledger.import_file(payments_file(folder)).rejected == 2
        ledger.refresh()
    with LedgerLake.open(settings) as ledger:
        assert ledger.db["snapshots"].count_documents({}) > 0


def payments_file(folder: Path) -> Path:
    columns = [*REQUIRED, *OPTIONAL]
    rows = [
        ["ProcessPayment", "f1", "pc", "acme", "7.00", "EUR", "2026-05-30", ALICE, ""],
        ["RefundPayment", "f2", "pc", "acme", "70.00", "EUR", "2026-05-30", ALICE, ALICES[4]],
        ["ProcessPayment", "f3", "pd", "acme", "7,00", "EUR", "2026-05-30", ALICE, ""],
    ]
    path = folder / "payments.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def found(db: Db, home: Path, values: tuple[str, ...]) -> set[str]:
    """Where a value stands in clear: collections by their raw bytes, files by their bytes and their cells."""
    wanted = [value.encode() for value in values]
    places = set()
    for name in db.list_collection_names():
        raw = db[name].with_options(codec_options=CodecOptions(RawBSONDocument))
        if any(value in document.raw for document in raw.find() for value in wanted):
            places.add(name)
    for path in home.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pylist()).encode()
        if any(value in content for value in wanted):
            folder = path.relative_to(home).parts[0]
            places.add("lake/events" if path.parent.name == "events" else f"{folder}/{path.name}")
    return places


def bytes_under(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tool(environ: dict[str, str], database: Db) -> Tool:
    return Tool({**environ, "LEDGERLAKE_PERSONAL_FIELDS": DECLARED})


@pytest.fixture
def declared(settings: Settings) -> Settings:
    return replace(settings, personal_fields=("metadata.personal", *DECLARED.split(",")))


@pytest.fixture
def ledger(declared: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(declared) as opened:
        yield opened


def test_a_forgotten_person_is_gone_from_everywhere_and_the_payments_go_on(
    tool: Tool, declared: Settings, database: Db, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ledgerlake")
    business(declared, tmp_path)
    # Before anything is forgotten: in clear only as the name that a key is found by.
    assert found(database, declared.home, (*ALICES, *BOBS)) == {"personal_keys"}
    shown = tool("payment", "pa") + tool("audit", "pa")
    assert all(value in " ".join(shown.split()) for value in ALICES)
    with LedgerLake.open(declared) as ledger:
        totals = ledger.queries.ask(GetStatistics()).rows
    reports = bytes_under(declared.reports_dir)
    events = bytes_under(declared.lake_dir / "events")

    done = tool.json("forget", ALICE, "--yes")
    assert done["subject"] is not None
    assert done["events"] == 0

    assert found(database, declared.home, ALICES) == set()
    shown = tool("payment", "pa") + tool("audit", "pa") + tool("payments", "-o", "acme", "--json")
    assert shown.count(FORGOTTEN) > 5
    assert not any(value in " ".join(shown.split()) for value in ALICES)
    assert (BOB in shown, BOBS[2] in shown) == (True, True)

    # All that is derived can be made again from the log: the same figures, and the same bytes.
    for path in sorted((*declared.lake_dir.rglob("*"), *declared.reports_dir.rglob("*")), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with LedgerLake.open(declared) as ledger:
        ledger.rebuild_projection("payment_read_models")
        ledger.refresh()
        assert bytes_under(declared.reports_dir) == reports
        assert bytes_under(declared.lake_dir / "events") == events
        assert ledger.queries.ask(GetStatistics()).rows == totals

        assert ledger.commands.dispatch(refund("pa", "a5", 600)).version == 4
        ledger.refresh()
        assert ledger.queries.ask(GetPayment("pa")).payment.status == "refunded"
        assert ledger.verify().ok
    assert found(database, declared.home, ALICES) == set()
    assert len(caplog.messages) > 5
    assert not any(value in caplog.text for value in (*ALICES, *BOBS))


def test_negative_control_undeclared_the_values_are_found_everywhere(
    settings: Settings, database: Db, tmp_path: Path
) -> None:
    business(settings, tmp_path)
    assert found(database, settings.home, ALICES) == PLACES
    # The free details are under a key even so: nothing needs to be declared for them.
    assert found(database, settings.home, ALICES[1:3]) == set()
    # Forgetting says what it can not undo, and takes the name out of what is no event.
    with LedgerLake.open(settings) as ledger:
        done = ledger.forget(ALICE)
    assert (done.events, done.rejections) == (4, 3)
    assert "command_rejections" not in found(database, settings.home, ALICES)


def test_details_are_given_on_the_command_line(tool: Tool, ledger: LedgerLake) -> None:
    words = ["process", "p", "-o", "acme", "-c", "EUR", "-a", "3.00", "--personal", "name=Alice = A"]
    assert tool.json(*words, exit_code=1)["rejected"] == "personal_without_user"
    tool(*words, "--user", ALICE, "--personal", "city=Arras")
    metadata = ledger.personal.opened(ledger.store.read_stream("p")[0].metadata)
    assert (metadata["userId"], metadata["personal"]) == (ALICE, {"name": "Alice = A", "city": "Arras"})
    assert "as NAME=VALUE" in " ".join(tool(*words, "--personal", "name", exit_code=2).split())
    assert tool.json(*words[:-1], "a.b=c", "--user", ALICE, exit_code=1)["rejected"] == "bad_personal"


def test_forgetting_asks_first_and_may_be_repeated(tool: Tool, ledger: LedgerLake) -> None:
    ledger.commands.dispatch(pay("p", "c"))
    tool("forget", ALICE, given="n\n", exit_code=1)
    assert ledger.db["personal_keys"].count_documents({"userId": ALICE}) == 1
    assert "is destroyed" in tool("forget", ALICE, given="y\n")
    assert "no key" in tool("forget", ALICE, "--yes")
    assert "no key" in tool("forget", "nobody", "--yes")


def test_a_user_is_the_same_token_in_every_event_and_no_other_user_s(ledger: LedgerLake) -> None:
    ledger.payments.handle_batch([pay(f"p{n}", f"c{n}", (ALICE, BOB)[n % 2]) for n in range(20)])
    by_user: dict[str, set[int]] = {}
    for event in ledger.store.read_all():
        by_user.setdefault(event.metadata["userId"], set()).add(event.position % 2)
    assert sorted(map(list, by_user.values())) == [[0], [1]]
    assert all(token.startswith("pii:1:") for token in by_user)


def test_what_comes_after_forgetting_is_under_a_new_key(ledger: LedgerLake) -> None:
    ledger.commands.dispatch(pay("p", "c1"))
    first = ledger.forget(ALICE).subject
    ledger.commands.dispatch(pay("q", "c2"))
    ledger.refresh()
    shown = [ledger.queries_in_clear.ask(GetPayment(payment)).payment.user_id for payment in ("p", "q")]
    assert shown == [FORGOTTEN, ALICE]
    [found_now] = ledger.db["personal_keys"].find({"userId": ALICE})
    assert found_now["_id"] != first
    # Without being told to, nothing opens a token.
    assert ledger.queries.ask(GetPayment("q")).payment.user_id.startswith("pii:1:")  # type: ignore[union-attr]


def test_a_key_that_never_was_here_is_told_from_one_that_was_destroyed(ledger: LedgerLake) -> None:
    ledger.commands.dispatch(pay("p", "c"))
    event = ledger.store.read_stream("p")[0]
    ledger.db["personal_keys"].delete_many({"userId": ALICE})
    assert ledger.personal.opened({"who": [event.metadata["userId"]]}) == {"who": [NO_KEY]}


@pytest.mark.parametrize(
    "command",
    [pay("p", "c", None, personal={"name": "Alice"}), fail("p", "c", None, "the card of Alice was stolen")],
    ids=["details", "reason"],
)
def test_something_personal_without_a_user_is_refused_and_kept_nowhere(
    ledger: LedgerLake, command: ProcessPayment
) -> None:
    with pytest.raises(CommandRejected) as rejected:
        ledger.commands.dispatch(command)
    assert rejected.value.code == "personal_without_user"
    [outcome] = ledger.payments.handle_batch([command])
    assert isinstance(outcome, CommandRejected)
    assert ledger.store.head() == 0
    assert found(ledger.db, ledger.settings.home, ("Alice",)) == set()


def test_a_handler_without_keys_refuses_free_details(ledger: LedgerLake) -> None:
    [outcome, other] = PaymentHandler(ledger.store).handle_batch([pay("q", "d"), pay("p", "c")])
    assert not isinstance(outcome, CommandRejected)
    assert not isinstance(other, CommandRejected)
    with pytest.raises(Exception, match="no keys for personal data"):
        PaymentHandler(ledger.store).handle(pay("r", "e", personal={"name": "Alice"}))


def test_nobody_gets_another_person_s_value_opened_by_sending_in_its_token(
    tool: Tool, ledger: LedgerLake
) -> None:
    ledger.commands.dispatch(pay("p", "c"))
    stolen = ledger.store.read_stream("p")[0].metadata["userId"]
    for words in (["--user", stolen], ["--user", "mallory", "--reason", stolen]):
        assert tool.json("fail", "q", "-o", "acme", "-c", "EUR", "-a", "1", *words, exit_code=1)[
            "rejected"
        ].startswith("bad_")
    with pytest.raises(CommandRejected, match="begins with 'pii:'"):
        ledger.commands.dispatch(pay("q", "d", "mallory", personal={"name": stolen}))
    assert ledger.store.head() == 1
    # Refused commands are kept, and shown in an audit: not opened there either.
    assert ALICE not in tool("audit", "q")


def test_a_command_stays_the_same_command_when_its_user_is_forgotten_or_a_field_is_declared(
    ledger: LedgerLake, settings: Settings
) -> None:
    stolen, lost = fail("p", "c", ALICE, "stolen"), fail("p", "c", ALICE, "lost")
    with LedgerLake.open(settings) as undeclared:
        before = fail("p", "b", ALICE, "stolen")
        undeclared.commands.dispatch(before)
        # Later the reason and the user are declared: what is in the log is still known.
        assert ledger.commands.dispatch(before).duplicate
        with pytest.raises(CommandRejected, match="other content"):
            ledger.commands.dispatch(fail("p", "b", ALICE, "lost"))
        ledger.commands.dispatch(stolen)
        assert undeclared.commands.dispatch(stolen).duplicate
    ledger.forget(ALICE)
    keys = ledger.db["personal_keys"].count_documents({})
    assert ledger.commands.dispatch(stolen).duplicate
    assert ledger.db["personal_keys"].count_documents({}) == keys
    # The price of a hash that tells nothing: it can not tell personal values apart.
    assert ledger.commands.dispatch(lost).duplicate
    with pytest.raises(CommandRejected, match="other content"):
        ledger.commands.dispatch(replace(stolen, amount=Money(999, "EUR")))


def test_no_hash_in_the_log_gives_a_personal_value_away(ledger: LedgerLake, settings: Settings) -> None:
    guesses = ("stolen", "lost")

    def hashes(opened: LedgerLake, name: str) -> set[str]:
        for guess in guesses:
            opened.commands.dispatch(fail(f"{name}-{guess}", f"c-{name}-{guess}", ALICE, guess))
        events = [opened.store.read_stream(f"{name}-{guess}")[0] for guess in guesses]
        return {
            guess
            for guess, event in zip(guesses, events, strict=True)
            if event.metadata["requestHash"]
            == fail(f"{name}-{guess}", event.command_id or "", ALICE, guess).request_hash()
        }

    assert hashes(ledger, "declared") == set()
    with LedgerLake.open(settings) as undeclared:
        assert hashes(undeclared, "undeclared") == set(guesses)


def test_rings_that_make_the_same_keys_at_once_agree(database: Db) -> None:
    users = [f"user {n}" for n in range(150)]
    start = threading.Barrier(6)
    made: list[dict[str, str]] = []

    def make(turn: int) -> None:
        ring = KeyRing(database)
        start.wait()
        keys: dict[str, str] = {}
        for first in range(0, len(users), 30):
            some = users[first : first + 30]
            keys |= {user: key.subject for user, key in ring.of_users(some[turn:] + some[:turn]).items()}
        made.append(keys)

    threads = [threading.Thread(target=make, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert all(keys == made[0] for keys in made)
    assert database["personal_keys"].count_documents({"userId": {"$in": users}}) == len(users)


@pytest.mark.parametrize("indexed", [True, False], ids=["unique", "negative control without the index"])
def test_two_processes_never_make_two_keys_for_one_user(database: Db, indexed: bool) -> None:
    if not indexed:
        database["personal_keys"].drop_index("personal_keys_user")
    # Both have looked, and seen no key; then both make one.
    first, second = KeyRing(database), KeyRing(database)
    assert len(first._make([ALICE])) == 1
    assert len(second._make([ALICE])) == (0 if indexed else 1)


def test_forgetting_reaches_another_process_within_the_time_of_its_cache(database: Db) -> None:
    now = [0.0]
    here = KeyRing(database)
    elsewhere = KeyRing(database, cache_seconds=5, clock=lambda: now[0])
    before = elsewhere.of_users([ALICE])[ALICE]
    assert here.of_users([ALICE])[ALICE] == before
    here.destroy(ALICE)
    assert elsewhere.of_subjects([before.subject]) == {before.subject: None}
    now[0] = 4.9
    assert elsewhere.of_users([ALICE])[ALICE] == before
    now[0] = 5.1
    assert elsewhere.of_users([ALICE])[ALICE].subject != before.subject


class _Count(CommandListener):
    def __init__(self) -> None:
        self.commands: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def test_the_keys_of_many_users_cost_few_round_trips(database: Db, settings: Settings) -> None:
    count = _Count()
    with MongoClient[dict[str, Any]](settings.mongodb_uri, event_listeners=[count]) as client:
        ring = KeyRing(client[settings.database])
        ring.of_users(["somebody"])

        def commands(act: Callable[[], object]) -> list[str]:
            before = len(count.commands)
            act()
            return count.commands[before:]

        users = [f"user {n}" for n in range(500)]
        assert commands(lambda: ring.of_users(users)) == ["find", "insert"]
        assert commands(lambda: ring.of_users(users)) == []


def test_nothing_personal_costs_nothing(ledger: LedgerLake, settings: Settings) -> None:
    with LedgerLake.open(settings) as undeclared:
        undeclared.commands.dispatch(pay("p", "c"))
    ledger.commands.dispatch(pay("q", "d", None))
    assert ledger.db["personal_keys"].count_documents({}) == 0


@pytest.fixture
def under_master(declared: Settings, database: Db) -> Settings:
    mine = replace(declared, master_key=MASTER)
    with LedgerLake.open(mine) as ledger:
        ledger.commands.dispatch(pay("p", "c"))
        ledger.refresh()
    return mine


def test_with_a_master_key_the_database_alone_opens_nothing_and_names_nobody(
    under_master: Settings, database: Db
) -> None:
    assert found(database, under_master.home, ALICES) == set()
    with LedgerLake.open(under_master) as ledger:
        assert ledger.queries_in_clear.ask(GetPayment("p")).payment.user_id == ALICE
        assert ledger.forget(ALICE).subject is not None
        assert ledger.queries_in_clear.ask(GetPayment("p")).payment.user_id == FORGOTTEN


@pytest.mark.parametrize(
    ("key", "message"), [(None, "is not set"), (b"w" * 32, "is not the key")], ids=["missing", "wrong"]
)
def test_a_missing_or_wrong_master_key_is_a_clear_error_and_nothing_is_stored(
    under_master: Settings, key: bytes | None, message: str
) -> None:
    with LedgerLake.open(replace(under_master, master_key=key)) as ledger:
        with pytest.raises(MasterKeyError, match=message):
            ledger.commands.dispatch(pay("q", "d"))
        with pytest.raises(MasterKeyError, match=message):
            ledger.queries_in_clear.ask(GetPayment("p"))
        with pytest.raises(MasterKeyError, match=message):
            ledger.forget(ALICE)
        assert ledger.store.head() == 1
        assert ledger.queries.ask(GetPayment("p")).payment.organization_id == "acme"


def test_a_ledger_that_began_without_a_master_key_goes_on_without_one(ledger: LedgerLake) -> None:
    ledger.commands.dispatch(pay("p", "c"))
    with pytest.raises(MasterKeyError, match="under no master key"):
        KeyRing(ledger.db, master_key=MASTER).of_users([ALICE])


def test_what_a_handler_s_error_quotes_is_kept_nowhere(ledger: LedgerLake) -> None:
    ledger.payments.handle_batch([pay("p", "c1", personal={"name": ALICES[1]}), pay("q", "c2")])

    def quotes(event: StoredEvent) -> None:
        metadata = ledger.personal.opened(event.metadata)
        raise ValueError(f"no mail can be sent to {metadata['userId']}, {metadata.get('personal')}")

    def run(name: str, on_failure: OnFailure) -> None:
        policy = HandlingPolicy(on_failure, retries=0)
        ledger.subscriptions.consumer(name, quotes, policy=policy, live=False).run()

    with pytest.raises(HandlerFailed, match=re.escape(ALICE)):  # whoever runs it is told
        run("stops", OnFailure.STOP)
    run("parks", OnFailure.PARK_STREAM)
    ledger.subscriptions.retry_parked("parks", quotes)
    stopped = ledger.subscriptions.state("stops").last_error
    assert stopped is not None
    assert [stopped.partition(" ")[0], ledger.subscriptions.parked_count("parks")] == ["ValueError", 2]
    assert found(ledger.db, ledger.settings.home, ALICES) == {"personal_keys"}
    ledger.forget(ALICE)
    assert found(ledger.db, ledger.settings.home, ALICES) == set()
