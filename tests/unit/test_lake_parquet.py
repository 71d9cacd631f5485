"""Equal rows give equal bytes and hashes, and no flipped bit is read."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import (
    DeterministicWriter,
    read_footer,
    read_stated,
    read_verified,
    row_groups,
    update_hash,
    write_table,
)

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("event_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("amount", pa.decimal128(38, 4)),
        pa.field("flag", pa.bool_()),
        pa.field("day", pa.date32()),
        pa.field("occurred_at", pa.timestamp("ms", tz="UTC")),
        pa.field("exponent", pa.int8()),
    ]
)


def row(i: int) -> dict[str, Any]:
    return {
        "position": i,
        "event_id": f"{i * 7919:024x}",
        "reason": None if i % 3 else f"why {i % 5}",
        "amount": Decimal(i * i).scaleb(-4),
        "flag": None if i % 7 == 0 else i % 2 == 0,
        "day": date(2026, 1, 1 + i % 28),
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "exponent": i % 4,
    }


def table(rows: int) -> pa.Table:
    return pa.Table.from_pylist([row(i) for i in range(1, rows + 1)], SCHEMA)


def digest(some: pa.Table) -> str:
    found = hashlib.sha256()
    for group in row_groups([some]):
        update_hash(found, group)
    return found.hexdigest()


WHOLE = table(300)


@given(st.lists(st.integers(0, 300), max_size=6))
def test_the_hash_is_that_of_the_values_however_the_buffers_lie(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 300]
    parts = [WHOLE.slice(low, high - low) for low, high in pairwise(bounds)]
    assert digest(pa.concat_tables(parts)) == digest(WHOLE)


def test_the_hash_is_the_one_that_files_of_earlier_versions_state() -> None:
    nulls = pa.table([pa.nulls(50, each.type) for each in SCHEMA], schema=SCHEMA)
    some = pa.concat_tables([WHOLE.slice(7, 50), nulls, WHOLE.slice(3, 20)]).slice(40, 70)
    assert digest(WHOLE) == "22f9f435ff945ac0f20669cc6a09e267c63c48612c4b6a9647b10c2830b3625f"
    assert digest(nulls) == "4805517145df85c8f38b733abf9d51ed41496add53ec68c5a4c7fc6e47f6e7a2"
    assert digest(some) == "81095337a5fac040175e7c78fca199bcfb4851c28d15bf34d8b81555038dc9c2"


def test_what_was_written_is_what_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    made = write_table(path, WHOLE, {"position": "300"})
    content = path.read_bytes()
    assert (made.bytes, made.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (made.rows, made.row_hash) == (300, read_footer(path).stated["row_hash"])


def test_the_hash_sees_every_value_and_every_null() -> None:
    rows = WHOLE.to_pylist()
    changes: dict[str, Any] = {
        "position": 999,
        "event_id": "0",
        "reason": "",
        "amount": Decimal("0.0001"),
        "flag": False,
        "day": date(2027, 1, 1),
        "occurred_at": datetime(2026, 1, 1, 0, 0, 0, 1000, tzinfo=UTC),
        "exponent": 9,
    }
    hashes = {digest(WHOLE)}
    for name, value in changes.items():
        for other in (value, None):
            changed = [dict(each) for each in rows]
            at = 6 if name == "flag" else 1  # a null flag becomes false; a null reason an empty text
            changed[at][name] = other if changed[at][name] != other else value
            hashes.add(digest(pa.Table.from_pylist(changed, SCHEMA)))
    assert len(hashes) >= 1 + 2 * len(changes) - 2
    moved = [dict(each) for each in rows]
    moved[0]["event_id"], moved[1]["event_id"] = "ab", "c"
    other = [dict(each) for each in rows]
    other[0]["event_id"], other[1]["event_id"] = "a", "bc"
    assert digest(pa.Table.from_pylist(moved, SCHEMA)) != digest(pa.Table.from_pylist(other, SCHEMA))


@given(st.lists(st.integers(0, 300), max_size=5))
def test_row_groups_have_the_size_asked_for_and_lose_nothing(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 300]
    parts = [WHOLE.slice(low, high - low) for low, high in pairwise(bounds)]
    groups = list(row_groups(parts, 70))
    assert [group.num_rows for group in groups] == [70, 70, 70, 70, 20]
    assert pa.concat_tables(groups).equals(WHOLE)


def write(path: Path, parts: list[pa.Table]) -> bytes:
    writer = DeterministicWriter(path, SCHEMA)
    for group in row_groups(parts):
        writer.write(group)
    writer.close({"position": "45000", "b": "2", "a": "1"})
    return path.read_bytes()


def test_equal_rows_give_equal_bytes_in_whatever_portions_and_in_another_process(tmp_path: Path) -> None:
    big = table(45_000)
    once = write(tmp_path / "a", [big])
    chance = random.Random(5)
    cuts = sorted(chance.randrange(45_000) for _ in range(9))
    parts = [big.slice(low, high - low) for low, high in pairwise([0, *cuts, 45_000])]
    assert write(tmp_path / "b", parts) == once
    # Another process, with other hash seeds.
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from tests.unit.test_lake_parquet import table, write\n"
        "write(Path(sys.argv[1]), [table(45_000)])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c"), *sys.path],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert (tmp_path / "c").read_bytes() == once


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, WHOLE, {"position": "300"})
    assert read_verified(path, SCHEMA).equals(WHOLE)
    assert read_footer(path).stated["position"] == "300"
    assert read_stated(path) == read_footer(path).stated
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    chance = random.Random(11)
    places = [chance.randrange(len(whole)) for _ in range(200)]
    silent = 0
    for at in [*places, *range(4), *range(footer, footer + 20), *range(len(whole) - 150, len(whole))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"a\.parquet"):
            read_verified(path, SCHEMA)
        if at >= footer:
            with pytest.raises(CorruptFileError, match=r"a\.parquet"):
                read_footer(path)
            try:
                assert read_stated(path) is None
            except CorruptFileError as error:
                assert "a.parquet" in error.message  # noqa: PT017 - None is right, too, where the key is hit
        try:
            with path.open("rb") as opened:
                found = pq.ParquetFile(opened, page_checksum_verification=True).read()
            silent += found.replace_schema_metadata(None).equals(WHOLE)
        except Exception:  # noqa: BLE001 - any failure of the plain reader counts as noticed
            continue
    assert silent > 0, "page checksums alone would have found every bit"


def test_a_flipped_statistic_would_hide_rows_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, WHOLE, {})
    whole = bytearray(path.read_bytes())
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    wanted = [("reason", "=", "why 4")]
    assert pq.read_table(path, filters=wanted, page_checksum_verification=True).num_rows > 0
    for at in range(footer, len(whole)):
        if whole[at : at + 5] == b"why 4":
            whole[at + 4] ^= (
                4  # the greatest reason of the row group is "why 0" now, so it is not looked into
            )
    path.write_bytes(whole)
    assert pq.read_table(path, filters=wanted, page_checksum_verification=True).num_rows == 0
    for read in (read_footer, lambda path: read_verified(path, SCHEMA)):
        with pytest.raises(CorruptFileError, match="footer that is not the one which was written"):
            read(path)


def test_entries_are_told_from_texts_in_the_rows_that_look_like_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    long = "ä" * 20_000
    for text in ("ledgerlake.position\x18\x03666", "ledgerlake.footer_hash\x18@" + "6" * 64):
        rows = pa.table({"reason": [text]})
        write_table(path, rows, {"position": "300", "long": long, "empty": ""})
        stated = read_stated(path)
        assert stated == read_footer(path).stated
        assert stated is not None
        assert (stated["position"], stated["long"], stated["empty"]) == ("300", long, "")
        assert read_verified(path, rows.schema).equals(rows)


def test_a_file_without_hashes_is_read_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(WHOLE, path)
    assert read_footer(path, unhashed_too=True).rows == 300
    assert read_stated(path) is None
    for read in (read_footer, lambda path: read_verified(path, SCHEMA)):
        with pytest.raises(CorruptFileError, match="does not state the hash of its footer"):
            read(path)


def test_other_readers_read_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, WHOLE, {"position": "300"})
    assert pl.read_parquet(path).equals(pl.DataFrame(pl.from_arrow(WHOLE)))
    with duckdb.connect() as connection:
        assert connection.sql(f"SELECT count(*), max(position) FROM '{path}'").fetchall() == [(300, 300)]
        told = connection.sql(f"SELECT key, value FROM parquet_kv_metadata('{path}')").fetchall()
    stated = {key: value for key, value in told if key.startswith(b"ledgerlake.")}
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert stated[b"ledgerlake.content_hash"].decode() == hashlib.sha256(whole[:footer]).hexdigest()
    own = stated[b"ledgerlake.footer_hash"]
    zeroed = whole[footer:].replace(own, b"0" * 64)
    assert own.decode() == hashlib.sha256(zeroed).hexdigest()


@pytest.mark.parametrize("length", [0, 1, 100, -1, -200])
def test_a_cut_off_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, WHOLE, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptFileError, match=r"a\.parquet"):
        read_footer(path)
    with pytest.raises(CorruptFileError, match=r"a\.parquet"):
        read_verified(path, SCHEMA)


def test_a_table_without_rows_is_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, SCHEMA.empty_table(), {"lines": "0"})
    assert read_verified(path, SCHEMA).num_rows == 0
    assert read_footer(path).stated["lines"] == "0"
