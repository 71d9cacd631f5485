"""What has to agree before a report is published: log = read models = lake = report, to the minor unit.

The log's side is computed by the server from the documents, by the rule of `reports.books` and not by the
text that makes the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
from bson import Decimal128
from pymongo.database import Database

from ledgerlake.eventstore.archived import ARCHIVED
from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.eventstore.event_columns import SCHEMA
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.pinned import connect
from ledgerlake.reconciliation import lake_side, read_side
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import MOST_DIFFERENCES, Check, units
from ledgerlake.reconciliation.payments import read
from ledgerlake.reconciliation.verify import verify
from ledgerlake.reports.billing_definition import CATEGORIES
from ledgerlake.reports.errors import PublicationBlocked

if TYPE_CHECKING:
    from ledgerlake.reports.spec import ReportSpec

# Organization, currency, category.
_Key: TypeAlias = tuple[str, str, str]
_MOVEMENT: Final = {"PaymentProcessed": "charge", "PaymentFailed": "failure", "PaymentRefunded": "refund"}
_EVENT: Final = {
    "position": ("position", Kind.INTEGER),
    "aggregateId": ("payment_id", Kind.STRING),
    "eventType": ("event_type", Kind.STRING),
    "eventData.amountMinor": ("amount_minor", Kind.INTEGER),
    "eventData.unreferenced": ("unreferenced", Kind.BOOL),
    "timestamp": ("occurred_at", Kind.DATE),
}
_FEW: Final = 10


@dataclass(slots=True)
class Line:
    """A row of a summary: counts, and sums in minor units."""

    count: int = 0
    gross_minor: int = 0
    refunds: int = 0
    refunded_minor: int = 0
    net_minor: int = 0
    failures: int = 0
    failed_minor: int = 0
    opening_minor: int = 0
    closing_minor: int = 0


class Gate:
    """Lets reports pass that are what the log says; call it with the rows of a summary."""

    def __init__(self, db: Database[Document], lake: EventLake) -> None:
        self._db = db
        self._lake = lake
        self._agreed: set[int] = set()

    def everything(self, position: int) -> None:
        """Let a position pass that every layer has reached, if all of `verify` is in order.

        Raises:
            PublicationBlocked: it is not.
        """
        checks = verify(self._db, self._lake, up_to=position).checks
        _pass(f"The log up to position {position:,}", checks)
        self._agreed.add(position)

    def lake(self, position: int) -> list[str]:
        """How the lake up to a position differs from the log, in words; files are read to the last bit."""
        with (
            self._db.client.start_session(snapshot=True) as session,
            lake_side.LakeViews(self._lake) as views,
        ):
            log = Log(self._db, session, self._lake.archive)
            checks = [
                lake_side.check_segments(log, self._lake, position),
                lake_side.check_events(log, views, position),
            ]
        return [f"{check.name}: {each}" for check in checks for each in check.differences]

    def __call__(self, spec: ReportSpec, position: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the report of `spec` as of a position pass, whose summary has these rows.

        Read models and lake are compared with the log first, each as of its own checkpoint; one that was
        never built says nothing.

        Raises:
            PublicationBlocked: something is not what the log says.
        """
        if position not in self._agreed:
            self._layers(position)
        with self._db.client.start_session(snapshot=True) as session:
            log = Log(self._db, session, self._lake.archive)
            expected, found = booked(log, spec, position), _lines_of(rows)
            nothing = Line()
            wrong = [
                key
                for key in sorted({*expected, *found})
                if expected.get(key, nothing) != found.get(key, nothing)
            ]
            if not wrong:
                return
            told = [
                _described(key, expected.get(key, nothing), found.get(key, nothing))
                for key in wrong[:MOST_DIFFERENCES]
            ]
            if len(wrong) > MOST_DIFFERENCES:
                told.append(f"... and {len(wrong) - MOST_DIFFERENCES} more")
            groups = list(dict.fromkeys(key[:2] for key in wrong))
            for organization, currency in groups[: read_side.GROUPS_LOOKED_INTO]:
                told += self._differing_payments(log, organization, currency, position)
        raise PublicationBlocked(f"The report of {spec.interval.label}", told)

    def _layers(self, position: int) -> None:
        with (
            self._db.client.start_session(snapshot=True) as session,
            lake_side.LakeViews(self._lake) as views,
        ):
            log = Log(self._db, session, self._lake.archive)
            checks = [lake_side.check_events(log, views, position)]
            at = read_side.positions(log)
            if read_side.uneven(log, "payment_read_models") is None:
                checks.append(read_side.check_read_models(log, at["payment_read_models"]))
            checks.append(read_side.check_statistics(log, at["payment_statistics"]))
            checks.append(read_side.check_trends(log, at["payment_trends"]))
            if read_side.dropped(log):  # what is gone reads as empty
                return self._layers(position)
        built = [check for check in checks if check.ok or check.position]
        _pass(f"The log up to position {position:,}", built)
        self._agreed.add(position)
        return None

    def _differing_payments(self, log: Log, organization: str, currency: str, position: int) -> list[str]:
        """Up to ten payments whose events the lake has otherwise than the log, in words."""
        names = ", ".join(name for name, _ in _EVENT.values())
        mine = {"organization": organization, "currency": currency, "position": position}
        where = "WHERE organization_id = $organization AND currency = $currency AND position <= $position"
        with self._lake.pin(position).duckdb() as connection:
            lake = connection.sql(f"SELECT {names} FROM events {where}", params=mine).to_arrow_table()
        documents = read(
            log.db["events"],
            {
                "metadata.organizationId": organization,
                "eventData.currency": currency,
                "position": {"$lte": position},
                **({ARCHIVED: None} if log.archived.any else {}),
            },
            _EVENT,
            log.session,
        )
        with connect() as connection:
            connection.register("documents", documents)
            connection.register("lake", lake)
            connection.register("archived", pa.concat_tables([SCHEMA.empty_table(), *log.archived.tables()]))
            connection.execute(
                f"CREATE TABLE log AS SELECT * FROM documents UNION ALL SELECT {names} FROM archived {where}",
                mine,
            )
            found = connection.execute(
                "SELECT payment_id, position, side, event_type, amount_minor FROM ("
                " SELECT *, 'log' AS side FROM (SELECT * FROM log EXCEPT ALL SELECT * FROM lake) UNION ALL"
                " SELECT *, 'lake' FROM (SELECT * FROM lake EXCEPT ALL SELECT * FROM log)"
                f") ORDER BY payment_id, position, side LIMIT {2 * _FEW}"
            ).fetchall()
        told: dict[tuple[str, int], list[str]] = defaultdict(list)
        for payment, at, side, kind, minor in found:
            told[payment, at].append(f"{side} {kind} {units(minor, currency)} {currency}")
        if not told:
            return [f"organization {organization!r}, {currency}: its events are the same in log and lake"]
        return [
            f"payment {payment!r}, position {at:,}: {', '.join(sides)}" + ("" if len(sides) > 1 else " only")
            for (payment, at), sides in list(told.items())[:_FEW]
        ]


