"""Appends under injected server faults: nothing lost, nothing doubled, nothing falsely refused."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from ledgerlake.eventstore.expected import ANY, NO_STREAM, ExpectedVersion, after, exact
from ledgerlake.eventstore.model import Append, Appended, ConcurrencyError, NewEvent, StoreUnavailable
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo import connection
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings
from tests.faults.listening import Record, Sent, listening

APP = "append-faults"  # the name of the client whose commands fail, and nobody else's
SEED = 20261128
WRITERS = 32
SENT_BY_EACH = 7
Db = Database[dict[str, Any]]


def append(
    stream: str, command: str | None = None, expected: ExpectedVersion = ANY, events: int = 1
) -> Append:
    event = NewEvent(
        "PaymentProcessed", {"amountMinor": 1}, datetime.now(UTC), "c", "c", {"organizationId": "o"}
    )
    return Append(stream, "Payment", [event] * events, expected, command, "h" if command else None)


@contextmanager
def fail_point(client: MongoClient[Any], mode: Any, **data: Any) -> Iterator[list[int]]:
    """The fail point, for APP only, until the block ends; then the list says how often it struck."""
    struck: list[int] = []

    def configure(mode: Any) -> Any:
        return client.admin.command(
            {"configureFailPoint": "failCommand", "mode": mode, "data": {**data, "appName": APP}}
        )

    before = configure(mode)["count"]
    try:
        yield struck
    finally:
        struck.append(configure("off")["count"] - before)


CLOSED: dict[str, Any] = {"closeConnection": True}
SLOW: dict[str, Any] = {"blockConnection": True, "blockTimeMS": 20}
LOST_ANSWER: dict[str, Any] = {
    "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}
}
TRANSIENT: dict[str, dict[str, Any]] = {
    name: {"errorCode": code, "errorLabels": ["TransientTransactionError"]}
    for name, code in {"WriteConflict": 112, "ShutdownInProgress": 91, "NoSuchTransaction": 251}.items()
}
UNKNOWN: dict[str, Any] = {
    "errorCode": 91,
    "errorLabels": ["UnknownTransactionCommitResult", "RetryableWriteError"],
}
BODY_FAULTS = {"connection closed": CLOSED, "slow": SLOW, **TRANSIENT}
COMMIT_FAULTS = {**BODY_FAULTS, "unknown result": UNKNOWN, "answer lost": LOST_ANSWER}
FAULTS = [
    *[
        (command, name)
        for command in ("findAndModify", "update", "insert", "find", "aggregate")
        for name in BODY_FAULTS
    ],
    *[("commitTransaction", name) for name in COMMIT_FAULTS],
]
MODES: dict[str, dict[str, Any]] = {
    "once": {"times": 1},
    "twice": {"times": 2},
    "at 20 %": {"activationProbability": 0.2},
}


@dataclass(frozen=True, slots=True)
class Log:
    """One log for all cases: `faulty` is the client that the fail points pick out, `clean` another one."""

    faulty: Db
    clean: Db


@pytest.fixture(scope="module")
def log(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    home: Path = tmp_path_factory.mktemp("append-faults")
    settings = Settings(home=home, mongodb_uri=mongo_uri, database=f"test_{uuid.uuid4().hex[:16]}")
    with pytest.MonkeyPatch.context() as patch:
        # A client that lost a connection sends nothing before its next look at the server.
        patch.setitem(connection._REMOTE_DEFAULTS, "heartbeatFrequencyMS", 500)
        log = Log(open_database(settings, app_name=APP), open_database(settings))
    yield log
    log.clean.client.drop_database(settings.database)
    log.faulty.client.close()
    log.clean.client.close()


@pytest.fixture
def faulty(settings: Settings) -> Iterator[Db]:
    """A database of its own whose client goes by a name that the fail points pick out."""
    database = open_database(settings, app_name=APP)
    yield database
    database.client.drop_database(database.name)
    database.client.close()


@dataclass(slots=True)
class Writer:
    """Appends to streams of its own, so it knows what each append must come to, and notes what is otherwise.

    After some plain appends it mixes in repetitions and conflicts, for which the store reads.
    """

    store: EventStore
    name: str
    version: int = 0
    stored: dict[str, Appended] = field(default_factory=dict)  # by command
    anonymous: list[Appended] = field(default_factory=list)  # without a command id
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.name)
        for number in range(SENT_BY_EACH):
            command = f"{self.name}-{number}"
            try:
                deed = "go on" if number < SENT_BY_EACH // 2 else chance.choice(DEEDS)
                self.send(deed, command, chance)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
                self.wrong.append(f"{command}: {type(error).__name__}: {error}")

    def send(self, deed: str, command: str, chance: random.Random) -> None:
        events = chance.randint(1, 3)
        match deed:
            case "go on":
                result = self.store.append(append(self.name, command, after(self.version), events))
                self.version += events
                self.note(result, command, self.version)
            case "open":
                result = self.store.append(append(f"{self.name}/{command}", command, NO_STREAM, 2))
                self.note(result, command, 2)
            case "without id":
                result = self.store.append(append(self.name, None, exact(self.version), events))
                self.version += events
                self.note(result, None, self.version)
            case "repeat":
                earlier = chance.choice(list(self.stored))
                first = self.stored[earlier]
                result = self.store.append(append(first.stream_id, earlier, NO_STREAM, events))
                if result != replace(first, duplicate=True):
                    self.wrong.append(f"{earlier} again: {result}, and at first it was {first}")
            case "conflict":
                try:
                    result = self.store.append(append(self.name, command, exact(self.version + 7), events))
                    self.wrong.append(f"{command} was to be refused: {result}")
                except ConcurrencyError as error:
                    if error.actual != self.version:
                        self.wrong.append(f"{command}: {error}, but it is at {self.version}")

    def note(self, result: Appended, command: str | None, version: int) -> None:
        if result.duplicate or result.version != version:
            self.wrong.append(f"{command}: {result}, but it was new and makes version {version}")
        if command is None:
            self.anonymous.append(result)
        else:
            self.stored[command] = result


DEEDS = ("go on", "go on", "open", "without id", "repeat", "conflict")


def test_the_cases_make_20_000_appends() -> None:
    assert len(FAULTS) * len(MODES) * WRITERS * SENT_BY_EACH >= 20_000


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("command", "fault"), FAULTS)
def test_no_fault_loses_doubles_or_falsely_refuses_an_append(
    log: Log, command: str, fault: str, mode: str
) -> None:
    case = f"{SEED}/{command}/{fault}/{mode}"
    print(f"seed {case}")
    with EventStore(log.faulty) as store:
        before = store.head()
        writers = [Writer(store, f"{case}/{number}") for number in range(WRITERS)]
        threads = [threading.Thread(target=writer.run) for writer in writers]
        with fail_point(
            log.clean.client, MODES[mode], failCommands=[command], **COMMIT_FAULTS[fault]
        ) as struck:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print(f"struck {struck[0]} times")
    assert struck[0] >= MODES[mode].get("times", 0)
    assert [wrong for writer in writers for wrong in writer.wrong] == []

    with EventStore(log.clean) as store:
        events = list(store.read_all(after=before))
        assert store.head() == before + len(events)
    commands = [event.command_id for event in events if event.command_id is not None]
    acknowledged = {command for writer in writers for command in writer.stored}
    assert sorted(commands) == sorted(acknowledged)
    at = {event.position: (event.stream_id, event.version, event.command_id) for event in events}
    for writer in writers:
        promised = [*writer.stored.items(), *((None, result) for result in writer.anonymous)]
        for command_id, result in promised:
            assert at[result.position] == (result.stream_id, result.version, command_id)
        own = [event.version for event in events if event.stream_id == writer.name]
        assert own == list(range(1, writer.version + 1))


def unknown(sent: Sent) -> bool:
    """Whether it was a commit, and what came back leaves open what became of it."""
    if sent.command != "commitTransaction":
        return False
    labels = sent.reply.get("errorLabels", ())
    return "writeConcernError" in sent.reply or (
        not sent.reply.get("ok") and labels != ["TransientTransactionError"]
    )


@pytest.mark.parametrize(
    ("fault", "times"), [("answer lost", 9), ("unknown result", 2), ("connection closed", 2)]
)
def test_an_unknown_commit_is_asked_for_again_until_it_is_known(
    settings: Settings, database: Db, fault: str, times: int
) -> None:
    """On the same session and transaction, with nothing in between: never read and then sent anew."""
    record = Record()
    with listening(settings, record, APP) as faulty, EventStore(faulty) as store:
        store.append(append("p", "first"))
        record.sent.clear()
        with fail_point(
            database.client, {"times": times}, failCommands=["commitTransaction"], **COMMIT_FAULTS[fault]
        ) as struck:
            result = store.append(append("p"))
    assert result == Appended("p", 2, 2)
    assert [event["position"] for event in database["events"].find().sort("position", 1)] == [1, 2]
    assert struck == [times]
    assert sum(map(unknown, record.sent)) == times
    for sent, following in itertools.pairwise(record.sent):
        if unknown(sent):
            assert (following.command, following.transaction) == (sent.command, sent.transaction)
    assert not unknown(record.sent[-1])


@pytest.mark.parametrize(
    ("command", "stored"),
    [("c", 1), pytest.param(None, 2, id="negative control: without a command id it is stored twice")],
)
def test_an_append_without_an_answer_is_reported_and_can_be_sent_again(
    faulty: Db, database: Db, command: str | None, stored: int
) -> None:
    """The commit happens, and its confirmation never comes: only the id tells the repetition from news."""
    with EventStore(faulty) as store:
        store._transaction._give_up_after = 0.3
        with (
            fail_point(database.client, "alwaysOn", failCommands=["commitTransaction"], **LOST_ANSWER),
            pytest.raises(StoreUnavailable, match="same commands again"),
        ):
            store.append(append("p", command))
        again = store.append(append("p", command))
        assert again.duplicate is (command is not None)
    assert faulty["events"].count_documents({}) == stored
