"""A connection keeps the ledger's promises whatever its URI says; a server that cannot is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from ledgerlake.mongo.binary import find_mongod
from ledgerlake.mongo.connection import MongoUnreachable, MongoUnsuitable, connect, open_database
from ledgerlake.mongo.embedded import ensure_running, status, stop
from ledgerlake.mongo.indexes import COLLECTIONS, INDEXES, ensure_schema
from ledgerlake.reconciliation.model import Figure
from ledgerlake.reconciliation.sums import ControlSums
from ledgerlake.settings import Settings
from tests.ports import free_ports


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port that nobody listens on: it is held as long as the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[str]:
    """A real mongod without a replica set."""
    [port] = free_ports(1)
    data = tmp_path / "standalone"
    data.mkdir()
    command = [
        find_mongod(),
        "--dbpath",
        data,
        "--port",
        str(port),
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"mongodb://127.0.0.1:{port}/"
    process.terminate()
    process.wait(timeout=30)
    shutil.rmtree(data, ignore_errors=True)


def test_a_standalone_mongod_is_refused_with_a_remedy(standalone: str, tmp_path: Path) -> None:
    with pytest.raises(MongoUnsuitable, match="standalone") as caught:
        open_database(Settings(home=tmp_path, mongodb_uri=standalone))
    assert "--replSet" in str(caught.value)
    assert standalone in str(caught.value)


def test_where_no_server_of_a_replica_set_counts_writes_sums_are_not_kept(standalone: str) -> None:
    """As on a sharded cluster, where each shard would count for itself."""
    name = "payment_statistics"
    found = {"organizationId": "acme", "currency": "EUR", "status": "completed", "count": 1, "totalMinor": 7}
    with MongoClient[dict[str, Any]](standalone, tz_aware=True) as client:
        db = client["ledger"]
        db[name].insert_one(found)
        for _ in range(2):
            sums, since = ControlSums(db, name).of_read_model(name)
            assert (sums, since) == ({("acme", "EUR", "completed"): Figure(1, 7)}, None)
        assert db.list_collection_names() == [name]


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path, nobodys_port: int) -> None:
    uri = f"mongodb://finance:s3cret@127.0.0.1:{nobodys_port}/?serverSelectionTimeoutMS=300"
    with pytest.raises(MongoUnreachable, match="LEDGERLAKE_MONGODB_URI") as caught:
        connect(Settings(home=tmp_path, mongodb_uri=uri))
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_credentials_that_are_refused_are_said_to_be(mongo_uri: str, tmp_path: Path) -> None:
    uri = mongo_uri.replace("mongodb://", "mongodb://finance:s3cret@")
    with pytest.raises(MongoUnreachable, match="password") as caught:
        connect(Settings(home=tmp_path, mongodb_uri=uri))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["mongodb://", "mongodb://host:notaport/", "mongodb://h/?directConnection=true&loadBalanced=true"]
)
def test_an_address_that_makes_no_sense_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(MongoUnreachable, match="LEDGERLAKE_MONGODB_URI"):
        connect(Settings(home=tmp_path, mongodb_uri=uri))


def test_a_uri_cannot_weaken_what_an_acknowledgement_means(mongo_uri: str, tmp_path: Path) -> None:
    weak = f"{mongo_uri}&w=0&journal=false&readConcernLevel=local&readPreference=secondary&retryWrites=false"
    for uri in (mongo_uri, weak):
        with connect(Settings(home=tmp_path, mongodb_uri=uri)) as client:
            assert client.write_concern.document == {"w": "majority", "j": True}
            assert client.read_concern.level == "majority"
            assert client.read_preference.name == "Primary"
            assert client.options.retry_writes
            assert client.codec_options.tz_aware


def test_a_uri_decides_on_timeouts(mongo_uri: str, tmp_path: Path) -> None:
    with connect(Settings(home=tmp_path, mongodb_uri=f"{mongo_uri}&connectTimeoutMS=7000")) as client:
        assert client.options.pool_options.connect_timeout == 7.0


def test_a_server_that_hangs_is_given_up_within_seconds(tmp_path: Path) -> None:
    """SIGSTOP: the sockets stay open and nobody answers."""
    server = Settings(home=tmp_path / "home")
    uri = ensure_running(server)
    pid = status(server).pid
    assert pid is not None
    try:
        with connect(Settings(home=tmp_path, mongodb_uri=f"{uri}&serverSelectionTimeoutMS=2000")) as client:
            client.test.marks.insert_one({})
            time.sleep(1.5)  # the heartbeat must be streaming
            waker = threading.Timer(60, os.kill, (pid, signal.SIGCONT))
            waker.start()
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(AutoReconnect):
                client.test.marks.insert_one({})
            assert waker.is_alive(), "it was given up before it went on"
            waker.cancel()
    finally:
        os.kill(pid, signal.SIGCONT)
        stop(server)
        shutil.rmtree(server.home, ignore_errors=True)


def test_the_schema_has_every_collection_and_every_named_index(database: Any) -> None:
    assert set(COLLECTIONS) <= set(database.list_collection_names())
    for index in INDEXES:
        assert index.serves, index.name
        found = database[index.collection].index_information()[index.name]
        assert [tuple(key) for key in found["key"]] == list(index.keys)
        assert found.get("unique", False) == index.unique
    assert database.counters.find_one({"_id": "events"}) == {"_id": "events", "position": Int64(0)}


def test_no_index_makes_events_expire(database: Any) -> None:
    for name in COLLECTIONS:
        assert not [index for index in database[name].list_indexes() if "expireAfterSeconds" in index]


def test_the_log_refuses_a_second_event_with_the_same_position_version_or_command(database: Any) -> None:
    event = {"aggregateId": "p1", "version": 1, "position": 1, "commandId": "c1"}
    database.events.insert_one(dict(event))
    for clash in (
        {"aggregateId": "p2", "version": 1, "position": 1, "commandId": "c2"},
        {"aggregateId": "p1", "version": 1, "position": 2, "commandId": "c2"},
        {"aggregateId": "p2", "version": 1, "position": 2, "commandId": "c1"},
    ):
        with pytest.raises(DuplicateKeyError):
            database.events.insert_one(clash)
    # Control: what clashes in nothing goes in, and events without a command do not clash with each other.
    database.events.insert_one({"aggregateId": "p2", "version": 1, "position": 2})
    database.events.insert_one({"aggregateId": "p2", "version": 2, "position": 3})


class Commands(CommandListener):
    """The names of the commands that were sent, but for those about sessions."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name != "endSessions":
            self.sent.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def test_setting_up_again_changes_nothing_and_is_cheap(settings: Settings, database: Any) -> None:
    database.counters.update_one({"_id": "events"}, {"$inc": {"position": 7}})
    before = {name: database[name].index_information() for name in COLLECTIONS}
    commands = Commands()
    with MongoClient(settings.mongodb_uri, event_listeners=[commands]) as client:
        ensure_schema(client[database.name])
    assert {name: database[name].index_information() for name in COLLECTIONS} == before
    assert database.counters.find_one({"_id": "events"})["position"] == 7
    assert set(commands.sent) == {"listCollections", "listIndexes", "find"}
    assert len(commands.sent) <= len(COLLECTIONS) + 2


