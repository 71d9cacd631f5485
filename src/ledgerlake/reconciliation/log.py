"""The event log as the truth: its figures, computed by the server from the documents themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.domain.money import MoneyError, exponent
from ledgerlake.eventstore.transaction import COUNTER_ID
from ledgerlake.reconciliation.model import Check, Figure, Figures, Key, checked

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Extent:
    """Smallest and largest amount (minor units), first and last business time of the events of a key."""

    low: int
    high: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class LogFigures:
    """The log up to a position: figures and extent per key, and what the documents get wrong."""

    position: int
    events: int
    position_sum: int
    first: int
    last: int
    figures: Figures
    extents: dict[Key, Extent]
    malformed: tuple[str, ...]


class Log:
    """The events collection within one snapshot. Aggregates once per position asked for."""

    def __init__(self, db: Database[Document], session: ClientSession) -> None:
        self.db = db
        self.session = session
        counter = db["counters"].find_one({"_id": COUNTER_ID}, session=session)
        self.head = 0 if counter is None else int(counter["position"])
        self._known: dict[int, LogFigures] = {}

    def at(self, position: int) -> LogFigures:
        """Figures of the events up to a position."""
        if position not in self._known:
            self._known[position] = self._aggregate(position)
        return self._known[position]

    def event_id(self, position: int) -> str | None:
        """Id of the event at a position, as hex text."""
        found = self.db["events"].find_one({"position": position}, {"_id": 1}, session=self.session)
        return None if found is None else str(found["_id"])

    def _aggregate(self, position: int) -> LogFigures:
        minor = "$eventData.amountMinor"
        group = {
            "_id": {
                "organization": "$metadata.organizationId",
                "currency": "$eventData.currency",
                "type": "$eventType",
            },
            "count": {"$sum": 1},
            # A sum of longs that overflows becomes a double; one of decimals has 34 digits.
            "minor": {"$sum": {"$toDecimal": minor}},
            "amount": {"$sum": "$eventData.amount"},
            "notLong": {"$sum": {"$cond": [{"$eq": [{"$type": minor}, "long"]}, 0, 1]}},
            "low": {"$min": minor},
            "high": {"$max": minor},
            "firstAt": {"$min": "$timestamp"},
            "lastAt": {"$max": "$timestamp"},
            "positions": {"$sum": "$position"},
            "first": {"$min": "$position"},
            "last": {"$max": "$position"},
        }
        # At the head there is nothing to leave out, and a scan without a filter costs least.
        match = [] if position == self.head else [{"$match": {"position": {"$lte": position}}}]
        found = list(
            self.db["events"].aggregate([*match, {"$group": group}], session=self.session, allowDiskUse=True)
        )
        figures: dict[Key, Figure] = {}
        extents: dict[Key, Extent] = {}
        malformed: list[str] = []
        for row in found:
            key = _key(row["_id"])
            count, sum_minor = row["count"], int(row["minor"].to_decimal())
            if key in figures:
                malformed.append(f"event type {row['_id'].get('type')!r} is unknown")
                continue
            figures[key] = Figure(count, sum_minor)
            extents[key] = Extent(row["low"], row["high"], row["firstAt"], row["lastAt"])
            malformed += _malformed(key, row, sum_minor)
        return LogFigures(
            position,
            sum(row["count"] for row in found),
            sum(int(row["positions"]) for row in found),
            min((row["first"] for row in found), default=0),
            max((row["last"] for row in found), default=0),
            figures,
            extents,
            tuple(malformed),
        )


def check_positions(log: Log) -> Check:
    """Positions run from 1 to the counter, each once."""
    head, found = log.head, log.at(log.head)
    differences = []
    if found.events != head:
        differences.append(f"the counter says {head} events, the log holds {found.events}")
    if head and (found.first, found.last) != (1, head):
        differences.append(f"positions run from {found.first} to {found.last}, not from 1 to {head}")
    if found.position_sum != head * (head + 1) // 2:
        differences.append("a position is missing or held twice: their sum is not that of 1 to the head")
    return checked("log positions", f"the head is {head:,}", differences)


def check_amounts(log: Log) -> Check:
    """Every amount is an int64 of minor units, and says the same as its decimal."""
    found = log.at(log.head)
    return checked(
        "log amounts",
        f"minor units and decimals of {found.events:,} events",
        found.malformed,
        found.figures,
        found.figures,
    )


def _key(found: Document) -> Key:
    kind = found.get("type")
    status = (
        EVENT_STATUS.get(kind, f"unknown event type {kind!r}") if isinstance(kind, str) else "no event type"
    )
    return str(found.get("organization")), str(found.get("currency")), status


def _malformed(key: Key, row: Document, minor: int) -> list[str]:
    organization, currency, status = key
    where = f"organization {organization!r}, {currency} {status}"
    found = []
    if status not in EVENT_STATUS.values():
        found.append(f"{where}: {row['count']} events")
    if row["notLong"]:
        found.append(f"{where}: amountMinor of {row['notLong']} events is no int64")
    try:
        expected = Decimal(minor).scaleb(-exponent(currency))
    except MoneyError:
        return [*found, f"{where}: {currency!r} is no currency of ISO 4217"]
    amount = row["amount"]
    if not hasattr(amount, "to_decimal") or amount.to_decimal() != expected:
        found.append(f"{where}: amounts add up to {amount}, minor units to {expected}")
    return found
