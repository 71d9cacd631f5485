"""Archived events: each stub's event is in its archive file, unchanged, and counts in every figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
from bson import Decimal128
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.eventstore.archived import (
    ARCHIVED,
    ArchivedEvents,
    ArchiveError,
    Place,
    decode_document,
    stub,
)
from ledgerlake.eventstore.bson_columns import documents
from ledgerlake.eventstore.chain import digest
from ledgerlake.eventstore.event_columns import SCHEMA, columns_to_read, decode_events, typed
from ledgerlake.lake.pinned import connect
from ledgerlake.reconciliation.model import Check, checked

Document = dict[str, Any]

_STUBS: Final = {f"{ARCHIVED}.file": {"$exists": True}}
_AT_ONCE: Final = 5_000


class ArchivedPart:
    """The archived events of the log, within one snapshot of the database."""

    def __init__(self, db: Database[Document], session: ClientSession, archive: ArchivedEvents) -> None:
        self._db = db
        self._session = session
        self._archive = archive

    @cached_property
    def any(self) -> bool:
        """Whether any event was archived."""
        return self._db["events"].find_one(_STUBS, {"_id": 1}, session=self._session) is not None

    def tables(self) -> Iterator[pa.Table]:
        """The archived events as SCHEMA, some thousand at once; not those that can not be fetched."""
        names = columns_to_read(SCHEMA)
        for stubs in self._stubs():
            try:
                stream = b"".join(self._archive.fetch([_place(each) for each in stubs]))
            except ArchiveError:  # `check` tells
                continue
            yield typed(decode_events(stream, documents(stream), names), SCHEMA)

    def figures(self, position: int) -> list[Document]:
        """Of the archived events up to a position: what the server's $group gives for the other ones."""
        if not self.any:
            return []
        batches = (batch for table in self.tables() for batch in table.to_batches())
        with connect() as connection:
            connection.register("events", pa.RecordBatchReader.from_batches(SCHEMA, batches))
            rows = connection.sql(
                "SELECT organization_id, currency, event_type, count(*), sum(amount_minor)::DECIMAL(38,0),"
                " min(amount_minor), max(amount_minor), min(occurred_at), max(occurred_at)"
                f" FROM events WHERE position <= {position:d} GROUP BY ALL"
            ).to_arrow_table()
        return [
            {
                "_id": {"organization": organization, "currency": currency, "type": kind},
                "count": count,
                "minor": Decimal128(minor),
                # The segments were compared with it, minor units and decimal, before the event was archived.
                "leastRatio": None,
                "mostRatio": None,
                "notLong": 0,
                "low": low,
                "high": high,
                "firstAt": first,
                "lastAt": last,
            }
            for organization, currency, kind, count, minor, low, high, first, last in zip(
                *(column.to_pylist() for column in rows.columns), strict=True
            )
        ]

    def check(self) -> Check:
        """Every stub's event is in its file, byte for byte, and the stub says the same as the event."""
        differences: list[str] = []
        count = 0
        for stubs in self._stubs():
            count += len(stubs)
            for each in stubs:
                try:
                    [raw] = self._archive.fetch([_place(each)])
                except ArchiveError as error:
                    differences.append(str(error))
                    continue
                where = f"position {each['position']:,}, archive file {each[ARCHIVED]['file']}"
                if digest(raw) != each[ARCHIVED]["digest"]:
                    differences.append(f"{where}: the file holds another event")
                elif stub(decode_document(raw), raw, each[ARCHIVED]["file"]) != each:
                    differences.append(f"{where}: what stayed in the log is not what was archived")
        detail = f"{count:,} events, each compared with its digest" if count else "nothing was archived"
        return replace(checked("archived events", detail, differences), part="events")

    def _stubs(self) -> Iterator[list[Mapping[str, Any]]]:
        """The stubs, by file and position, some thousand at once."""
        cursor = self._db["events"].find(
            _STUBS, sort=[(f"{ARCHIVED}.file", 1), ("position", 1)], session=self._session
        )
        stubs: list[Mapping[str, Any]] = []
        for each in cursor:
            stubs.append(each)
            if len(stubs) == _AT_ONCE:
                yield stubs
                stubs = []
        if stubs:
            yield stubs


def _place(each: Mapping[str, Any]) -> Place:
    return Place(each[ARCHIVED]["file"], each["position"])


def merged(one: Document, other: Document) -> Document:
    """The figures of two groups of events of the same key together."""
    both = {**one, "count": one["count"] + other["count"], "notLong": one["notLong"] + other["notLong"]}
    both["minor"] = Decimal128(one["minor"].to_decimal() + other["minor"].to_decimal())
    for least, most in (("leastRatio", "mostRatio"), ("low", "high"), ("firstAt", "lastAt")):
        for name, pick in ((least, min), (most, max)):
            known = [row[name] for row in (one, other) if row[name] is not None]
            both[name] = pick(known) if known else None
    return both
