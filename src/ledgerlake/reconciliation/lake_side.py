"""The Parquet lake against the log, its tables against its events, and the read side's detail against both."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.lake.definitions import STATES, TRENDS, Definition
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.lake.segments import SegmentInfo, read_rows
from ledgerlake.lake.tables import TABLES
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, Figure, Key, checked, described, differing
from ledgerlake.reconciliation.payments import read
from ledgerlake.reconciliation.read_side import as_of

if TYPE_CHECKING:
    import duckdb

    from ledgerlake.lake.pinned import PinnedLake

_TREND: Final = {
    "organizationId": ("organization_id", Kind.STRING),
    "day": ("day", Kind.DATE),
    "currency": ("currency", Kind.STRING),
    "status": ("status", Kind.STRING),
    "count": ("count", Kind.INTEGER),
    "totalMinor": ("total_minor", Kind.INTEGER),
    "minMinor": ("min_minor", Kind.INTEGER),
    "maxMinor": ("max_minor", Kind.INTEGER),
}


def check_segments(lake: EventLake) -> Check:
    """Every segment file is undamaged: page checksums, row hash, positions, control sums."""

    def damage(info: SegmentInfo) -> str | None:
        try:
            read_rows(info)
        except CorruptFileError as error:
            return str(error)
        return None

    held = lake.segments()
    with ThreadPoolExecutor(2) as pool:
        differences = [found for found in pool.map(damage, held) if found]
    foreign = lake.foreign_files()
    differences += [f"{path} is no segment of this lake, but a glob would read it" for path in foreign]
    behind = lake.files_behind_a_hole()
    differences += [f"{path} lies behind a missing or open segment: refresh the lake" for path in behind]
    return checked("lake segments", f"{len(held):,} files undamaged", differences)


def check_events(log: Log, pinned: PinnedLake) -> Check:
    """The lake's events against the log's, per organization, currency and outcome."""
    name = "lake events"
    if pinned.position > log.head:
        ahead = f"the lake is at position {pinned.position}, the log ends at {log.head}"
        return checked(name, "the lake is of another log", [ahead])
    differences = []
    if pinned.position and log.event_id(pinned.position) != pinned.last_event_id:
        differences.append(
            f"the log has another event at position {pinned.position}: the lake is of another log"
        )
    with connected(pinned) as connection:
        rows = connection.execute(
            "SELECT organization_id, currency, event_type, COUNT(*), SUM(CAST(amount_minor AS DECIMAL(38, 0)))"
            " FROM events GROUP BY ALL"
        ).fetchall()
    actual: dict[Key, Figure] = {
        (organization, currency, EVENT_STATUS.get(kind, kind)): Figure(count, int(minor))
        for organization, currency, kind, count, minor in rows
    }
    expected = log.at(pinned.position).figures
    differences += described(expected, actual, differing(expected, actual), "lake")
    return checked(name, as_of(log, pinned.position), differences, expected, actual)


def check_table(log: Log, lake: EventLake, path: str) -> Check:
    """A table of the lake against its definition, computed anew from the events it claims to show."""
    definition = TABLES[path]
    name = f"lake {definition.name}"
    file = lake.root / path
    try:
        position = int(read_footer(file).stated["position"])
        found = read_verified(file, definition.schema)
    except FileNotFoundError:
        return checked(name, "not built yet", [])
    except KeyError:
        return checked(name, "unusable", [f"{file} does not say as of which position it is"])
    with connected(lake.pin(position)) as connection:
        expected = definition.run(connection)
    differences = [] if found.equals(expected) else _row_differences(definition, expected, found)
    return checked(name, as_of(log, position), differences)


def check_states(log: Log, lake: EventLake, position: int) -> Check:
    """Read models, counted by state, against every payment folded from the lake's events."""
    group = {
        "_id": {
            "organization": "$organizationId",
            "status": "$status",
            "unreferenced": "$unreferenced",
            "currency": "$currency",
        },
        "count": {"$sum": 1},
        "amount": {"$sum": {"$toDecimal": "$amountMinor"}},
        "refunded": {"$sum": {"$toDecimal": "$refundedMinor"}},
    }
    documents = log.db["payment_read_models"].aggregate([{"$group": group}], session=log.session)
    actual = {
        tuple(row["_id"].get(name) for name in ("organization", "status", "unreferenced", "currency")): (
            row["count"],
            int(row["amount"].to_decimal()),
            int(row["refunded"].to_decimal()),
        )
        for row in documents
    }
    with connected(lake.pin(position)) as connection:
        table = STATES.run(connection)
    expected = {
        (row["organization_id"], row["status"], row["unreferenced"], row["currency"]): (
            row["count"],
            row["amount_minor"],
            row["refunded_minor"],
        )
        for row in table.to_pylist()
    }
    differences = [
        f"organization {key[0]!r}, {key[3]} {key[1]}{' (names no payment)' if key[2] else ''}: payments, amount"
        f" and refunds in minor units are {expected.get(key, (0, 0, 0))} by their events,"
        f" {actual.get(key, (0, 0, 0))} by the read models"
        for key in sorted({*expected, *actual}, key=str)
        if expected.get(key) != actual.get(key)
    ]
    return checked("payment states", f"{as_of(log, position)}, every payment folded again", differences)


def check_trend_days(log: Log, lake: EventLake, position: int) -> Check:
    """Each day of the trends in MongoDB against the lake's events."""
    found = read(log.db["payment_trends"], {}, _TREND, log.session)
    columns = {name: found[name] for name in found.column_names}
    columns["period"] = columns.pop("day").cast(pa.date32())
    definition = TRENDS["day"]
    names = [name for name in definition.schema.names if name != "total"]
    with connected(lake.pin(position)) as connection:
        expected = definition.run(connection).select(names)
    actual = pa.table(columns).select(names)
    differences = _row_differences(definition, expected, actual)
    return checked("payment trends by day", as_of(log, position), differences)


@contextmanager
def connected(pinned: PinnedLake) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection on the lake, closed after use; damage is told with the name of its file."""
    with pinned.naming_damage(), pinned.duckdb() as connection:
        yield connection


def _row_differences(definition: Definition, expected: pa.Table, actual: pa.Table) -> list[str]:
    """Rows that only one of the tables has, in words, each with what identifies it."""
    import duckdb

    with duckdb.connect(config={"TimeZone": "UTC"}) as connection:
        connection.register("expected", expected)
        connection.register("actual", actual)
        only = [
            (side, row)
            for side, one, other in (
                ("events", "expected", "actual"),
                (definition.name, "actual", "expected"),
            )
            for row in connection.sql(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other} LIMIT 1000")
            .to_arrow_table()
            .to_pylist()
        ]
    by_key: dict[tuple[str, ...], list[str]] = {}
    for side, row in only:
        key = tuple(str(row[name]) for name in _KEYS if name in row)
        by_key.setdefault(key, []).append(f"{side} {_figures(row)}")
    if not by_key and not expected.equals(actual) and expected.num_rows == actual.num_rows:
        return [] if _same_rows(expected, actual) else [f"{definition.name} has other columns than declared"]
    return [f"{' '.join(key)}: {', '.join(sides)}" for key, sides in sorted(by_key.items())]


_KEYS: Final = ("organization_id", "period", "currency", "status", "unreferenced")


def _same_rows(expected: pa.Table, actual: pa.Table) -> bool:
    return bool(expected.column_names == actual.column_names)


def _figures(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if name not in _KEYS)
