"""What the log has for billing reports: the rows that their summaries must have.

Computed by the server from the documents, by the rule of `reports.books` and not by the text that makes the
reports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
from bson import Decimal128

from ledgerlake.eventstore.archived import ARCHIVED
from ledgerlake.eventstore.event_columns import SCHEMA
from ledgerlake.lake.pinned import connect
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reports.billing_definition import CATEGORIES

if TYPE_CHECKING:
    from ledgerlake.reports.spec import ReportSpec

# Organization, currency, category.
Key: TypeAlias = tuple[str, str, str]
_MOVEMENT: Final = {"PaymentProcessed": "charge", "PaymentFailed": "failure", "PaymentRefunded": "refund"}


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


_FIGURES: Final = tuple(each.name for each in fields(Line))


def booked(log: Log, specs: Sequence[ReportSpec], position: int) -> list[dict[Key, Line]]:
    """For each report the rows that its summary must have, those of nothing but zeros apart.

    The specs differ in their intervals only, which do not overlap: the log is read once.
    """
    wanted = {spec.interval.end for spec in specs}
    # In the order of time: a stretch ends at each, and some of these are the intervals.
    ends = sorted(wanted | {spec.interval.start for spec in specs})
    stretches: list[list[Document]] = [[] for _ in ends]
    for row in [*_of_documents(log, specs[0], ends, position), *_of_archived(log, specs[0], ends, position)]:
        stretches[row["_id"]["stretch"]].append(row)
    balances: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[datetime, dict[Key, Line]] = {}
    for end, rows in zip(ends, stretches, strict=True):
        opening = dict(balances)
        lines: dict[Key, Line] = defaultdict(Line)
        for row in rows:
            group, category, line = _line(row)
            _add(lines[(*group, category)], line)
            balances[group] += line.net_minor
        if end in wanted:
            inside = {key[:2] for key in lines}
            for group in inside | {group for group, minor in opening.items() if minor}:
                for category in CATEGORIES:
                    line = lines[(*group, category)]
                    line.opening_minor, line.closing_minor = opening.get(group, 0), balances[group]
            found[end] = {key: line for key, line in lines.items() if line != Line()}
    return [found[spec.interval.end] for spec in specs]


def _line(row: Document) -> tuple[tuple[str, str], str, Line]:
    """Organization and currency, category, and what is added to the line of that."""
    of, count, minor = row["_id"], int(row["count"]), int(row["minor"].to_decimal())
    movement = _MOVEMENT.get(of["type"], "")
    group = (str(of.get("organization")), str(of.get("currency")))
    category = "unreferenced_credit" if movement == "refund" and of["unreferenced"] else movement
    if movement == "charge":
        line = Line(count, gross_minor=minor, net_minor=minor)
    elif movement == "refund":
        line = Line(count, refunds=count, refunded_minor=minor, net_minor=-minor)
    else:
        line = Line(count, failures=count, failed_minor=minor)
    return group, "correction" if of["late"] else category, line


def _add(line: Line, more: Line) -> None:
    for name in _FIGURES:
        setattr(line, name, getattr(line, name) + getattr(more, name))


def _of_documents(log: Log, spec: ReportSpec, ends: Sequence[datetime], position: int) -> list[Document]:
    frontiers = spec.books.frontiers().to_pylist()
    branches = [
        {"case": {"$lte": ["$position", row["up_to"]]}, "then": row["frontier"]} for row in frontiers[:-1]
    ]
    last = frontiers[-1]["frontier"]
    frontier: Any = {"$switch": {"branches": branches, "default": last}} if branches else last
    # At the head there is nothing to leave out, and a scan without a filter costs least.
    match: Document = {} if position == log.head else {"position": {"$lte": position}}
    if spec.organization is not None:
        match["metadata.organizationId"] = spec.organization
    if log.archived.any:
        match[ARCHIVED] = None
    stretch = [{"case": {"$lt": ["$bookedAt", end]}, "then": number} for number, end in enumerate(ends)]
    pipeline: list[Document] = [
        {"$match": match},
        {"$set": {"bookedAt": {"$max": ["$timestamp", frontier]}}},
        {"$match": {"bookedAt": {"$lt": ends[-1]}}},
        {
            "$group": {
                "_id": {
                    "organization": "$metadata.organizationId",
                    "currency": "$eventData.currency",
                    "type": "$eventType",
                    "unreferenced": {"$eq": ["$eventData.unreferenced", True]},
                    "late": {"$gt": ["$bookedAt", "$timestamp"]},
                    "stretch": {"$switch": {"branches": stretch}},
                },
                "count": {"$sum": 1},
                # A sum of longs that overflows becomes a double; one of decimals has 34 digits.
                "minor": {"$sum": {"$toDecimal": "$eventData.amountMinor"}},
            }
        },
    ]
    return list(log.db["events"].aggregate(pipeline, session=log.session, allowDiskUse=True))


def _of_archived(log: Log, spec: ReportSpec, ends: Sequence[datetime], position: int) -> list[Document]:
    """The same of the events that the archive has, where the documents are stubs."""
    if not log.archived.any:
        return []
    batches = (batch for table in log.archived.tables() for batch in table.to_batches())
    of_ends = {f"end_{number}": end for number, end in enumerate(ends)}
    stretch = " ".join(f"WHEN booked_at < ${name} THEN {number}" for number, name in enumerate(of_ends))
    parameters = {"position": position, "organization": spec.organization, **of_ends}
    with connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", pa.RecordBatchReader.from_batches(SCHEMA, batches))
        connection.register("frontiers", spec.books.frontiers())
        rows = connection.execute(
            "SELECT organization_id, currency, event_type, unreferenced, booked_at > occurred_at AS late,"
            f" CASE {stretch} END AS stretch, count(*), sum(amount_minor)::DECIMAL(38,0)"
            " FROM (SELECT *, greatest(occurred_at, frontier) AS booked_at FROM events JOIN frontiers"
            " ON position > after AND position <= up_to)"
            f" WHERE position <= $position AND booked_at < $end_{len(ends) - 1}"
            " AND ($organization IS NULL OR organization_id = $organization) GROUP BY ALL",
            parameters,
        ).fetchall()
    names = ("organization", "currency", "type", "unreferenced", "late", "stretch")
    return [
        {"_id": dict(zip(names, row, strict=False)), "count": row[6], "minor": Decimal128(row[7])}
        for row in rows
    ]


def lines_of(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Line]:
    """The rows of a summary, those of nothing but zeros apart."""
    found = {
        (row["organization_id"], row["currency"], row["category"]): Line(*(row[name] for name in _FIGURES))
        for row in rows
    }
    return {key: line for key, line in found.items() if line != Line()}
