"""The event log as the truth: its figures, computed by the server from the documents themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from bson import Decimal128
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.domain.money import MoneyError, exponent
from ledgerlake.eventstore.archived import ARCHIVED, NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.transaction import COUNTER_ID
from ledgerlake.reconciliation.archived import ArchivedPart, merged
from ledgerlake.reconciliation.model import Check, Figure, Figures, Key, checked

Document: TypeAlias = dict[str, Any]

_MINOR: Final = "$eventData.amountMinor"
_AMOUNT: Final = "$eventData.amount"
# Minor units by amount; 0 where one of them has the wrong type or only one is zero, null where both are zero.
_RATIO: Final[Document] = {
    "$cond": [
        {
            "$and": [
                {"$eq": [{"$type": _MINOR}, "long"]},
                {"$eq": [{"$type": _AMOUNT}, "decimal"]},
                {"$ne": [_AMOUNT, 0]},
            ]
        },
        {"$divide": [_MINOR, _AMOUNT]},
        {"$cond": [{"$and": [{"$eq": [_MINOR, 0]}, {"$eq": [_AMOUNT, 0]}]}, None, 0]},
    ]
}


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
    figures: Figures
    extents: dict[Key, Extent]
    malformed: tuple[str, ...]


class Log:
    """The events collection within one snapshot. Aggregates once per position asked for."""

    def __init__(
        self, db: Database[Document], session: ClientSession, archive: ArchivedEvents = NO_ARCHIVE
    ) -> None:
        self.db = db
        self.session = session
        self.archived = ArchivedPart(db, session, archive)
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
        minor = _MINOR
        group = {
            "_id": {
                "organization": "$metadata.organizationId",
                "currency": "$eventData.currency",
                "type": "$eventType",
            },
            "count": {"$sum": 1},
            # A sum of longs that overflows becomes a double; one of decimals has 34 digits.
            "minor": {"$sum": {"$toDecimal": minor}},
            # Equal for all events of a currency if each says the same twice: 10 to its decimal places.
            "leastRatio": {"$min": _RATIO},
            "mostRatio": {"$max": _RATIO},
            "notLong": {"$sum": {"$cond": [{"$eq": [{"$type": minor}, "long"]}, 0, 1]}},
            "low": {"$min": minor},
            "high": {"$max": minor},
            "firstAt": {"$min": "$timestamp"},
            "lastAt": {"$max": "$timestamp"},
        }
        # At the head there is nothing to leave out, and a scan without a filter costs least.
        match: Document = {} if position == self.head else {"position": {"$lte": position}}
        if self.archived.any:
            match |= {ARCHIVED: None}
        pipeline: list[Document] = [*([{"$match": match}] if match else []), {"$group": group}]
        found = list(self.db["events"].aggregate(pipeline, session=self.session, allowDiskUse=True))
        for row in self.archived.figures(position):
            same = [number for number, other in enumerate(found) if other["_id"] == row["_id"]]
            if same:
                found[same[0]] = merged(found[same[0]], row)
            else:
                found.append(row)
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
            malformed += self._malformed(key, row, position)
        return LogFigures(
            position,
            sum(row["count"] for row in found),
            figures,
            extents,
            tuple(malformed),
        )

    def _malformed(self, key: Key, row: Document, position: int) -> list[str]:
        organization, currency, status = key
        where = f"organization {organization!r}, {currency} {status}"
        found = []
        if status not in EVENT_STATUS.values():
            found.append(f"{where}: {row['count']} events")
        if row["notLong"]:
            found.append(f"{where}: amountMinor of {row['notLong']} events is no int64")
        try:
            expected = Decimal128(str(10 ** exponent(currency)))
        except MoneyError:
            return [*found, f"{where}: {currency!r} is no currency of ISO 4217"]
        ratios = [row[name] for name in ("leastRatio", "mostRatio") if row[name] is not None]
        if any(_decimal(ratio) != expected.to_decimal() for ratio in ratios):
            found.append(f"{where}: {self._unequal(row['_id'], expected, position)}")
        return found

    def _unequal(self, group: Document, ratio: Decimal128, position: int) -> str:
        """The events of a group whose minor units and decimal differ: how many, and the first positions."""
        events = {
            "metadata.organizationId": group.get("organization"),
            "eventData.currency": group.get("currency"),
            "eventType": group.get("type"),
            "position": {"$lte": position},
        }
        one = {"$expr": {"$not": [{"$in": [_RATIO, [None, ratio]]}]}}
        [found] = self.db["events"].aggregate(
            [
                {"$match": {**events, **one}},
                {"$project": {"position": 1}},
                {
                    "$facet": {
                        "count": [{"$count": "count"}],
                        "first": [{"$sort": {"position": 1}}, {"$limit": 10}],
                    }
                },
            ],
            session=self.session,
            allowDiskUse=True,
        )
        count = sum(each["count"] for each in found["count"])
        named = ", ".join(str(each["position"]) for each in found["first"])
        more = ", ..." if count > len(found["first"]) else ""
        return f"amount and amountMinor of {count:,} events differ (positions {named}{more})"


def check_amounts(log: Log) -> Check:
    """Every amount is an int64 of minor units, and says the same as its decimal."""
    found = log.at(log.head)
    check = checked(
        "log amounts",
        f"minor units and decimals of {found.events:,} events",
        found.malformed,
        found.figures,
        found.figures,
    )
    return replace(check, part="events", position=log.head, lag=0)


def _key(found: Document) -> Key:
    kind = found.get("type")
    status = (
        EVENT_STATUS.get(kind, f"unknown event type {kind!r}") if isinstance(kind, str) else "no event type"
    )
    return str(found.get("organization")), str(found.get("currency")), status


def _decimal(value: Any) -> Decimal:
    return value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
