"""Archiving: events leave MongoDB for the lake, and nobody who reads notices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import polars as pl
import pytest
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.domain.payment import Status
from ledgerlake.eventstore.archived import ARCHIVED, ArchiveError
from ledgerlake.eventstore.expected import exact
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.lake.retention import Archived, archive_streams
from ledgerlake.lake.tables import refresh_tables
from ledgerlake.projections import PROJECTIONS, advance, reset
from ledgerlake.reconciliation import verify
from ledgerlake.settings import Settings
from ledgerlake.simulation import simulate

BEFORE = datetime(2026, 4, 1, tzinfo=UTC)
NOW = datetime(2026, 9, 1, tzinfo=UTC)
WINDOW = timedelta(days=100)
Db = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("commands") / "commands.parquet"
    pl.DataFrame(list(simulate(commands=900)), infer_schema_length=None).write_parquet(file)
    return file


@pytest.fixture
def ledger(settings: Settings, database: Db, commands: Path) -> Iterator[LedgerLake]:
    own = Settings(settings.home, settings.mongodb_uri, settings.database, segment_size=150)
    with LedgerLake.open(own) as opened:
        opened.import_file(commands)
        refresh(opened)
        yield opened


def refresh(ledger: LedgerLake) -> None:
    """All but the billing reports, which are made of the lake and know nothing of the log."""
    for projection in PROJECTIONS.values():
        advance(ledger.db, projection, archive=ledger.archive)
    ledger.lake.refresh(ledger.db)
    refresh_tables(ledger.lake)


def middle(ledger: LedgerLake) -> datetime:
    """A day that about half of the events are before."""
    [row] = ledger.db["events"].find({"position": ledger.store.head() // 2})
    at: datetime = row["timestamp"]
    return at


def archive(ledger: LedgerLake, **options: Any) -> Archived:
    before = middle(ledger)
    return archive_streams(
        ledger.db, ledger.lake, before, **{"now": before + WINDOW, "refund_window": WINDOW, **options}
    )


def log(store: EventStore) -> list[StoredEvent]:
    return list(store.read_all())


def test_reads_of_every_kind_are_the_same_before_and_after(ledger: LedgerLake) -> None:
    store = ledger.store
    before = log(store)
    done = archive(ledger)
    assert done.events > 100
    assert done.files >= 1
    assert ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}}) == done.events
    assert (
        ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}, "eventData": {"$exists": True}})
        == 0
    )
    assert log(store) == before
    gone = [
        e
        for e in before
        if ledger.db["events"].find_one({"position": e.position, ARCHIVED: {"$exists": True}})
    ]
    one = gone[len(gone) // 2]
    assert store.read_stream(one.stream_id) == [e for e in before if e.stream_id == one.stream_id]
    assert one in store.read_correlation(one.correlation_id)
    assert one.command_id is not None
    assert store.find_commands([one.command_id]) == {one.command_id: one}
    organization = one.metadata["organizationId"]
    wanted = EventFilter.of(event_types=[one.event_type], organizations=[organization])
    assert list(store.read_all(only=wanted)) == [e for e in before if wanted.matches(e)]


def test_only_streams_that_have_ended_leave(ledger: LedgerLake) -> None:
    before = middle(ledger)
    # No refund window is over: only what was refunded whole has ended.
    archive(ledger, refund_window=timedelta(days=9999))
    stubs = ledger.db["events"].distinct("aggregateId", {ARCHIVED: {"$exists": True}})
    assert stubs
    states = {p["_id"]: p for p in ledger.db["payment_read_models"].find({"_id": {"$in": stubs}})}
    assert {state["status"] for state in states.values()} == {Status.REFUNDED}
    assert all(state["lastAt"] < before for state in states.values())


def test_only_what_the_lake_has_sealed_leaves(ledger: LedgerLake) -> None:
    sealed = max(info.to for info in ledger.lake.segments() if info.sealed)
    done = archive_streams(
        ledger.db,
        ledger.lake,
        NOW + timedelta(days=3650),
        now=NOW + timedelta(days=9999),
        refund_window=WINDOW,
    )
    assert done.events
    last = ledger.db["events"].find_one({ARCHIVED: {"$exists": True}}, sort=[("position", -1)])
    assert last is not None
    assert last["position"] <= sealed < ledger.store.head()
    assert done.kept


def test_a_segment_that_says_something_else_stops_it_with_nothing_archived(ledger: LedgerLake) -> None:
    [first] = ledger.db["events"].find({"position": 1})
    other = {**first, "metadata": {**first["metadata"], "organizationId": "someone else"}}
    ledger.db["events"].replace_one({"_id": first["_id"]}, other)
    with pytest.raises(Exception, match="says something else of an event than the log"):
        archive_streams(ledger.db, ledger.lake, NOW, now=NOW + timedelta(days=9999))
    assert ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}}) == 0


def test_verify_covers_both_and_a_second_run_finds_nothing(ledger: LedgerLake) -> None:
    totals = {check.name: check.actual for check in verify(ledger.db, ledger.lake).checks}
    done = archive(ledger)
    after = verify(ledger.db, ledger.lake)
    assert after.ok, after
    assert {c.name: c.actual for c in after.checks} == totals
    [archived] = [check for check in after.checks if check.name == "archived events"]
    assert f"{done.events:,} events" in archived.detail
    again = archive(ledger)
    assert (again.events, again.files) == (0, 0)


def test_projections_and_the_lake_are_filled_anew_from_both(ledger: LedgerLake) -> None:
    def models() -> dict[str, list[Any]]:
        return {name: list(ledger.db[name].find({}, sort=[("_id", 1)])) for name in PROJECTIONS}

    before = models()
    segments = {path.name: path.read_bytes() for path in ledger.lake.events_dir.glob("*.parquet")}
    assert archive(ledger).events
    for projection in PROJECTIONS.values():
        reset(ledger.db, projection)
        with pytest.raises(Exception, match="was archived, and this reader was given no archive"):
            advance(ledger.db, projection)
    for path in ledger.lake.events_dir.glob("*.parquet"):
        path.unlink()
    refresh(ledger)
    assert models() == before
    assert {path.name: path.read_bytes() for path in ledger.lake.events_dir.glob("*.parquet")} == segments
    assert verify(ledger.db, ledger.lake).ok


def test_an_archived_payment_takes_commands_as_before(ledger: LedgerLake, commands: Path) -> None:
    archive(ledger)
    head = ledger.store.head()
    again = ledger.import_file(commands)
    assert (again.accepted, ledger.store.head()) == (0, head)
    [stub] = ledger.db["events"].find({ARCHIVED: {"$exists": True}}, sort=[("position", 1)], limit=1)
    [event] = ledger.store.read_stream(stub["aggregateId"])[:1]
    new = StoredEventAppend(event)
    version = ledger.store.stream_version(event.stream_id)
    assert version is not None
    assert ledger.store.append(new.after(version)).version == version + 1
    assert [e.version for e in ledger.store.read_stream(event.stream_id)] == list(range(1, version + 2))


class StoredEventAppend:
    """An append of one more event like this one."""

    def __init__(self, event: StoredEvent) -> None:
        self.event = event

    def after(self, version: int) -> Any:
        from ledgerlake.eventstore.model import Append, NewEvent

        e = self.event
        metadata = {key: value for key, value in e.metadata.items() if key != "requestHash"}
        new = NewEvent(
            "PaymentFailed", {**e.data, "attempt": 9, "reason": "late"}, e.timestamp, "c", "c", metadata
        )
        return Append(e.stream_id, e.aggregate_type, [new], exact(version))


def test_a_damaged_or_exchanged_archive_is_found_and_never_read(ledger: LedgerLake) -> None:
    archive(ledger)
    archived = ledger.lake.archive
    file = archived.files()[0]
    path = archived.path(file)
    good = path.read_bytes()
    for damage in (b"", good[: len(good) // 2], good[:5_000] + bytes([good[5_000] ^ 1]) + good[5_001:]):
        path.write_bytes(damage)
        with LedgerLake.open(ledger.settings) as fresh:
            with pytest.raises(ArchiveError, match=path.name):
                log(fresh.store)
            found = verify(fresh.db, fresh.lake)
            [check] = [c for c in found.checks if c.name == "archived events"]
            assert not check.ok
            assert any(path.name in difference for difference in check.differences)
    path.write_bytes(good)
    # Another event in the place of one, with a checksum that fits: the digest tells.
    events = [
        (p, raw) for positions, raws in archived.events(file) for p, raw in zip(positions, raws, strict=True)
    ]
    changed = bson.decode(events[0][1])
    changed["eventData"]["amountMinor"] += 1
    events[0] = (events[0][0], bson.encode(changed))
    path.unlink()
    assert archived.write(events) == file
    with LedgerLake.open(ledger.settings) as fresh:
        with pytest.raises(ArchiveError, match="holds another event"):
            log(fresh.store)
        assert not verify(fresh.db, fresh.lake).ok


def test_forgetting_says_that_archived_events_were_not_searched(ledger: LedgerLake) -> None:
    done = archive(ledger)
    assert ledger.forget("nobody").archived == done.events


def test_a_stub_that_was_tampered_with_is_found(ledger: LedgerLake) -> None:
    archive(ledger)
    [stub] = ledger.db["events"].find({ARCHIVED: {"$exists": True}}, limit=1)
    ledger.db["events"].update_one({"_id": stub["_id"]}, {"$set": {"metadata.organizationId": "mine"}})
    [check] = [c for c in verify(ledger.db, ledger.lake).checks if c.name == "archived events"]
    assert not check.ok
    assert "what stayed in the log is not what was archived" in check.differences[0]


CLI = "from ledgerlake.cli import main; main()"
PROGRAM = """
import sys
from datetime import datetime, timedelta
from ledgerlake.application import LedgerLake
from ledgerlake.lake import retention
retention._STREAMS_AT_ONCE, retention._STUBS_AT_ONCE = 40, 7
with LedgerLake.open() as ledger:
    before = datetime.fromisoformat(sys.argv[1])
    print("ready", flush=True)
    retention.archive_streams(
        ledger.db, ledger.lake, before, now=before + timedelta(days=100), refund_window=timedelta(days=100)
    )