def booked(log: Log, spec: ReportSpec, position: int) -> dict[_Key, Line]:
    """The rows that a report's summary must have, those of nothing but zeros apart, from the documents."""
    lines: dict[_Key, Line] = defaultdict(Line)
    balances: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in [*_of_documents(log, spec, position), *_of_archived(log, spec, position)]:
        found, count, minor = row["_id"], int(row["count"]), int(row["minor"].to_decimal())
        movement = _MOVEMENT.get(found["type"], "")
        sign = {"charge": 1, "refund": -1}.get(movement, 0)
        group = (str(found.get("organization")), str(found.get("currency")))
        balances[group][1] += sign * minor
        if not found["inside"]:
            balances[group][0] += sign * minor
            continue
        category = "unreferenced_credit" if movement == "refund" and found["unreferenced"] else movement
        line = lines[(*group, "correction" if found["late"] else category)]
        line.count += count
        if movement == "charge":
            line.gross_minor += minor
        elif movement == "refund":
            line.refunds += count
            line.refunded_minor += minor
        else:
            line.failures += count
            line.failed_minor += minor
        line.net_minor += sign * minor
    for group, (opening, closing) in balances.items():
        inside = any((*group, category) in lines for category in CATEGORIES)
        if inside or opening:
            for category in CATEGORIES:
                line = lines[(*group, category)]
                line.opening_minor, line.closing_minor = opening, closing
    return {key: line for key, line in lines.items() if line != Line()}


