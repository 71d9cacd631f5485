"""Where the lake lies, and its tables: read, or computed as of an earlier position."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.definitions import Definition
from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.pinned import PinnedLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.settings import Settings

_TRIES = 50  # of 0.1 s: a refresh replaces the tables one after the other


class NothingYet(LedgerLakeError):
    """There is no lake in a folder, or no event in it."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"There are no payments in {root} yet.",
            "Bring some in with `ledgerlake import FILE` (or `make demo`), then `ledgerlake refresh`, and"
            " open the lake again. A ledger elsewhere is named by LEDGERLAKE_HOME.",
        )


def home_of(settings: Settings | None) -> Path:
    """The home of the given settings, else LEDGERLAKE_HOME, else the nearest folder `var` with a lake."""
    home = (settings or Settings.from_env()).home
    if settings is None and not os.environ.get("LEDGERLAKE_HOME"):
        near = (folder / "var" for folder in (Path.cwd(), *Path.cwd().parents))
        home = next((var for var in near if (var / "lake").is_dir()), home)
    return home


def segment_size(root: Path) -> int:
    """As the lake itself states it: a reader need not know how it was set up."""
    try:
        return int(json.loads((root / "lake.json").read_text())["segmentSize"])
    except FileNotFoundError:
        raise NothingYet(root) from None


def read_tables(root: Path) -> tuple[int, dict[str, pl.DataFrame]]:
    """All tables as of the same position, and that position; 0 when there are none."""
    positions: set[int] = set()
    for _ in range(_TRIES):
        try:
            found = {table.name: _read_table(root / path) for path, table in TABLES.items()}
        except FileNotFoundError:
            return 0, {}
        positions = {position for position, _ in found.values()}
        if len(positions) == 1:
            return positions.pop(), {name: frame for name, (_, frame) in found.items()}
        time.sleep(0.1)
    raise LakeError(
        f"The tables in {root} are as of different positions: {sorted(positions)}.",
        "A refresh was cut short: run `ledgerlake refresh`.",
    )


def compute(pinned: PinnedLake, definitions: Iterable[Definition]) -> dict[str, pl.DataFrame]:
    """Tables from the events, by their names; of the lake's own, what a refresh as of the position writes."""
    with pinned.naming_damage(), pinned.duckdb() as connection:
        found = {each.name: pl.from_arrow(each.run(connection)) for each in definitions}
    return {name: frame for name, frame in found.items() if isinstance(frame, pl.DataFrame)}


def _read_table(path: Path) -> tuple[int, pl.DataFrame]:
    """A table's position and rows, through one handle: the file may be replaced meanwhile."""
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened, page_checksum_verification=True)
        position = int(file.metadata.metadata[b"ledgerlake.position"])
        frame = pl.from_arrow(file.read())
    assert isinstance(frame, pl.DataFrame)
    return position, frame
