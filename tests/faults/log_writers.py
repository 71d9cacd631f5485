"""Writers of one log for the tests, each in a process of its own: steady, slow, aborting, and dying ones.

    python -m tests.faults.log_writers KIND SEED THREADS UNTIL_POSITION ACKNOWLEDGED [MOMENT COMMAND NUMBER]

What is acknowledged goes to the file ACKNOWLEDGED at once, a line "POSITION COMMAND" for each append, so that
it outlives the process. A store is slowed down and killed from outside its own code, by a listener of the
driver, right before a command is sent or right after it was answered.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import Int64, ObjectId
from pymongo import monitoring
from pymongo.database import Database
from pymongo.errors import PyMongoError

from ledgerlake.eventstore.expected import ANY
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.transactions import CONCERNS
from ledgerlake.settings import Settings

MOST_EVENTS = 100  # in one append
ABORTED = "Aborted"  # the type of events that nobody must ever see
STARTED, SUCCEEDED = "started", "succeeded"


class Slow(monitoring.CommandListener):
    """Sleeps inside the transaction, right before its commit is sent."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "commitTransaction":
            time.sleep(self._chance.uniform(0.02, 0.2))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


class Dying(monitoring.CommandListener):
    """SIGKILL of this process at the given moment of the command's `number`-th use, once it is armed."""

    def __init__(self, moment: str, command: str, number: int) -> None:
        self._moment = moment
        self._command = command
        self._left = number
        self.armed = False

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._look(STARTED, event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._look(SUCCEEDED, event.command_name)

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    def _look(self, moment: str, command: str) -> None:
        if self.armed and (moment, command) == (self._moment, self._command):
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def write(store: EventStore, name: str, until: int, acknowledged: int, pause: float) -> None:
    """Append to this writer's own streams, some events at a time, until the log is long enough."""
    chance = random.Random(name)
    position = number = 0
    while position < until:
        number += 1
        command = f"{name}-{number}"
        event = NewEvent("PaymentProcessed", {"amountMinor": number}, datetime.now(UTC), command, command)
        events = [event] * chance.randint(1, MOST_EVENTS)
        stream = f"{name}-{chance.randrange(50)}"
        position = store.append(Append(stream, "Payment", events, ANY, command, "h")).position
        os.write(acknowledged, f"{position} {command}\n".encode())
        if pause:
            time.sleep(chance.uniform(0, 2 * pause))


def abort(database: Database[dict[str, Any]], name: str, until: int) -> None:
    """Take positions and store events at them, as the store does, think about it, and abort."""
    chance = random.Random(name)
    position = aborted = 0
    while position < until:
        with database.client.start_session() as session:
            try:
                with session.start_transaction(**CONCERNS):
                    wanted = chance.randint(1, MOST_EVENTS)
                    counter = database["counters"].find_one_and_update(
                        {"_id": "events"}, {"$inc": {"position": Int64(wanted)}}, session=session
                    )
                    assert counter is not None
                    position = counter["position"]
                    database["events"].insert_many(
                        [document(name, position + 1 + i) for i in range(wanted)], session=session
                    )
                    time.sleep(chance.uniform(0, 0.02))
                    session.abort_transaction()
                    aborted += 1
            except PyMongoError as error:
                if not error.has_error_label("TransientTransactionError"):
                    raise
        time.sleep(chance.uniform(0, 0.2))
    print(aborted)


def document(name: str, position: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "_id": ObjectId(),
        "version": Int64(position),
        "position": Int64(position),
        "recordedAt": now,
        "aggregateId": name,
        "aggregateType": "Payment",
        "eventType": ABORTED,
        "eventData": {},
        "timestamp": now,
        "correlationId": name,
        "causationId": name,
        "metadata": {},
        "schemaVersion": 1,
    }


def main(kind: str, seed: str, threads: int, until: int, acknowledged: Path, *fate: str) -> None:
    dying = None
    if kind == "slow":
        monitoring.register(Slow(random.Random(seed)))
    elif kind == "dying":
        moment, command, number = fate
        dying = Dying(moment, command, int(number))
        monitoring.register(dying)
        until = sys.maxsize
    database = open_database(Settings.from_env())
    if dying is not None:
        dying.armed = True
    names = [f"{kind}-{seed}-{number}" for number in range(threads)]
    if kind == "aborting":
        writers = [threading.Thread(target=abort, args=(database, name, until)) for name in names]
        run(writers)
        return
    file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pause = 1.0 if kind == "slow" else 0.0
    with EventStore(database) as store:
        run([threading.Thread(target=write, args=(store, name, until, file, pause)) for name in names])


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), *sys.argv[6:])