def _of_documents(log: Log, spec: ReportSpec, position: int) -> list[Document]:
    frontiers = spec.books.frontiers().to_pylist()
    branches = [
        {"case": {"$lte": ["$position", row["up_to"]]}, "then": row["frontier"]} for row in frontiers[:-1]
    ]
    last = frontiers[-1]["frontier"]
    frontier: Any = {"$switch": {"branches": branches, "default": last}} if branches else last
    booked_at = {"$max": ["$timestamp", frontier]}
    match: Document = {"position": {"$lte": position}}
    if spec.organization is not None:
        match["metadata.organizationId"] = spec.organization
    if log.archived.any:
        match[ARCHIVED] = None
    pipeline: list[Document] = [
        {"$match": match},
        {"$match": {"$expr": {"$lt": [booked_at, spec.interval.end]}}},
        {
            "$group": {
                "_id": {
                    "organization": "$metadata.organizationId",
                    "currency": "$eventData.currency",
                    "type": "$eventType",
                    "unreferenced": {"$eq": ["$eventData.unreferenced", True]},
                    "late": {"$gt": [booked_at, "$timestamp"]},
                    "inside": {"$gte": [booked_at, spec.interval.start]},
                },
                "count": {"$sum": 1},
                # A sum of longs that overflows becomes a double; one of decimals has 34 digits.
                "minor": {"$sum": {"$toDecimal": "$eventData.amountMinor"}},
            }
        },
    ]
    return list(log.db["events"].aggregate(pipeline, session=log.session, allowDiskUse=True))


def _of_archived(log: Log, spec: ReportSpec, position: int) -> list[Document]:
    """The same of the events that the archive has, where the documents are stubs."""
    if not log.archived.any:
        return []
    batches = (batch for table in log.archived.tables() for batch in table.to_batches())
    parameters = {
        "position": position,
        "start": spec.interval.start,
        "end": spec.interval.end,
        "organization": spec.organization,
    }
    with connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", pa.RecordBatchReader.from_batches(SCHEMA, batches))
        connection.register("frontiers", spec.books.frontiers())
        rows = connection.execute(
            "SELECT organization_id, currency, event_type, unreferenced, frontier > occurred_at AS late,"
            " greatest(occurred_at, frontier) >= $start AS inside, count(*),"
            " sum(amount_minor)::DECIMAL(38,0) FROM events JOIN frontiers"
            " ON position > after AND position <= up_to WHERE position <= $position"
            " AND greatest(occurred_at, frontier) < $end"
            " AND ($organization IS NULL OR organization_id = $organization) GROUP BY ALL",
            parameters,
        ).fetchall()
    names = ("organization", "currency", "type", "unreferenced", "late", "inside")
    return [
        {"_id": dict(zip(names, row, strict=False)), "count": row[6], "minor": Decimal128(row[7])}
        for row in rows
    ]


def _lines_of(rows: Iterable[Mapping[str, Any]]) -> dict[_Key, Line]:
    """The rows of a summary, those of nothing but zeros apart."""
    names = [each.name for each in fields(Line)]
    found = {
        (row["organization_id"], row["currency"], row["category"]): Line(*(row[name] for name in names))
        for row in rows
    }
    return {key: line for key, line in found.items() if line != Line()}


def _described(key: _Key, expected: Line, found: Line) -> str:
    organization, currency, category = key

    def told(line: Line) -> str:
        return ", ".join(
            f"{name.removesuffix('_minor')} {units(value, currency) if name.endswith('_minor') else value}"
            for name, value in asdict(line).items()
            if value != getattr(expected if line is found else found, name)
        )

    return f"organization {organization!r}, {currency} {category}: log {told(expected)}; report {told(found)}"


def _pass(what: str, checks: Iterable[Check]) -> None:
    wrong = [f"{check.name}: {each}" for check in checks if not check.ok for each in check.differences]
    if wrong:
        raise PublicationBlocked(what, wrong)
