"""Three members, and the primary dies or hangs under 64 writers: what was acknowledged is there, once."""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from ledgerlake.eventstore.expected import after
from ledgerlake.eventstore.model import Append, Appended, NewEvent, StoreUnavailable
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.binary import EmbeddedUnavailable, find_mongod
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.transactions import CONCERNS
from ledgerlake.settings import Settings
from tests.faults.three_members import ThreeMembers, three_members

SEED = 20261126
WRITERS = 64
KILLS = 5
STOPS = 3
THINK_SECONDS = 0.5  # so that the writers leave the members some of the processor
ENOUGH = 2 * WRITERS  # acknowledgements before the next blow: the writers are well under way again
HUNG_SECONDS = 180.0


@pytest.fixture(scope="module")
def members(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[[object, str], None]
) -> Iterator[ThreeMembers]:
    if sys.platform != "linux":
        pytest.skip("not applicable: three members on one host are tried on Linux")
    try:
        mongod = find_mongod()
    except EmbeddedUnavailable as error:
        require(None, str(error))
        raise
    folder = tmp_path_factory.mktemp("members")
    with three_members(mongod, folder) as started:
        yield started
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(members: ThreeMembers, tmp_path: Path) -> Iterator[Database[dict[str, Any]]]:
    """With the options that any client of ours has: nothing is tuned for this test."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    opened = open_database(Settings(home=tmp_path / "home", mongodb_uri=members.uri, database=name))
    try:
        members.wait_until_healthy()
        yield opened
    finally:
        opened.client.close()


@dataclass(slots=True)
class Writers:
    """64 threads that append to their own streams through one store, and note what was acknowledged."""

    store: EventStore
    acknowledged: list[tuple[float, int, str]] = field(default_factory=list)
    repeats: int = 0
    wrong: list[Exception] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def write(self, number: int) -> None:
        chance = random.Random(f"{SEED}-{number}")
        version = 0
        while not self.ending.is_set():
            command = f"{number}-{version}"
            event = NewEvent("PaymentProcessed", {"n": version}, datetime.now(UTC), command, command)
            events = [event] * chance.randint(1, 3)
            # On nobody's stream but its own: a conflict would be a false one.
            append = Append(f"stream-{number}", "Payment", events, after(version), command, "h")
            try:
                result = self.store.append(append)
            except StoreUnavailable:
                self.repeats += 1
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
                self.wrong.append(error)
                return
            self.acknowledged.append((time.monotonic(), result.position, command))
            version = result.version
            self.ending.wait(chance.uniform(0, 2 * THINK_SECONDS))

    def wait_for(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        give_up = time.monotonic() + HUNG_SECONDS
        while len(self.acknowledged) < wanted and not self.wrong:
            assert time.monotonic() < give_up, f"no append was acknowledged for {HUNG_SECONDS:.0f} s"
            time.sleep(0.01)

    def longest_pause(self, since: float) -> float:
        times = [since, *(at for at, _, _ in self.acknowledged if at > since)]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_or_doubled_while_primaries_die_and_hang(
    members: ThreeMembers, database: Database[dict[str, Any]]
) -> None:
    chance = random.Random(SEED)
    blows = [*["kill -9"] * KILLS, *["SIGSTOP"] * STOPS]
    chance.shuffle(blows)
    pauses: list[tuple[str, float]] = []
    with EventStore(database) as store:
        writers = Writers(store)
        threads = [threading.Thread(target=writers.write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            for blow in blows:
                writers.wait_for(ENOUGH)
                time.sleep(chance.uniform(0, 0.1))
                victim = members.primary()
                struck = time.monotonic()
                members.kill(victim) if blow == "kill -9" else members.stop(victim)
                members.primary()  # another one
                writers.wait_for(ENOUGH)
                pauses.append((blow, writers.longest_pause(struck)))
                members.start(victim) if blow == "kill -9" else members.go_on(victim)
                members.wait_until_healthy()
            writers.wait_for(ENOUGH)
        finally:
            writers.ending.set()
            for thread in threads:
                thread.join()
        assert writers.wrong == []
        stored = list(store.read_all())
    shown = ", ".join(f"{blow} {pause:.1f} s" for blow, pause in pauses)
    print(f"seed {SEED}; {len(writers.acknowledged)} appends acknowledged, {writers.repeats} sent again")
    print(f"longest pause {max(pause for _, pause in pauses):.1f} s: {shown}")

    assert [event.position for event in stored] == list(range(1, len(stored) + 1))
    ends = {event.command_id: event.position for event in stored if event.command_id is not None}
    times_stored = Counter(event.command_id for event in stored if event.command_id is not None)
    assert [command for command, count in times_stored.items() if count > 1] == []
    assert {command: position for _, position, command in writers.acknowledged} == ends
    versions: dict[str, list[int]] = {}
    for event in stored:
        versions.setdefault(event.stream_id, []).append(event.version)
    assert len(versions) == WRITERS
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())


def test_what_only_the_primary_has_is_not_acknowledged_and_the_negative_control_loses_it(
    members: ThreeMembers, database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secondaries vote but take nothing over, one append asks for one member and one for the majority."""

    def one_event(stream: str) -> Append:
        event = NewEvent("PaymentProcessed", {"n": 1}, datetime.now(UTC), stream, stream)
        return Append(stream, "Payment", [event], after(0), stream, "h")

    def append_until_it_is_known(store: EventStore, append: Append) -> None:
        while not results:
            try:
                results.append(store.append(append))
            except StoreUnavailable:  # as long as an election may take on a busy machine
                continue

    results: list[Appended] = []
    primary = members.primary()
    others = [member for member in members.members if member is not primary]
    with EventStore(database) as store:
        store.append(one_event("before"))
        members.wait_until_healthy()
        for member in others:
            member.replicate(False)
        with monkeypatch.context() as patch:
            patch.setitem(CONCERNS, "write_concern", WriteConcern(w=1, j=True))
            assert store.append(one_event("by one member")).position == 2
        writer = threading.Thread(target=append_until_it_is_known, args=(store, one_event("by a majority")))
        writer.start()
        time.sleep(0.5)  # for a wrong acknowledgement to show itself; a right one can not come
        assert results == []
        members.kill(primary)
        for member in others:
            member.replicate(True)
        members.primary()
        writer.join()
        assert [result.position for result in results] == [2]
        assert [event.stream_id for event in store.read_all()] == ["before", "by a majority"]
    members.start(primary)