"""


def test_killed_half_way_nothing_is_lost_and_the_next_run_does_the_rest(
    ledger: LedgerLake, environ: dict[str, str]
) -> None:
    before = log(ledger.store)
    own = {**environ, "LEDGERLAKE_SEGMENT_SIZE": "150"}
    halfway = 0
    for _ in range(4):
        start = ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}})
        arguments = [sys.executable, "-c", PROGRAM, middle_of(before).isoformat()]
        with subprocess.Popen(arguments, env=own, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while process.poll() is None:
                if ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}}) > start + 20:
                    process.kill()
                    break
            halfway += process.wait() < 0
        assert log(ledger.store) == before
    assert halfway
    archive(ledger)
    assert log(ledger.store) == before
    assert verify(ledger.db, ledger.lake).ok
    assert not list(ledger.settings.home.rglob("*.tmp"))


def middle_of(events: list[StoredEvent]) -> datetime:
    return events[len(events) // 2 - 1].timestamp


def test_the_command_archives_and_says_what_it_did(ledger: LedgerLake, environ: dict[str, str]) -> None:
    own = {**environ, "LEDGERLAKE_SEGMENT_SIZE": "150"}
    base = [sys.executable, "-c", CLI, "archive", "--before", f"{middle(ledger):%Y-%m-%d}", "--json"]

    def run(*more: str) -> dict[str, Any]:
        done = subprocess.run([*base, *more], env=own, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    dry = run("--refund-window", "0", "--dry-run")
    assert dry["events"] > 0
    assert dry["files"] == 0
    assert ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}}) == 0
    done = run("--refund-window", "0")
    assert (done["events"], done["streams"]) == (dry["events"], dry["streams"])
    assert done["bytes_after"] < done["bytes_before"]
    assert run("--refund-window", "0")["events"] == 0
