"""A replica set of three members on this host, to be killed, stopped and brought back."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.ports import free_ports

NAME = "three"
PATIENCE = 180.0  # seconds for what takes two or three

# A primary that says nothing for so long is replaced. The server's default is ten seconds.
ELECTION = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 1}

_ARGUMENTS = (
    *("--bind_ip", "127.0.0.1"),
    "--nounixsocket",
    *("--replSet", NAME),
    *("--networkMessageCompressors", "snappy,zstd"),
    *("--wiredTigerCacheSizeGB", "0.25"),
    *("--oplogSize", "256"),
    *("--setParameter", "transactionLifetimeLimitSeconds=3"),
    *("--setParameter", "enableTestCommands=1"),
    # How long a secondary waits in vain for the one that it copies from, and how long it then tries it again.
    # With the defaults, 5 and 2, a hung primary keeps the majority from its successor after the election.
    *("--setParameter", "oplogNetworkTimeoutBufferSeconds=1"),
    *("--setParameter", "oplogRetriedFindMaxSeconds=1"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    "--quiet",
)


@dataclass(slots=True)
class Member:
    """One mongod. `process` is None while it is dead."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    client: MongoClient[dict[str, Any]] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def replicate(self, on: bool) -> None:
        """Let this secondary take over what the primary writes, or not, while it votes as ever."""
        mode = "off" if on else "alwaysOn"
        assert self.ask({"configureFailPoint": "stopReplProducer", "mode": mode})

    def ask(self, command: str | dict[str, Any]) -> dict[str, Any]:
        """What this very member answers; nothing if it does not, or not soon."""
        if self.process is None or self.stopped:
            return {}
        if self.client is None:
            options = ("connectTimeoutMS", "socketTimeoutMS", "heartbeatFrequencyMS")
            patience: dict[str, Any] = {**dict.fromkeys(options, 1_000), "serverSelectionTimeoutMS": 250}
            self.client = MongoClient(self.address, directConnection=True, **patience)
        try:
            return self.client.admin.command(command)
        except PyMongoError:
            return {}

    def hang_up(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None


class ThreeMembers:
    """The set and its members. Only processes that it started itself are signalled."""

    def __init__(self, mongod: Path, folder: Path) -> None:
        self._mongod = mongod
        self.members = [Member(folder / f"member-{port}", port) for port in free_ports(3)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={NAME}"

    def start(self, member: Member) -> None:
        member.folder.mkdir(parents=True, exist_ok=True)
        place = ("--dbpath", str(member.folder), "--port", str(member.port))
        member.process = subprocess.Popen(
            [str(self._mongod), *_ARGUMENTS, *place, "--logpath", str(member.folder / "mongod.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def initiate(self) -> None:
        """Start all members and return once one is primary and the others follow it."""
        for member in self.members:
            self.start(member)
        members = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        _until(lambda: bool(self.members[0].ask("ping")), "the first member answers")
        config = {"_id": NAME, "version": 1, "members": members, "settings": ELECTION}
        client: MongoClient[dict[str, Any]] = MongoClient(self.members[0].address, directConnection=True)
        with client:
            _until(lambda: all(member.ask("ping") for member in self.members), "every member answers")
            client.admin.command("replSetInitiate", config)
        self.wait_until_healthy()

    def primary(self) -> Member:
        """The member that is primary, as soon as there is one."""
        found: list[Member] = []

        def look() -> bool:
            found[:] = [member for member in self.members if member.ask("hello").get("isWritablePrimary")]
            return len(found) == 1

        _until(look, "there is one primary")
        return found[0]

    def wait_until_healthy(self) -> None:
        """Until one is primary, and the others follow it and have what it had when this was asked.

        One that is called secondary but still far behind can not stand in for another: with it, the next one
        that fails would be the second at once, and three members bear one.
        """

        def look() -> bool:
            states = self.primary().ask("replSetGetStatus").get("members", [])
            return sorted(state["stateStr"] for state in states) == ["PRIMARY", "SECONDARY", "SECONDARY"]

        def journaled(member: Member) -> Any:
            return member.ask("replSetGetStatus").get("optimes", {}).get("durableOpTime", {}).get("ts")

        def caught_up() -> bool:
            found = [journaled(member) for member in self.members]
            return None not in found and min(found) >= wanted

        _until(look, "all three members are back")
        wanted = journaled(self.primary())
        if wanted is None:
            self.wait_until_healthy()
        else:
            _until(caught_up, "all three members have caught up")

    def kill(self, member: Member) -> None:
        """kill -9."""
        assert member.process is not None
        member.process.kill()
        member.process.wait()
        member.process, member.stopped = None, False
        member.hang_up()

    def stop(self, member: Member) -> None:
        """SIGSTOP: it keeps its connections, and answers nothing."""
        assert member.process is not None
        member.process.send_signal(signal.SIGSTOP)
        member.stopped = True
        member.hang_up()

    def go_on(self, member: Member) -> None:
        assert member.process is not None
        member.process.send_signal(signal.SIGCONT)
        member.stopped = False

    def close(self) -> None:
        for member in self.members:
            if member.process is not None:
                self.kill(member)


@contextmanager
def three_members(mongod: Path, folder: Path) -> Iterator[ThreeMembers]:
    """A healthy set of three; its processes are gone afterwards."""
    members = ThreeMembers(mongod, folder)
    try:
        members.initiate()
        yield members
    finally:
        members.close()


def _until(reached: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < give_up, f"{PATIENCE:.0f} s, and still not: {what}"
        time.sleep(0.05)
