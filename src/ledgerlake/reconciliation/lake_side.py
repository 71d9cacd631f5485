"""The Parquet lake against the log, its tables against its events, the read side's detail against them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.lake.definitions import STATES, TRENDS
from ledgerlake.lake.errors import CorruptFileError, OutdatedFileError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.lake.pinned import connect
from ledgerlake.lake.segments import SegmentInfo, read_rows
from ledgerlake.lake.tables import TABLES
from ledgerlake.projections import model
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, Figure, Key, described, differing
from ledgerlake.reconciliation.payments import differing_payments, read
from ledgerlake.reconciliation.read_side import GROUPS_LOOKED_INTO, as_of, of_part

if TYPE_CHECKING:
    import duckdb

    from ledgerlake.lake.pinned import PinnedLake

_LAKE: Final = "event_lake"
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


class LakeViews:
    """The lake as of the positions that are asked for, with one pin and connection each. Close after use."""

    def __init__(self, lake: EventLake) -> None:
        self.lake = lake
        self._open = ExitStack()
        self._known: dict[int, tuple[PinnedLake, duckdb.DuckDBPyConnection]] = {}

    @contextmanager
    def at(self, position: int) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the view `events` up to `position`; damage is told with the name of its file."""
        if position not in self._known:
            pinned = self.lake.pin(position)
            self._known[position] = (pinned, self._open.enter_context(pinned.duckdb()))
        pinned, connection = self._known[position]
        with pinned.naming_damage():
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def check_segments(log: Log, lake: EventLake, position: int) -> Check:
    """Every segment file is undamaged: page checksums, row hash, positions, control sums."""

    def damage(info: SegmentInfo) -> str | None:
        try:
            read_rows(info)
        except (CorruptFileError, OutdatedFileError) as error:
            return str(error)
        return None

    held = lake.segments()
    with ThreadPoolExecutor(2) as pool:
        differences = [found for found in pool.map(damage, held) if found]
    foreign = lake.foreign_files()
    differences += [f"{path} is no segment of this lake, but a glob would read it" for path in foreign]
    behind = lake.files_behind_a_hole()
    differences += [f"{path} lies behind a missing or open segment: refresh the lake" for path in behind]
    detail = f"{len(held):,} files: checksums, row hashes, positions, control sums"
    return of_part(log, "lake segments", _LAKE, position, differences, detail=detail)


def check_events(log: Log, views: LakeViews, position: int) -> Check:
    """The lake's events against the log's, per organization, currency and outcome."""
    name = "lake events"
    if position > log.head:
        ahead = f"the lake is at position {position}, the log ends at {log.head}"
        return of_part(log, name, _LAKE, position, [ahead], detail="the lake is of another log")
    differences = []
    with views.at(position) as connection:
        last = connection.execute(f"SELECT event_id FROM events WHERE position = {position}").fetchall()
        if last != [(log.event_id(position),)] and position:
            differences.append(
                f"the log has another event at position {position}: the lake is of another log"
            )
        rows = connection.execute(
            "SELECT organization_id, currency, event_type, COUNT(*) AS events,"
            " SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS minor FROM events GROUP BY ALL"
        ).fetchall()
    actual: dict[Key, Figure] = {
        (organization, currency, EVENT_STATUS.get(kind, kind)): Figure(count, int(minor))
        for organization, currency, kind, count, minor in rows
    }
    expected = log.at(position).figures
    differences += described(expected, actual, differing(expected, actual), "lake")
    return of_part(log, name, _LAKE, position, differences, (expected, actual))


def check_table(log: Log, views: LakeViews, path: str) -> Check:
    """A table of the lake against its definition, computed anew from the events it claims to show."""
    definition = TABLES[path]
    name = f"lake {definition.name}"
    file = views.lake.root / path
    try:
        position = int(read_footer(file).stated["position"])
        found = read_verified(file, definition.schema)
    except FileNotFoundError:
        missing = [f"{file} is missing"] if log.head else []
        return of_part(log, name, name, 0, missing, detail="not built yet")
    except (KeyError, ValueError):
        stated = [f"{file} does not say as of which position it is"]
        return of_part(log, name, name, 0, stated, detail="unusable")
    with views.at(position) as connection:
        expected = definition.run(connection)
    differences = []
    if not found.equals(expected):
        sides = ("events", definition.name)
        differences = row_differences(expected, found, sides) or ["the rows are in another order"]
    return of_part(log, name, name, position, differences)


def check_states(log: Log, views: LakeViews, position: int) -> Check:
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
    payments = model(log.db, "payment_read_models", log.session)
    documents = payments.aggregate([{"$group": group}], session=log.session)
    actual = {
        tuple(row["_id"].get(name) for name in ("organization", "status", "unreferenced", "currency")): (
            row["count"],
            int(row["amount"].to_decimal()),
            int(row["refunded"].to_decimal()),
        )
        for row in documents
    }
    with views.at(position) as connection:
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
        f"organization {key[0]!r}, {key[3]} {key[1]}{' (names no payment)' if key[2] else ''}:"
        f" payments, amount and refunds (minor units) are {expected.get(key, (0, 0, 0))} by their events,"
        f" {actual.get(key, (0, 0, 0))} by the read models"
        for key in sorted({*expected, *actual}, key=str)
        if expected.get(key) != actual.get(key)
    ]
    groups = dict.fromkeys(
        (key[0], key[3]) for key in {*expected, *actual} if expected.get(key) != actual.get(key)
    )
    for organization, currency in sorted(groups)[:GROUPS_LOOKED_INTO]:
        differences += differing_payments(log, organization, currency, position)
    detail = f"{as_of(log, position)}, every payment folded again"
    return of_part(log, "payment states", "payment_read_models", position, differences, detail=detail)


def check_trend_days(log: Log, views: LakeViews, position: int) -> Check:
    """Each day of the trends in MongoDB against the lake's events."""
    found = read(model(log.db, "payment_trends", log.session), {}, _TREND, log.session)
    columns = {name: found[name] for name in found.column_names}
    columns["period"] = columns.pop("day").cast(pa.date32())
    definition = TRENDS["day"]
    names = [name for name in definition.schema.names if name != "total"]
    with views.at(position) as connection:
        expected = definition.run(connection).select(names)
    actual = pa.table(columns).select(names)
    differences = row_differences(expected, actual, ("events", definition.name))
    return of_part(log, "payment trends by day", "payment_trends", position, differences)


def row_differences(expected: pa.Table, actual: pa.Table, sides: tuple[str, str]) -> list[str]:
    """Rows that only one of the tables has, in words, each with what identifies it; `sides` names the two."""
    with connect() as connection:
        connection.register("expected", expected)
        connection.register("actual", actual)
        only = [
            (side, row)
            for side, one, other in (
                (sides[0], "expected", "actual"),
                (sides[1], "actual", "expected"),
            )
            for row in connection.sql(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other} LIMIT 1000")
            .to_arrow_table()
            .to_pylist()
        ]
    by_key: dict[tuple[str, ...], list[str]] = {}
    for side, row in only:
        key = tuple(str(row[name]) for name in _KEYS if name in row)
        by_key.setdefault(key, []).append(f"{side} {_figures(row)}")
    return [f"{' '.join(key)}: {', '.join(told)}" for key, told in sorted(by_key.items())]


_KEYS: Final = (
    "organization_id",
    "period",
    "day",
    "quarter",
    "currency",
    "status",
    "unreferenced",
    "reason",
    "bucket",
    "failures_before",
    "recovered",
)


def _figures(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if name not in _KEYS)
