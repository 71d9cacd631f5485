"""Appends under injected server faults: nothing lost, nothing doubled, nothing falsely refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from ledgerlake.eventstore.expected import ANY
from ledgerlake.eventstore.model import Append, Appended, NewEvent, StoreUnavailable
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings

APP = "append-faults"
Db = Database[dict[str, Any]]


def append(stream: str, command: str | None = None) -> Append:
    event = NewEvent(
        "PaymentProcessed", {"amountMinor": 1}, datetime.now(UTC), "c", "c", {"organizationId": "o"}
    )
    return Append(stream, "Payment", [event], ANY, command, "h" if command else None)


@pytest.fixture
def faulty(settings: Settings) -> Iterator[Db]:
    """A database whose client goes by a name that the fail points pick out."""
    database = open_database(settings, app_name=APP)
    yield database
    database.client.drop_database(database.name)
    database.client.close()


@contextmanager
def fail_point(admin: MongoClient[Any], mode: Any, **data: Any) -> Iterator[None]:
    def configure(mode: Any) -> None:
        admin.admin.command(
            {"configureFailPoint": "failCommand", "mode": mode, "data": {**data, "appName": APP}}
        )

    configure(mode)
    try:
        yield
    finally:
        configure("off")


TRANSIENT = {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}
UNKNOWN_RESULT = {"errorCode": 91, "errorLabels": ["UnknownTransactionCommitResult", "RetryableWriteError"]}
FAULTS = [
    *[
        (command, fault)
        for command in ("findAndModify", "insert")
        for fault in (TRANSIENT, {"closeConnection": True})
    ],
    ("commitTransaction", TRANSIENT),
    ("commitTransaction", UNKNOWN_RESULT),
    ("commitTransaction", {"closeConnection": True}),
    ("commitTransaction", {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}),
]


@pytest.mark.parametrize(("command", "fault"), FAULTS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("mode", [{"times": 1}, {"times": 3}, {"activationProbability": 0.2}], ids=str)
def test_every_append_is_stored_exactly_once(
    faulty: Db, database: Db, command: str, fault: dict[str, Any], mode: Any
) -> None:
    results: list[Appended] = []
    with EventStore(faulty) as store, fail_point(database.client, mode, failCommands=[command], **fault):

        def write(number: int) -> None:
            for i in range(5):
                results.append(store.append(append(f"p-{number}-{i}", f"{number}-{i}")))

        writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert sorted(result.position for result in results) == list(range(1, 41))
    assert [e["position"] for e in faulty["events"].find().sort("position", 1)] == list(range(1, 41))


@pytest.mark.parametrize(
    ("command", "stored"),
    [("c", 1), pytest.param(None, 2, id="negative control: without a command id it is stored twice")],
)
def test_an_append_without_an_answer_is_reported_and_can_be_sent_again(
    faulty: Db, database: Db, command: str | None, stored: int
) -> None:
    """The commit happens, and its confirmation never comes: only the id tells the repetition from news."""
    lost_answer = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
    with EventStore(faulty) as store:
        store._transaction._give_up_after = 0.3
        with (
            fail_point(database.client, "alwaysOn", failCommands=["commitTransaction"], **lost_answer),
            pytest.raises(StoreUnavailable, match="same commands again"),
        ):
            store.append(append("p", command))
        again = store.append(append("p", command))
        assert again.duplicate is (command is not None)
    assert faulty["events"].count_documents({}) == stored
