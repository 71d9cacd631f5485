"""The event lake: whatever happens to a refresh, the files are a pure function of the log."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from bson import Int64, ObjectId
from pymongo.database import Database

from ledgerlake.eventstore.columnar import SCHEMA, GapError, read_columns
from ledgerlake.lake import maintenance
from ledgerlake.lake.errors import CorruptFileError, LakeError, OutdatedFileError
from ledgerlake.lake.event_lake import EventLake, LakeRefresh
from ledgerlake.lake.segments import Segment, read_rows, write_segment
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def contents(lake: EventLake) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lake.events_dir.glob("*.parquet"))
    }


def states(lake: EventLake) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in lake.events_dir.glob("*.parquet")}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}


def test_the_lake_holds_every_event_of_the_log_once_and_in_order(database: Db, root: Path) -> None:
    insert_events(database, payment_history(1, 2_350))
    lake = EventLake(root, 1_000)
    assert lake.refresh(database) == LakeRefresh(0, 2_350, 2_350, 3)
    assert sorted(contents(lake)) == [
        "events-000000000001-000000001000.parquet",
        "events-000000001001-000000002000.parquet",
        "events-000000002001-000000003000.parquet",
    ]
    expected = read_columns(database, 0, 2_350)
    assert lake.scan().collect().equals(pl.DataFrame(pl.from_arrow(expected)))
    with lake.duckdb() as connection:
        found = connection.sql("SELECT * FROM events ORDER BY position").to_arrow_table()
    assert found.cast(SCHEMA).equals(expected)
    glob = pl.read_parquet(lake.events_dir / "*.parquet").sort("position")
    assert glob.equals(pl.DataFrame(pl.from_arrow(expected)))
    assert lake.position() == EventLake(root, 1_000).position() == 2_350


def test_nothing_new_writes_nothing(database: Db, root: Path) -> None:
    insert_events(database, payment_history(2, 1_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    before = states(lake)
    assert lake.refresh(database) == LakeRefresh(1_500, 1_500, 0, 0)
    assert EventLake(root, 1_000).refresh(database) == LakeRefresh(1_500, 1_500, 0, 0)
    assert states(lake) == before


def test_an_empty_log_makes_an_empty_lake_and_no_folder(database: Db, root: Path) -> None:
    lake = EventLake(root, 1_000)
    assert lake.refresh(database) == LakeRefresh(0, 0, 0, 0)
    assert not root.exists()
    assert lake.scan().collect().height == 0
    with lake.duckdb() as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(0,)]


def test_growing_step_by_step_gives_the_bytes_of_one_refresh(
    database: Db, root: Path, tmp_path: Path
) -> None:
    documents = payment_history(3, 3_210)
    lake = EventLake(root, 1_000)
    for low, high in ((0, 1), (1, 400), (400, 1_000), (1_000, 1_001), (1_001, 2_999), (2_999, 3_210)):
        insert_events(database, documents[low:high])
        sealed = {name: state for name, state in states(lake).items() if _last(name) <= low}
        assert lake.refresh(database).to_position == high
        assert sealed.items() <= states(lake).items(), "a sealed segment was written again"
    once = EventLake(tmp_path / "once", 1_000)
    once.refresh(database)
    assert contents(lake) == contents(once)


def _last(name: str) -> int:
    return int(name.removesuffix(".parquet").rpartition("-")[2])


def test_rows_of_the_tail_come_from_its_file_and_not_again_from_mongodb(database: Db, root: Path) -> None:
    documents = payment_history(4, 1_700)
    insert_events(database, documents[:1_500])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    database["events"].delete_many({"position": {"$lte": 1_499}})
    insert_events(database, documents[1_500:])
    assert lake.refresh(database).to_position == 1_700
    assert lake.scan().collect().height == 1_700


def test_files_say_what_they_hold(database: Db, root: Path) -> None:
    documents = payment_history(5, 1_300)
    insert_events(database, documents)
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    sealed, tail = lake.segments()
    assert (sealed.to, sealed.events, sealed.sealed) == (1_000, 1_000, True)
    assert (tail.to, tail.events, tail.sealed) == (1_300, 300, False)
    assert tail.last_event_id == str(documents[-1]["_id"])
    expected: dict[tuple[str, str], tuple[int, int]] = {}
    for each in documents[:1_000]:
        key = (each["eventData"]["currency"], each["eventType"])
        count, minor = expected.get(key, (0, 0))
        expected[key] = (count + 1, minor + each["eventData"]["amountMinor"])
    assert sealed.totals == expected
    stated = pq.read_metadata(sealed.path).metadata
    assert stated[b"ledgerlake.from"] == b"1"
    assert stated[b"ledgerlake.to"] == b"1000"
    assert stated[b"ledgerlake.format"] == b"2"
    assert stated[b"ledgerlake.schema_version"] == b"1"
    assert {row["currency"] for row in json.loads(stated[b"ledgerlake.totals"])} == {
        currency for currency, _ in expected
    }
    first = pq.read_metadata(sealed.path).row_group(0).column(0)
    assert first.compression == "ZSTD"


def test_control_sums_do_not_overflow(database: Db, root: Path) -> None:
    largest = 2**63 - 1
    insert_events(database, [event(i, f"p{i}", "PaymentProcessed", largest) for i in range(1, 6)])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    assert lake.segments()[0].totals == {("EUR", "PaymentProcessed"): (5, 5 * largest)}


def test_as_of_a_position_is_the_lake_of_then(database: Db, root: Path) -> None:
    insert_events(database, payment_history(6, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    for position in (0, 1, 999, 1_000, 1_001, 2_000, 2_400, 2_500):
        pinned = lake.pin(position)
        expected = read_columns(database, 0, position)
        assert pinned.scan().collect().equals(pl.DataFrame(pl.from_arrow(expected)))
        with pinned.duckdb() as connection:
            counted = connection.execute("SELECT count(*), coalesce(max(position), 0) FROM events").fetchall()
        assert counted == [(position, position)]
        assert pinned.last_event_id == (expected["event_id"][-1].as_py() if position else "")
    with pytest.raises(LakeError, match="reaches position 2500, not 2501"):
        lake.pin(2_501)


def test_a_pinned_reader_is_not_disturbed_by_refreshes(database: Db, root: Path) -> None:
    insert_events(database, payment_history(7, 1_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    pinned = lake.pin()
    frame, connection = pinned.scan(), pinned.duckdb()
    insert_events(database, payment_history(8, 1_200, after=1_500))
    lake.refresh(database)
    assert frame.collect().height == 1_500
    assert connection.execute("SELECT count(*), max(position) FROM events").fetchall() == [(1_500, 1_500)]
    assert lake.position() == 2_700


def test_eight_refreshes_at_once_make_the_same_files(database: Db, root: Path, tmp_path: Path) -> None:
    insert_events(database, payment_history(9, 4_321))
    errors: list[BaseException] = []

    def refresh() -> None:
        try:
            EventLake(root, 500).refresh(database)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=refresh) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    once = EventLake(tmp_path / "once", 500)
    once.refresh(database)
    assert contents(EventLake(root, 500)) == contents(once)
    assert [path.name for path in root.rglob("*.tmp")] == []


def test_refreshes_during_appends_only_ever_show_a_prefix_of_the_log(database: Db, root: Path) -> None:
    documents = payment_history(10, 6_000)
    insert_events(database, documents[:100])
    done = threading.Event()
    errors: list[BaseException] = []

    def refresh() -> None:
        lake = EventLake(root, 700)
        try:
            while not done.is_set():
                lake.refresh(database)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=refresh) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = 0
    reader = EventLake(root, 700)
    for low in range(100, 6_000, 300):
        insert_events(database, documents[low : low + 300])
        pinned = reader.pin()
        assert pinned.position >= seen
        seen = pinned.position
        positions = pinned.scan().select("position").collect()["position"].to_list()
        assert positions == list(range(1, seen + 1))
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    reader.refresh(database)
    expected = read_columns(database, 0, 6_000)
    assert reader.scan().collect().equals(pl.DataFrame(pl.from_arrow(expected)))


def test_a_slow_writer_does_not_set_back_a_faster_one(database: Db, root: Path) -> None:
    insert_events(database, payment_history(11, 1_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    rows = read_columns(database, 1_000, 1_200)
    info = write_segment(lake.events_dir, Segment.number(1, 1_000), [rows])
    assert info.to == 1_500
    assert lake.position() == 1_500


def test_a_tail_set_back_in_spite_of_that_is_seen_and_healed(database: Db, root: Path) -> None:
    insert_events(database, payment_history(12, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    whole = contents(lake)
    middle = lake.events_dir / Segment.number(1, 1_000).name
    middle.unlink()
    write_segment(lake.events_dir, Segment.number(1, 1_000), [read_columns(database, 1_000, 1_200)])
    assert lake.position() == 1_200, "what lies behind the hole must not count"
    assert [path.name for path in lake.files_behind_a_hole()] == [Segment.number(2, 1_000).name]
    assert lake.scan().collect().height == 1_200
    assert lake.refresh(database) == LakeRefresh(1_200, 2_500, 1_300, 1)
    assert contents(lake) == whole


def test_a_lost_segment_is_made_again(database: Db, root: Path) -> None:
    insert_events(database, payment_history(13, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    whole = contents(lake)
    (lake.events_dir / Segment.number(0, 1_000).name).unlink()
    assert lake.position() == 0
    lake.refresh(database)
    assert contents(lake) == whole


@pytest.mark.parametrize("number", [0, 2])
def test_a_flipped_byte_in_a_segment_is_found_when_it_is_read(database: Db, root: Path, number: int) -> None:
    insert_events(database, payment_history(14, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    info = lake.segments()[number]
    _flip(info.path, "amount_minor")
    with pytest.raises(CorruptFileError, match=info.path.name):
        read_rows(info)
    with pytest.raises(Exception, match=r"(?i)crc|checksum|damaged|content hash"):
        lake.scan().select(pl.col("amount_minor").sum()).collect()


def _flip(path: Path, column: str) -> None:
    group = pq.read_metadata(path).row_group(0)
    chunk = next(
        group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column
    )
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size // 2] ^= 0x10
    path.write_bytes(content)


def test_a_damaged_tail_is_written_again_from_the_log(database: Db, root: Path) -> None:
    documents = payment_history(15, 1_700)
    insert_events(database, documents[:1_500])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    _flip(lake.segments()[1].path, "event_id")
    insert_events(database, documents[1_500:])
    lake.refresh(database)
    expected = read_columns(database, 0, 1_700)
    assert lake.scan().collect().equals(pl.DataFrame(pl.from_arrow(expected)))


@pytest.mark.parametrize("length", [0, 7, 500])
def test_a_file_cut_off_by_a_full_disk_or_a_copy_is_made_again(database: Db, root: Path, length: int) -> None:
    insert_events(database, payment_history(16, 1_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    whole = contents(lake)
    for path in lake.events_dir.glob("*.parquet"):
        os.truncate(path, length)
    assert lake.position() == 0
    lake.refresh(database)
    assert contents(lake) == whole


def test_a_gap_in_the_log_stops_the_refresh_and_leaves_the_lake_as_it_was(database: Db, root: Path) -> None:
    documents = payment_history(17, 3_000)
    insert_events(database, documents[:1_500])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    insert_events(database, [each for each in documents[1_500:] if each["position"] != 1_777])
    before = contents(lake)
    with pytest.raises(GapError, match="no event at position 1777"):
        lake.refresh(database)
    assert contents(lake) == before
    insert_events(database, [documents[1_776]])
    assert lake.refresh(database).to_position == 3_000


def test_another_segment_size_is_refused_with_the_remedy(database: Db, root: Path) -> None:
    insert_events(database, payment_history(18, 10))
    EventLake(root, 1_000).refresh(database)
    with pytest.raises(LakeError, match="LEDGERLAKE_SEGMENT_SIZE=1000"):
        EventLake(root, 500)
    with pytest.raises(LakeError, match="at least 1"):
        EventLake(root, 0)


def test_two_sizes_that_race_to_create_a_lake_end_with_one(database: Db, root: Path) -> None:
    insert_events(database, payment_history(19, 10))
    one, other = EventLake(root, 1_000), EventLake(root, 500)
    one.refresh(database)
    with pytest.raises(LakeError, match="segments of 1000"):
        other.refresh(database)


def test_a_lake_of_another_or_restored_database_is_never_mixed_with(database: Db, root: Path) -> None:
    insert_events(database, payment_history(20, 1_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    before = contents(lake)

    database["events"].update_one({"position": 1_500}, {"$set": {"position": Int64(9_999)}})
    with pytest.raises(LakeError, match="another event there"):
        lake.refresh(database)

    _replace_log(database, payment_history(21, 1_200))
    with pytest.raises(LakeError, match="the log ends at 1200"):
        lake.refresh(database)

    _replace_log(database, payment_history(22, 2_000))
    with pytest.raises(LakeError, match="another event there"):
        lake.refresh(database)
    assert contents(lake) == before


def test_a_segment_of_another_log_behind_a_hole_is_not_taken_over(database: Db, root: Path) -> None:
    insert_events(database, payment_history(23, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    for each in lake.segments()[:2]:
        each.path.unlink()
    _replace_log(database, payment_history(24, 2_700))
    with pytest.raises(LakeError, match="another log"):
        lake.refresh(database)


def _replace_log(database: Db, documents: list[dict[str, Any]]) -> None:
    database["events"].delete_many({})
    database["counters"].delete_many({})
    database["log_chain"].delete_many({})
    insert_events(database, documents)


def test_a_lake_of_a_newer_version_is_refused_and_left_alone(database: Db, root: Path) -> None:
    insert_events(database, payment_history(25, 100))
    EventLake(root, 1_000).refresh(database)
    (root / "lake.json").write_text('{"format": 3, "segmentSize": 1000}')
    with pytest.raises(LakeError, match="format 3"):
        EventLake(root, 1_000)
    (root / "lake.json").write_text("{")
    with pytest.raises(LakeError, match="damaged"):
        EventLake(root, 1_000)


def as_format_1(lake: EventLake) -> None:
    """Make the lake one of format 1: without the columns and hashes that came later."""
    for info in lake.segments():
        table = pq.read_table(info.path).drop_columns(["refund_reference", "extra_data", "extra_metadata"])
        stated = pq.read_metadata(info.path).metadata
        keys = ("kind", "from", "to", "segment_last", "last_event_id", "totals", "row_hash")
        names = [f"ledgerlake.{key}" for key in keys]
        writer = pq.ParquetWriter(info.path, table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table)
        kept = {name: stated[name.encode()].decode() for name in names}
        writer.add_key_value_metadata({**kept, "ledgerlake.format": "1"})
        writer.close()
    (lake.root / "lake.json").write_text(f'{{"format": 1, "segmentSize": {lake.segment_size}}}\n')


@pytest.mark.parametrize("by", ["refresh", "refresh up to a position", "rebuild"])
def test_a_lake_of_an_earlier_format_is_written_again_and_never_read(
    database: Db, root: Path, tmp_path: Path, by: str
) -> None:
    insert_events(database, payment_history(29, 2_500))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    whole = contents(lake)
    as_format_1(lake)
    assert (lake.position(), [info.format for info in lake.segments()]) == (0, [1, 1, 1])
    for use in (lake.pin, lake.scan, lake.duckdb, lambda: lake.pin(1), lambda: read_rows(lake.segments()[0])):
        with pytest.raises(OutdatedFileError, match=r"format 1.*ledgerlake refresh"):
            use()
    assert [each.remedy for each in maintenance.status(lake).problems] == [maintenance.REBUILD] * 3
    assert len(maintenance.verify(lake).problems) == 3
    if by == "refresh":
        assert lake.refresh(database) == LakeRefresh(0, 2_500, 2_500, 3)
    elif by == "rebuild":
        assert len(maintenance.rebuild(lake, database).written) == 3
    else:
        assert lake.refresh(database, up_to=7).to_position == 2_500, "no refresh sets a lake back"
    assert contents(lake) == whole
    assert json.loads((root / "lake.json").read_text()) == {"format": 2, "segmentSize": 1_000}
    assert maintenance.verify(lake, database).ok
    assert lake.scan().collect().height == 2_500


def test_a_lake_that_is_half_of_an_earlier_format_is_brought_up_from_there(database: Db, root: Path) -> None:
    documents = payment_history(30, 2_600)
    insert_events(database, documents[:2_500])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    first = lake.segments()[0].path
    new = first.read_bytes()
    as_format_1(lake)
    first.write_bytes(new)  # as after a refresh that was killed
    assert lake.pin(1_000).scan().collect().height == 1_000
    with pytest.raises(OutdatedFileError, match="events-000000001001"):
        lake.pin(1_001)
    insert_events(database, documents[2_500:])
    assert lake.refresh(database) == LakeRefresh(1_000, 2_600, 1_600, 2)
    assert maintenance.verify(lake, database).ok


def test_leftovers_of_dead_writers_go_with_the_next_refresh(database: Db, root: Path) -> None:
    documents = payment_history(26, 100)
    insert_events(database, documents[:50])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    leftover = lake.events_dir / f".{Segment.number(0, 1_000).name}.0123456789ab.tmp"
    leftover.write_bytes(b"half")
    insert_events(database, documents[50:])
    lake.refresh(database)
    assert not leftover.exists()


def test_files_that_are_no_segments_are_told(database: Db, root: Path) -> None:
    insert_events(database, payment_history(27, 100))
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    assert lake.foreign_files() == []
    for name in ("events-000000000001-000000000500.parquet", "copy.parquet", "events-x.parquet"):
        (lake.events_dir / name).write_bytes(b"")
    assert len(lake.foreign_files()) == 3


def test_progress_is_told_up_to_the_end(database: Db, root: Path) -> None:
    insert_events(database, payment_history(28, 2_500))
    told: list[tuple[int, int]] = []
    EventLake(root, 1_000).refresh(database, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]


def test_an_event_id_is_that_of_the_document(database: Db, root: Path) -> None:
    known = ObjectId("00ff00ff00ff00ff00ff00ff")
    document = event(1, "p", "PaymentProcessed", 5)
    document["_id"] = known
    insert_events(database, [document])
    lake = EventLake(root, 1_000)
    lake.refresh(database)
    assert lake.scan().collect()["event_id"].to_list() == ["00ff00ff00ff00ff00ff00ff"]
