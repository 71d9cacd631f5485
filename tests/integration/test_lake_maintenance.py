"""`ledgerlake lake`: one wrong bit, file or event is found, named, and written again beside the readers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import Int64
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.cli import app
from ledgerlake.eventstore.columnar import SCHEMA, read_columns
from ledgerlake.lake import maintenance
from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.segments import Segment, write_segment
from tests.builders import insert_events, payment_history
from tests.shared_log import shared_log

Db = Database[dict[str, Any]]
EVENTS = 1_100
SIZE = 300
NAMES = [Segment.number(index, SIZE).name for index in range(4)]


@pytest.fixture(scope="module")
def made(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Db, EventLake]]:
    """A log of four segments, and its lake; nobody changes them."""
    with shared_log(mongo_uri, tmp_path_factory.mktemp("home")) as log:
        insert_events(log.database, payment_history(1, EVENTS))
        lake = EventLake(log.settings.lake_dir, SIZE)
        lake.refresh(log.database)
        yield log.database, lake


@pytest.fixture
def db(made: tuple[Db, EventLake]) -> Db:
    return made[0]


@pytest.fixture
def lake(made: tuple[Db, EventLake], tmp_path: Path) -> EventLake:
    """A copy of the lake."""
    shutil.copytree(made[1].root, tmp_path / "lake")
    return EventLake(tmp_path / "lake", SIZE)


def told(found: maintenance.LakeVerification) -> list[tuple[str, str]]:
    return [(each.file, each.found) for each in found.problems]


def contents(lake: EventLake) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in lake.files()}


def test_nothing_is_found_where_nothing_is_wrong(db: Db, lake: EventLake) -> None:
    seen: list[tuple[int, int]] = []
    found = maintenance.verify(lake, db, lambda done, total: seen.append((done, total)))
    size = sum(len(content) for content in contents(lake).values())
    assert found == maintenance.LakeVerification(EVENTS, 4, EVENTS, size, True, ())
    assert seen == [(300, EVENTS), (600, EVENTS), (900, EVENTS), (EVENTS, EVENTS)]
    assert maintenance.verify(lake) == maintenance.LakeVerification(EVENTS, 4, EVENTS, size, False, ())
    assert maintenance.verify(EventLake(lake.root / "none", SIZE)).ok


def test_one_flipped_bit_anywhere_in_a_segment_is_found_and_named(lake: EventLake) -> None:
    path = lake.events_dir / NAMES[3]
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    dictionaries = [column.dictionary_page_offset for column in columns if column.has_dictionary_page]
    chance = random.Random(3)
    places = {
        "page headers": [column.data_page_offset + chance.randrange(8) for column in columns],
        "pages": [column.data_page_offset + column.total_compressed_size // 2 for column in columns],
        "dictionary page headers": [at + chance.randrange(8) for at in dictionaries],
        "dictionary pages": [at + 20 for at in dictionaries],
        "footer": [chance.randrange(footer, len(whole)) for _ in range(20)],
        "anywhere": [chance.randrange(len(whole)) for _ in range(20)],
    }
    silent = dict.fromkeys(places, 0)
    table = pq.read_table(path)
    for name in NAMES[:3]:
        (lake.events_dir / name).unlink()  # only to read less; it is told, too
    for part, some in places.items():
        assert some
        for at in some:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            found = maintenance.verify(lake)
            assert [(each.file, each.remedy) for each in found.problems] == [
                (NAMES[0], maintenance.REBUILD),
                (NAMES[3], maintenance.REBUILD),
            ], (part, at)
            silent[part] += _reads_as_if_nothing_were(path, table)
    # Negative control: what page checksums leave to chance.
    assert silent["footer"] + silent["anywhere"] + silent["page headers"] > 0
    path.write_bytes(whole)
    assert [file for file, _ in told(maintenance.verify(lake))] == [NAMES[0]]


def _reads_as_if_nothing_were(path: Path, table: Any) -> bool:
    try:
        with path.open("rb") as opened:
            found = pq.ParquetFile(opened, page_checksum_verification=True).read()
    except Exception:  # noqa: BLE001 - any failure counts as noticed
        return False
    return bool(found.equals(table))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, Path.unlink, "missing"),
        (1, flip, "does not hold the bytes that its content hash was made of"),
        (2, cut_off, "is not a readable Parquet file (it has no footer)"),
        (3, flip, "does not hold the bytes that its content hash was made of"),
        (3, cut_off, "is not a readable Parquet file (it has no footer)"),
    ],
)
def test_a_damaged_or_missing_segment_is_named_and_only_it_is_written_again(
    db: Db, lake: EventLake, number: int, change: Callable[[Path], None], says: str
) -> None:
    before = contents(lake)
    states = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in lake.files()}
    change(lake.events_dir / NAMES[number])
    assert told(maintenance.verify(lake, db)) == [(NAMES[number], says)]
    seen: list[tuple[int, int]] = []
    done = maintenance.rebuild(lake, db, on_progress=lambda done, total: seen.append((done, total)))
    assert (done.position, done.segments, done.written) == (EVENTS, 4, (NAMES[number],))
    assert contents(lake) == before
    now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in lake.files()}
    assert {name for name in NAMES if now[name] != states[name]} == {NAMES[number]}
    assert seen[-1] == (EVENTS, EVENTS)
    assert maintenance.verify(lake, db).ok
    assert maintenance.rebuild(lake, db).written == ()


def test_a_segment_that_was_set_back_is_named_and_written_again(db: Db, lake: EventLake) -> None:
    before = contents(lake)
    (lake.events_dir / NAMES[1]).unlink()
    write_segment(lake.events_dir, Segment.number(1, SIZE), [read_columns(db, 300, 410)])
    found = maintenance.verify(lake, db)
    assert told(found) == [(NAMES[1], "ends at position 410, and other segments follow")]
    assert found.position == 410
    assert maintenance.rebuild(lake, db).written == (NAMES[1],)
    assert contents(lake) == before


def test_files_that_are_no_segments_are_told_and_left_alone(db: Db, lake: EventLake) -> None:
    for name in ("copy.parquet", "events-000000000001-000000000200.parquet"):
        shutil.copy(lake.events_dir / NAMES[0], lake.events_dir / name)
    found = maintenance.verify(lake, db)
    assert [each.file for each in found.problems] == [
        "copy.parquet",
        "events-000000000001-000000000200.parquet",
    ]
    assert all("no segment of this lake" in each.found for each in found.problems)
    assert maintenance.rebuild(lake, db).written == ()
    assert len(lake.files()) == 6


def test_a_segment_that_holds_together_and_differs_from_the_log_is_found(db: Db, lake: EventLake) -> None:
    segment = Segment.number(1, SIZE)
    rows = read_columns(db, 300, 600).to_pylist()
    rows[44]["user_id"] = "somebody else"
    (lake.events_dir / segment.name).unlink()
    write_segment(lake.events_dir, segment, [pa.Table.from_pylist(rows, SCHEMA)])
    assert maintenance.verify(lake).ok, "its hashes are right"
    says = "says something else of position 345 than the log: user_id"
    assert told(maintenance.verify(lake, db)) == [(segment.name, says)]
    assert maintenance.rebuild(lake, db).written == ()
    assert len(maintenance.rebuild(lake, db, everything=True).written) == 4
    assert maintenance.verify(lake, db).ok


def test_rebuilding_everything_gives_the_same_bytes_beside_a_reader(db: Db, lake: EventLake) -> None:
    before = contents(lake)
    with lake.duckdb() as connection:
        frame = lake.scan()
        done = maintenance.rebuild(lake, db, everything=True)
        assert (done.written, done.events) == (tuple(NAMES), EVENTS)
        assert connection.execute("SELECT count(DISTINCT position) FROM events").fetchall() == [(EVENTS,)]
        assert frame.collect().height == EVENTS
    assert contents(lake) == before


def test_the_lake_of_another_log_is_neither_sound_nor_written_over(
    database: Db, db: Db, lake: EventLake
) -> None:
    insert_events(database, payment_history(2, 1_000))
    before = contents(lake)
    for problem in maintenance.verify(lake, database).problems:
        assert problem.found.startswith(
            ("says something else of position", "ends at position 1,100, the log at")
        )
    for everything in (False, True):
        with pytest.raises(LakeError, match="another log"):
            maintenance.rebuild(lake, database, everything=everything)
    cut_off(lake.events_dir / NAMES[3])
    with pytest.raises(LakeError, match="another log"):
        maintenance.rebuild(lake, database)
    for name in NAMES[:3]:
        cut_off(lake.events_dir / name)
    database["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(900)}})
    with pytest.raises(LakeError, match="the log ends at 900"):
        maintenance.rebuild(lake, database)
    assert {name: content[:-9] for name, content in before.items()} == contents(lake)


def test_a_damaged_log_is_told_as_such(database: Db, tmp_path: Path) -> None:
    insert_events(database, payment_history(3, 500))
    lake = EventLake(tmp_path / "lake", 200)
    lake.refresh(database)
    database["events"].delete_one({"position": 250})
    found = maintenance.verify(lake, database)
    [problem] = found.problems
    assert (problem.file, "no event at position 250" in problem.found) == ("the log", True)
    assert (found.events, found.compared) == (500, False)


def test_the_status_is_that_of_the_footers(db: Db, lake: EventLake) -> None:
    found = maintenance.status(lake, db)
    assert (found.position, found.head, found.lag) == (EVENTS, EVENTS, 0)
    assert (found.sealed, found.open, found.events, found.format) == (3, 1, EVENTS, 2)
    assert found.bytes == sum(len(content) for content in contents(lake).values())
    assert sum(each.events for each in found.control_sums) == EVENTS
    sums = {
        (row["_id"]["currency"], row["_id"]["type"]): (
            row["events"],
            row["minor"],
            row["amount"].to_decimal(),
        )
        for row in db["events"].aggregate(
            [
                {
                    "$group": {
                        "_id": {"currency": "$eventData.currency", "type": "$eventType"},
                        "events": {"$sum": 1},
                        "minor": {"$sum": "$eventData.amountMinor"},
                        "amount": {"$sum": "$eventData.amount"},
                    }
                }
            ]
        )
    }
    assert sums == {
        (each.currency, each.event_type): (each.events, each.amount_minor, each.amount)
        for each in found.control_sums
    }
    (lake.events_dir / NAMES[2]).unlink()
    cut_off(lake.events_dir / NAMES[3])
    found = maintenance.status(lake, db)
    assert (found.position, found.lag, found.sealed, found.open) == (600, 500, 2, 0)
    assert [each.file for each in found.problems] == NAMES[2:]
    empty = maintenance.status(EventLake(lake.root / "none", SIZE))
    assert (empty.position, empty.lag, empty.bytes_an_event, empty.updated_at) == (0, None, None, None)


def test_the_command_line_names_what_is_wrong_and_exits_with_1(
    made: tuple[Db, EventLake], environ: dict[str, str], lake: EventLake
) -> None:
    environ = {
        **environ,
        "LEDGERLAKE_DATABASE": made[0].name,
        "LEDGERLAKE_HOME": str(lake.root.parent),
        "LEDGERLAKE_SEGMENT_SIZE": str(SIZE),
    }

    def tool(*words: str, exit_code: int = 0, **other: str) -> str:
        result = CliRunner().invoke(app, ["lake", *words], env={**environ, **other})
        assert result.exit_code == exit_code, result.output
        return result.stdout

    assert "Every bit is as it was written, and every event is as the log has it: 1,100" in tool("verify")
    status = json.loads(tool("status", "--json"))
    assert (status["position"], status["lag"], status["sealed"], status["open"]) == (EVENTS, 0, 3, 1)
    assert "BHD" in tool("status")

    flip(lake.events_dir / NAMES[1])
    assert NAMES[1] in tool("verify", exit_code=1)
    found = json.loads(tool("verify", "--json", "--offline", exit_code=1))
    assert (found["ok"], found["compared"], [each["file"] for each in found["problems"]]) == (
        False,
        False,
        [NAMES[1]],
    )
    assert NAMES[1] in tool("rebuild")
    assert "All 4 segments hold together" in tool("rebuild")
    assert len(json.loads(tool("rebuild", "--all", "--json"))["written"]) == 4

    away = {"LEDGERLAKE_MONGODB_URI": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50"}
    assert "Not compared with the log" in tool("verify", **away)
    found = json.loads(tool("status", "--json", **away))
    assert (found["position"], found["head"], found["lag"]) == (EVENTS, None, None)
