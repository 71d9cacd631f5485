"""Statistics and trends as Parquet tables beside the events, each as of one position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from ledgerlake.lake.definitions import STATES, STATISTICS, TRENDS, Definition
from ledgerlake.lake.engines import DUCKDB, Engine
from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.lake.files import exclusive, remove_leftovers, write_atomically
from ledgerlake.lake.parquet import read_footer, write_table

if TYPE_CHECKING:
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.pinned import PinnedLake

# Path inside the lake -> what it holds.
TABLES: Final[dict[str, Definition]] = {
    "statistics/payment_statistics.parquet": STATISTICS,
    "statistics/payment_states.parquet": STATES,
    **{f"trends/{each.name}.parquet": each for each in TRENDS.values()},
}


@dataclass(frozen=True, slots=True)
class TablesRefresh:
    """The position that the tables show now, and the files written (none if nothing was new)."""

    position: int
    files: tuple[Path, ...]


def refresh_tables(lake: EventLake, engine: Engine = DUCKDB) -> TablesRefresh:
    """Compute every table as of the lake's position. Writes nothing if they show it already.

    Each file is replaced atomically; all of them have the position in their metadata. Safe to repeat
    and to run concurrently.

    Raises:
        LakeError, CorruptFileError: the lake can not be read.
        EngineError: the engine can not be reached.
    """
    with exclusive(lake.root / ".tables.lock"):
        position, last = lake.end()
        if not _stale(lake.root, _to_state(position, last)):
            return TablesRefresh(position, ())
        pinned = lake.pin()
        stated = _to_state(pinned.position, pinned.last_event_id)
        stale = _stale(lake.root, stated)
        for folder in {(lake.root / path).parent for path in TABLES}:
            remove_leftovers(folder)
        with pinned.naming_damage(), engine.connect(pinned) as connection:
            for path in stale:
                table = TABLES[path].run(connection)
                _check_complete(TABLES[path], table, pinned)
                with write_atomically(lake.root / path) as temp:
                    write_table(temp, table, stated[path])
        return TablesRefresh(pinned.position, tuple(lake.root / path for path in stale))


def _to_state(position: int, last_event_id: str) -> dict[str, dict[str, str]]:
    """What each table is to state, by its path."""
    return {
        path: {
            "kind": definition.name,
            "definition_version": str(definition.version),
            "position": str(position),
            "last_event_id": last_event_id,
        }
        for path, definition in TABLES.items()
    }


def _stale(root: Path, stated: dict[str, dict[str, str]]) -> list[str]:
    return [path for path, wanted in stated.items() if _stated(root / path, wanted) != wanted]


def _check_complete(definition: Definition, table: pa.Table, pinned: PinnedLake) -> None:
    """Every event counts in exactly one row of a statistic or trend: nothing was left out or doubled."""
    counted = pc.sum(table["count"]).as_py() or 0
    if definition is not STATES and counted != pinned.position:
        raise LakeError(
            f"{definition.name} counts {counted} events of the lake's {pinned.position}.",
            "Refresh the lake and try again: ledgerlake refresh.",
        )


def _stated(path: Path, keys: dict[str, str]) -> dict[str, str] | None:
    try:
        found = read_footer(path).stated
    except (FileNotFoundError, CorruptFileError):
        return None
    return {key: found[key] for key in keys if key in found}