def test_a_collection_that_was_dropped_comes_back_with_its_indexes(database: Any) -> None:
    database.command_rejections.drop()
    ensure_schema(database)
    assert "rejections_reason" in database.command_rejections.index_information()


def test_a_lost_counter_goes_on_after_the_last_position(database: Any) -> None:
    database.events.insert_many([{"aggregateId": "p", "version": n, "position": n} for n in range(1, 6)])
    database.counters.drop()
    ensure_schema(database)
    assert database.counters.find_one({"_id": "events"})["position"] == 5


def test_several_can_set_up_one_database_at_once(settings: Settings) -> None:
    def opened(_: int) -> list[str]:
        db = open_database(settings)
        with db.client:
            return sorted(db.events.index_information())

    with ThreadPoolExecutor(8) as pool:
        assert len({tuple(names) for names in pool.map(opened, range(8))}) == 1
    with connect(settings) as client:
        assert client[settings.database].counters.count_documents({}) == 1
        client.drop_database(settings.database)


def test_an_index_of_the_same_name_and_another_meaning_is_reported(settings: Settings) -> None:
    with connect(settings) as client:
        client[settings.database].command_rejections.create_index("detail", name="rejections_reason")
        with pytest.raises(MongoUnsuitable, match="rejections_reason") as caught:
            open_database(settings)
        assert settings.database in str(caught.value)
        assert isinstance(caught.value.__cause__, OperationFailure)
        client.drop_database(settings.database)


def test_the_writes_of_a_transaction_take_effect_together_or_not_at_all(database: Any) -> None:
    def write(session: ClientSession) -> None:
        database.counters.update_one({"_id": "events"}, {"$inc": {"position": 2}}, session=session)
        database.events.insert_one({"aggregateId": "p", "version": 1, "position": 1}, session=session)
        database.events.insert_one({"aggregateId": "p", "version": 1, "position": 2}, session=session)

    with database.client.start_session() as session, pytest.raises(DuplicateKeyError):
        session.with_transaction(write)
    assert database.events.count_documents({}) == 0
    assert database.counters.find_one({"_id": "events"})["position"] == 0
