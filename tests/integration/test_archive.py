"""Archiving: events leave MongoDB for the lake, and nobody who reads notices."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import polars as pl
import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.domain.payment import Status
from ledgerlake.eventstore.archived import ARCHIVED, ArchivedEvents, ArchiveError, Place
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.expected import ANY, exact
from ledgerlake.eventstore.filter import EventFilter
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.lake import retention, segments
from ledgerlake.lake.retention import Archived, archive_streams
from ledgerlake.lake.segments import SegmentInfo
from ledgerlake.lake.tables import refresh_tables
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.projections.rebuild import rebuild
from ledgerlake.reconciliation import NotedHead, archived, verify
from ledgerlake.settings import Settings
from ledgerlake.simulation import simulate
from tests.folding import Models, stored
from tests.restoring import Kept, put_right

BEFORE = datetime(2026, 4, 1, tzinfo=UTC)
NOW = datetime(2026, 9, 1, tzinfo=UTC)
WINDOW = timedelta(days=100)
Db = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("commands") / "commands.parquet"
    pl.DataFrame(list(simulate(commands=900)), infer_schema_length=None).write_parquet(file)
    return file


@pytest.fixture(scope="module")
def sound(
    mongo_uri: str, tmp_path_factory: pytest.TempPathFactory, commands: Path
) -> Iterator[tuple[Settings, Kept]]:
    """A ledger of which nothing is archived, and what it was."""
    home = tmp_path_factory.mktemp("archive")
    own = Settings(home / "home", mongo_uri, f"test_{uuid.uuid4().hex[:16]}", segment_size=150)
    with LedgerLake.open(own) as opened:
        opened.import_file(commands)
        refresh(opened)
        yield own, Kept(opened.db, own.home, home / "copies")
        opened.db.client.drop_database(own.database)


@pytest.fixture
def settings(sound: tuple[Settings, Kept]) -> Settings:
    return sound[0]


@pytest.fixture
def ledger(sound: tuple[Settings, Kept]) -> Iterator[LedgerLake]:
    """The sound ledger, opened anew, and put right again after the test."""
    own, kept = sound
    with put_right(kept), LedgerLake.open(own) as opened:
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


class NotOnTheLoop:
    """The archive, for readers on another thread than the one that it was made on."""

    def __init__(self, archive: ArchivedEvents) -> None:
        self.archive = archive
        self.loop = threading.get_ident()
        self.fetched = 0

    def fetch(self, places: Sequence[Place]) -> list[bytes]:
        assert threading.get_ident() != self.loop
        self.fetched += 1
        return self.archive.fetch(places)


def test_asyncio_reads_the_archive_on_a_thread(ledger: LedgerLake) -> None:
    async def scenario() -> None:
        database = await open_async_database(ledger.settings)
        elsewhere = NotOnTheLoop(ledger.archive)
        try:
            async with AsyncEventStore(database, archive=elsewhere) as store:
                assert [event async for event in store.read_all()] == before
                assert await store.read_stream(one.stream_id) == ledger.store.read_stream(one.stream_id)
                assert (await store.read_streams([one.stream_id]))[one.stream_id][0] == one
                assert one in await store.read_correlation(one.correlation_id)
                assert await store.find_commands([str(one.command_id)]) == {one.command_id: one}
                assert elsewhere.fetched > 4
        finally:
            await database.client.close()

    before = log(ledger.store)
    archive(ledger)
    stub = ledger.db["events"].find_one({ARCHIVED: {"$exists": True}, "version": 1})
    assert stub is not None
    one = before[stub["position"] - 1]
    asyncio.run(scenario())


def test_a_log_with_archived_events_whose_counter_is_lost_is_chained_as_it_was(ledger: LedgerLake) -> None:
    archive(ledger)
    before = ledger.db["counters"].find_one({"_id": "events"})
    assert before is not None
    ledger.db["log_chain"].delete_many({})
    ledger.db["counters"].delete_one({"_id": "events"})
    with LedgerLake.open(ledger.settings) as fresh:
        fresh.store.append(StoredEventAppend(log(fresh.store)[0]).after(None))
        noted = NotedHead(before["position"], before["chain"])
        assert fresh.verify(noted=noted).checks[1].ok


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
    [check] = [check for check in after.checks if check.name == "archived events"]
    assert f"{done.events:,} events" in check.detail
    again = archive(ledger)
    assert (again.events, again.files) == (0, 0)


def test_what_is_held_at_once_is_bounded_and_no_segment_is_read_for_every_few_streams(
    ledger: LedgerLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def read_rows(info: SegmentInfo) -> Any:
        read.append(info.path.name)
        return segments.read_rows(info)

    monkeypatch.setattr(retention, "read_rows", read_rows)
    monkeypatch.setattr(retention, "_STREAMS_AT_ONCE", 20)
    whole = archive(ledger, dry_run=True)
    assert whole.streams > 3 * 20
    assert len(read) == len(set(read)) > 1

    read.clear()
    bound = whole.bytes_before // 3
    monkeypatch.setattr(retention, "_BYTES_A_FILE", bound)
    done = archive(ledger)
    assert (done.streams, done.events, done.files) == (whole.streams, whole.events, 3)
    assert len(read) <= 3 * len(set(read))
    sizes = [
        sum(len(raw) for _, raws in ledger.lake.archive.events(file) for raw in raws)
        for file in ledger.lake.archive.files()
    ]
    assert all(size < bound + 20_000 for size in sizes)
    assert sum(sizes) == whole.bytes_before

    monkeypatch.setattr(archived, "_AT_ONCE", 50)
    with ledger.db.client.start_session(snapshot=True) as session:
        rows = [
            table.num_rows for table in archived.ArchivedPart(ledger.db, session, ledger.archive).tables()
        ]
    assert (sum(rows), max(rows)) == (done.events, 50)
    assert verify(ledger.db, ledger.lake).ok


def test_projections_and_the_lake_are_filled_anew_from_both(ledger: LedgerLake) -> None:
    def models() -> dict[str, Models]:
        return {name: stored(ledger.db, projection) for name, projection in PROJECTIONS.items()}

    before = models()
    segments = {path.name: path.read_bytes() for path in ledger.lake.events_dir.glob("*.parquet")}
    assert archive(ledger).events
    for projection in PROJECTIONS.values():
        with pytest.raises(Exception, match="was archived, and this reader was given no archive"):
            rebuild(ledger.db, projection)
        ledger.rebuild_projection(projection.name)
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

    def after(self, version: int | None) -> Any:
        from ledgerlake.eventstore.model import Append, NewEvent

        e = self.event
        metadata = {key: value for key, value in e.metadata.items() if key != "requestHash"}
        new = NewEvent(
            "PaymentFailed", {**e.data, "attempt": 9, "reason": "late"}, e.timestamp, "c", "c", metadata
        )
        return Append(e.stream_id, e.aggregate_type, [new], ANY if version is None else exact(version))


def test_a_damaged_or_exchanged_archive_is_found_and_never_read(ledger: LedgerLake) -> None:
    archive(ledger)
    kept = ledger.lake.archive
    file = kept.files()[0]
    path = kept.path(file)
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
        (p, raw) for positions, raws in kept.events(file) for p, raw in zip(positions, raws, strict=True)
    ]
    changed = bson.decode(events[0][1])
    changed["eventData"]["amountMinor"] += 1
    events[0] = (events[0][0], bson.encode(changed))
    path.unlink()
    assert kept.write(events) == file
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


PROGRAM = """
import sys
from datetime import datetime, timedelta
from ledgerlake.application import LedgerLake
from ledgerlake.lake import retention
retention._STREAMS_AT_ONCE, retention._BYTES_A_FILE, retention._STUBS_AT_ONCE = 40, 20_000, 7
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
    halfway = 0
    for _ in range(4):
        start = ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}})
        arguments = [sys.executable, "-c", PROGRAM, middle_of(before).isoformat()]
        with subprocess.Popen(arguments, env=environ, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while process.poll() is None:
                if ledger.db["events"].count_documents({ARCHIVED: {"$exists": True}}) > start + 20:
                    process.kill()
                    break
                time.sleep(0.002)  # the processor is the other one's
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
    base = ["archive", "--before", f"{middle(ledger):%Y-%m-%d}", "--json"]

    def run(*more: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*base, *more], env=environ)
        assert done.exit_code == 0, (done.output, done.exception)
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
