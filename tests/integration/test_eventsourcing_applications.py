"""What an application of the `eventsourcing` package gets from this store beyond its published cases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.system import MultiThreadedRunner, ProcessApplication, System
from eventsourcing.utils import Environment
from pymongo import MongoClient

from ledgerlake.eventsourcing_mongodb import MongoDBFactory, recorders
from ledgerlake.eventsourcing_mongodb.appends import appends_of
from ledgerlake.eventstore.model import Append
from ledgerlake.eventstore.store import EventStore
from tests.builders import looked_at

_REPOSITORY = Path(__file__).resolve().parents[2]
_PAGE = _REPOSITORY / "docs" / "eventsourcing.md"

Construct: TypeAlias = Callable[..., MongoDBFactory]
Client: TypeAlias = MongoClient[dict[str, Any]]


@pytest.fixture
def client(mongo_uri: str) -> Iterator[Client]:
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        yield client


@pytest.fixture
def base(client: Client) -> Iterator[str]:
    """What the names of a test's databases begin with."""
    prefix = f"es_{uuid.uuid4().hex[:12]}"
    yield prefix
    for name in client.list_database_names():
        if name.startswith(prefix):
            client.drop_database(name)


@pytest.fixture
def construct(base: str, mongo_uri: str) -> Iterator[Construct]:
    """A factory of recorders, as an application of that name has it, with its own connection."""
    opened: list[MongoDBFactory] = []

    def factory(name: str = "", **env: str) -> MongoDBFactory:
        places = {"MONGODB_URI": mongo_uri, "MONGODB_DATABASE": base}
        opened.append(MongoDBFactory(Environment(name, places | env)))
        return opened[-1]

    yield factory
    for each in opened:
        each.close()


def events(originator: UUID | str, versions: Sequence[int], state: bytes = b"state") -> list[StoredEvent]:
    return [StoredEvent(originator, version, f"topic{version}", state) for version in versions]


def test_versions_are_kept_from_zero_and_from_one(construct: Construct) -> None:
    recorder = construct().application_recorder()
    zero, one = uuid4(), uuid4()
    assert recorder.insert_events([*events(zero, [0]), *events(one, [1, 2])]) == [1, 2, 3]
    # Version 1 is the second event of the one and would be the first of the other kind.
    assert recorder.insert_events([*events(one, [3]), *events(zero, [1])]) == [4, 5]
    assert recorder.insert_events(events(zero, [2, 3])) == [6, 7]
    assert [event.originator_version for event in recorder.select_events(zero)] == [0, 1, 2, 3]
    assert [event.originator_version for event in recorder.select_events(one)] == [1, 2, 3]
    for taken in (*events(zero, [1]), *events(zero, [0]), *events(one, [1]), *events(one, [0])):
        with pytest.raises(IntegrityError):
            recorder.insert_events([taken])
    assert recorder.max_notification_id() == 7


@pytest.mark.parametrize("versions", [[2], [1, 3], [0, 2], [1, 1], [2, 1], [1, 0]], ids=str)
def test_versions_that_do_not_follow_one_another_are_refused(
    construct: Construct, versions: list[int]
) -> None:
    recorder = construct().application_recorder()
    with pytest.raises(IntegrityError):
        recorder.insert_events(events(uuid4(), versions))
    assert recorder.max_notification_id() is None


def test_a_save_of_several_aggregates_is_numbered_in_its_order_and_stored_whole_or_not_at_all(
    construct: Construct,
) -> None:
    recorder = construct().application_recorder()
    a, b, c = uuid4(), uuid4(), uuid4()
    mixed = [*events(a, [1]), *events(b, [1]), *events(a, [2, 3]), *events(b, [2])]
    assert recorder.insert_events(mixed) == [1, 2, 3, 4, 5]
    seen = [(each.originator_id, each.originator_version) for each in recorder.select_notifications(1, 10)]
    assert seen == [(event.originator_id, event.originator_version) for event in mixed]
    with pytest.raises(IntegrityError):
        recorder.insert_events([*events(c, [1]), *events(a, [4]), *events(b, [2])])
    assert recorder.select_events(c) == []
    assert recorder.max_notification_id() == 5


def test_a_save_may_be_of_more_aggregates_than_a_batch_of_appends(construct: Construct) -> None:
    recorder = construct().application_recorder()
    many = [event for _ in range(1_200) for event in events(uuid4(), [1])]
    assert recorder.insert_events(many) == list(range(1, 1_201))


def test_what_comes_of_a_notification_is_stored_once_however_many_process_it(construct: Construct) -> None:
    def outcomes(**tracking: Any) -> list[str]:
        recorder, found, start = construct().process_recorder(), [], threading.Barrier(8)

        def process() -> None:
            start.wait()
            try:
                recorder.insert_events(events(uuid4(), [1]), **tracking)
            except IntegrityError:
                found.append("refused")
            else:
                found.append("stored")

        threads = [threading.Thread(target=process) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(found)

    assert outcomes(tracking=Tracking("upstream", 7)) == ["refused"] * 7 + ["stored"]
    assert construct().process_recorder().max_tracking_id("upstream") == 7
    assert outcomes() == ["stored"] * 8  # the negative control: nothing but the tracking refused them
    assert construct().process_recorder().max_notification_id() == 9


def test_refused_events_leave_the_tracking_where_it_was(construct: Construct) -> None:
    recorder, account = construct().process_recorder(), uuid4()
    recorder.insert_events(events(account, [1]), tracking=Tracking("upstream", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events(events(account, [1]), tracking=Tracking("upstream", 2))
    assert recorder.max_tracking_id("upstream") == 1
    cause = construct().datastore.collection("events").find_one({"position": 1})
    assert cause is not None
    assert cause["causationId"] == "upstream:1"


def test_a_view_whose_writing_fails_is_not_tracked(construct: Construct) -> None:
    view = construct("view").tracking_recorder()
    view.datastore.ensure(["things"])

    def write(session: Any) -> None:
        view.datastore.collection("things").insert_one({"_id": 1}, session=session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        view.record(Tracking("upstream", 1), write)
    assert view.max_tracking_id("upstream") is None
    assert view.datastore.collection("things").count_documents({}) == 0


def test_a_subscription_sees_what_several_processes_write_in_order_and_without_a_gap(
    construct: Construct,
) -> None:
    reader = construct().application_recorder()
    writers = [construct().application_recorder() for _ in range(4)]

    def write(number: int) -> None:
        for _ in range(25):
            writers[number].insert_events(events(uuid4(), range(1, 21)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    seen = []
    with reader.subscribe() as subscription:
        for notification in subscription:
            seen.append(notification.id)
            if len(seen) == 2_000:
                break
    for thread in threads:
        thread.join()
    assert seen == list(range(1, 2_001))


def test_a_subscription_that_waits_ends_when_another_thread_stops_it(construct: Construct) -> None:
    recorder = construct().application_recorder()
    recorder.insert_events(events(uuid4(), [1, 2]))
    seen: list[int] = []
    caught_up = threading.Event()
    subscription = recorder.subscribe()

    def follow() -> None:
        with subscription:
            for notification in subscription:
                seen.append(notification.id)
                if notification.id == 2:
                    caught_up.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert caught_up.wait(120)
    subscription.stop()
    thread.join(120)
    assert not thread.is_alive()
    assert seen == [1, 2]


def test_a_closed_application_ends_its_subscriptions_and_refuses_everything_else(
    construct: Construct,
) -> None:
    factory = construct()
    recorder = factory.application_recorder()
    recorder.insert_events(events(uuid4(), [1]))
    subscription = recorder.subscribe()
    assert next(subscription).id == 1
    factory.close()
    factory.close()
    assert list(subscription) == []
    for call in (
        lambda: recorder.insert_events(events(uuid4(), [1])),
        lambda: recorder.select_events(uuid4()),
        recorder.max_notification_id,
    ):
        with pytest.raises(PersistenceError):
            call()


def test_each_application_has_a_log_of_its_own_unless_told_otherwise(
    base: str, mongo_uri: str, client: Client
) -> None:
    class Sales(Application[UUID]):
        name = "Sales & Co"

    class Stock(Application[UUID]):
        pass

    class Shared(Application[UUID]):
        pass

    env = {
        "PERSISTENCE_MODULE": "ledgerlake.eventsourcing_mongodb",
        "MONGODB_URI": mongo_uri,
        "MONGODB_DATABASE": base,
        "SHARED_MONGODB_DATABASE": f"{base}_stock",
        "IS_SNAPSHOTTING_ENABLED": "y",
    }
    with Sales(env) as sales, Stock(env) as stock, Shared(env) as shared:
        ids = [
            recording.notification.id
            for each in (sales, stock, sales, shared)
            for recording in each.save(Aggregate())
        ]
    assert ids == [1, 1, 2, 2]
    ours = {name for name in client.list_database_names() if name.startswith(base)}
    assert ours == {f"{base}_sales___co", f"{base}_stock"}
    assert "eventsourcing_snapshots" in client[f"{base}_stock"].list_collection_names()
    # Nothing of the payment ledger is in it.
    assert not [name for name in client[f"{base}_stock"].list_collection_names() if "payment" in name]


def test_the_store_reads_and_chains_an_applications_events_as_any_others(construct: Construct) -> None:
    factory = construct()
    a, b = uuid4(), uuid4()
    factory.application_recorder().insert_events([*events(a, [1, 2], b"\x00\xff"), *events(b, [1])])
    with EventStore(factory.datastore.database) as store:
        log = list(store.read_all())
        assert [(each.position, each.stream_id, each.version) for each in log] == [
            (1, str(a), 1),
            (2, str(a), 2),
            (3, str(b), 1),
        ]
        assert log[0].data == {"state": b"\x00\xff"}
        assert {each.aggregate_type for each in log} == {"eventsourcing"}
        assert store.read_correlation(log[0].correlation_id) == log
    database = factory.datastore.database
    assert looked_at(database).ok
    database["events"].update_one({"position": 2}, {"$set": {"eventData.state": b"\x00\xfe"}})
    [difference] = looked_at(database).differences
    assert "positions 1 to 3 " in difference


def test_what_the_store_can_not_take_is_an_error_of_the_package(construct: Construct) -> None:
    recorder = construct().application_recorder()
    for wrong in (
        events(uuid4(), [1], b"x" * 1_000_001),
        events(uuid4(), [-1]),
        events("account-1", [1]),
    ):
        with pytest.raises(DataError):
            recorder.insert_events(wrong)
    assert recorder.max_notification_id() is None
    text = construct(ORIGINATOR_ID_TYPE="text").application_recorder()
    assert text.insert_events(events("account-1", [1])) == [1]
    assert text.select_events("account-1") == events("account-1", [1])


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
def test_a_save_whose_answer_is_lost_is_stored_once(
    construct: Construct, mongo_uri: str, client: Client, command: str
) -> None:
    name = f"lost-{uuid.uuid4().hex[:8]}"
    uri = f"{mongo_uri}{'&' if '?' in mongo_uri else '/?'}appName={name}"
    recorder = construct(MONGODB_URI=uri).process_recorder()
    fault = {"failCommands": [command], "closeConnection": True, "appName": name}
    client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 2}, "data": fault})
    try:
        ids = recorder.insert_events(
            [*events(uuid4(), [1]), *events(uuid4(), [0, 1])], tracking=Tracking("upstream", 1)
        )
    finally:
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert ids == [1, 2, 3]
    assert [each.id for each in recorder.select_notifications(1, 10)] == [1, 2, 3]
    assert recorder.max_tracking_id("upstream") == 1


@pytest.mark.parametrize("ids", [True, pytest.param(False, id="negative control: without command ids")])
def test_a_save_that_nobody_confirms_in_time_is_asked_for_again_and_not_falsely_refused(
    construct: Construct, mongo_uri: str, client: Client, ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit happens, its confirmation does not come, and the store gives up at once."""
    if not ids:

        def without_ids(*arguments: Any) -> list[Append]:
            return [replace(append, command_id=None) for append in appends_of(*arguments)]

        monkeypatch.setattr(recorders, "appends_of", without_ids)
    name = f"late-{uuid.uuid4().hex[:8]}"
    uri = f"{mongo_uri}{'&' if '?' in mongo_uri else '/?'}appName={name}"
    recorder = construct(MONGODB_URI=uri).application_recorder()
    recorder.datastore.store._transaction._give_up_after = 0
    late = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
    fault = {"failCommands": ["commitTransaction"], "appName": name, **late}
    client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fault})
    account = uuid4()
    try:
        if ids:
            assert recorder.insert_events(events(account, [1, 2])) == [1, 2]
        else:
            with pytest.raises(IntegrityError):
                recorder.insert_events(events(account, [1, 2]))
    finally:
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert recorder.select_events(account) == events(account, [1, 2])


def test_a_server_that_does_not_answer_is_an_operational_error(construct: Construct) -> None:
    with pytest.raises(OperationalError, match="127.0.0.1:1"):
        construct(MONGODB_URI="mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=200")


class Orders(Application[UUID]):
    pass


class Shipments(ProcessApplication[UUID]):
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        if isinstance(domain_event, Aggregate.Created):
            processing_event.collect_events(Aggregate())


def test_a_system_of_applications_goes_on_where_it_was_and_handles_every_event_once(
    base: str, mongo_uri: str
) -> None:
    env = {
        "PERSISTENCE_MODULE": "ledgerlake.eventsourcing_mongodb",
        "MONGODB_URI": mongo_uri,
        "MONGODB_DATABASE": base,
    }
    for number in range(2):
        runner = MultiThreadedRunner[UUID](System([[Orders, Shipments]]), env)
        runner.start()
        try:
            orders, shipments = runner.get(Orders), runner.get(Shipments)
            assert shipments.recorder.max_notification_id() == (10 * number or None)
            for _ in range(10):
                orders.save(Aggregate())
            shipments.recorder.wait("Orders", 10 * (number + 1), timeout=180)
            assert shipments.recorder.max_notification_id() == 10 * (number + 1)
        finally:
            runner.stop()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder with the programs of the page, as they are written there."""
    programs = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for name, program in zip(("bank.py", "day.py", "turnover.py"), programs, strict=True):
        (tmp_path / name).write_text(program)
    return tmp_path


@pytest.fixture
def start(example: Path, base: str, mongo_uri: str) -> Callable[..., subprocess.Popen[str]]:
    """Starts Python on the example, with no more settings than a server and where to keep things."""
    environ = {
        **os.environ,
        "LEDGERLAKE_MONGODB_URI": mongo_uri,
        "MONGODB_DATABASE": base,
        "PYTHONPATH": str(_REPOSITORY / "src"),
    }

    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=example,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run


def output(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def test_the_example_of_the_page_runs_as_written_and_finds_its_state_again(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    assert output(start("day.py")) == "Alice 70\nBob 30\n"
    assert output(start("day.py")) == "Alice 140\nBob 60\n"
    # The view counts what was before it, once, and goes on where it was.
    assert output(start("turnover.py")) == "Bob 61\n"
    assert output(start("turnover.py")) == "Bob 62\n"


def test_two_processes_of_one_application_lose_and_double_nothing(
    start: Callable[..., subprocess.Popen[str]], client: Client, base: str
) -> None:
    code = (
        "import sys; from decimal import Decimal; from bank import Bank\n"
        "with Bank() as bank:\n"
        "    for number in range(10):\n"
        "        bank.deposit('Alice', Decimal(2)); bank.transfer('Alice', sys.argv[1], Decimal(1))\n"
    )
    for process in [start("-c", code, receiver) for receiver in ("Bob", "Carol")]:
        output(process)
    show = (
        "from bank import Bank\n"
        "with Bank() as bank: print(*[bank.account(name).balance for name in ('Alice', 'Bob', 'Carol')])"
    )
    assert output(start("-c", show)) == "20 10 10\n"
    positions = [each["position"] for each in client[f"{base}_bank"]["events"].find().sort("position", 1)]
    # Three accounts are opened, 20 deposits, 20 transfers of two events each.
    assert positions == list(range(1, 64))


def test_ledgerlake_does_not_need_the_package() -> None:
    code = (
        "import sys; sys.modules['eventsourcing'] = None\n"
        "import ledgerlake, ledgerlake.application, ledgerlake.cli, ledgerlake.eventstore.store"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
