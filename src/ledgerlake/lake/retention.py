"""Archiving: events of streams that have ended leave MongoDB for the archive in the lake.

An event goes only if the lake has sealed it and says the same of it, and after its archive file was read
back. A run that is killed leaves an archive file that nothing refers to, or some events of a stream archived
and others not: both are in order, and the next run does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import bson
import pyarrow as pa
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ledgerlake.domain.events import read_event
from ledgerlake.domain.payment import NOTHING, Payment, evolve, has_ended
from ledgerlake.eventstore.archived import ARCHIVE_FILE, ARCHIVED, decode_document, restored, stub
from ledgerlake.eventstore.bson_columns import documents
from ledgerlake.eventstore.event_columns import SCHEMA, columns_to_read, decode_events, typed
from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.segments import read_rows

Document: TypeAlias = dict[str, Any]

REFUND_WINDOW: Final = timedelta(days=540)

_STREAMS_AT_ONCE: Final = 2_000
_STUBS_AT_ONCE: Final = 1_000
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)


@dataclass(slots=True)
class Archived:
    """What an archiving did: streams and events that left, in `files` new archive files.

    `bytes_before` and `bytes_after` are the BSON of the events, and of what stays of them. `kept` counts the
    streams from before the date that have not ended, or that the lake has not sealed to their end.
    """

    streams: int = 0
    events: int = 0
    files: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    kept: int = 0


def archive_streams(
    db: Database[Document],
    lake: EventLake,
    before: datetime,
    *,
    now: datetime | None = None,
    refund_window: timedelta = REFUND_WINDOW,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Archived:
    """Archive the streams that have ended and whose events all happened before `before`.

    Args:
        refund_window: so long after its last event a payment has ended even if it was not refunded.
        dry_run: count only; nothing is written.
        on_progress: called with streams looked at, and streams to look at.

    Raises:
        LakeError: a sealed segment says something else than the log.
        CorruptFileError: a segment is damaged.
    """
    sealed = max((info.to for info in lake.segments() if info.sealed), default=0)
    moment = datetime.now(UTC) if now is None else now
    done = Archived()
    candidates = _candidates(db, before, sealed)
    for first in range(0, len(candidates), _STREAMS_AT_ONCE):
        names = candidates[first : first + _STREAMS_AT_ONCE]
        leaving: list[RawBSONDocument] = []
        for stream in _streams(db, names):
            events = restored(map(_decoded, stream), lake.archive)
            whole = all(each["timestamp"] < before and each["position"] <= sealed for each in events)
            idle = moment - max(each["timestamp"] for each in events)
            if whole and has_ended(_folded(events), idle, refund_window):
                leaving += [document for document in stream if ARCHIVED not in document]
                done.streams += 1
            else:
                done.kept += 1
        if leaving:
            leaving.sort(key=lambda document: document["position"])
            _check_against_segments(lake, leaving)
            done.events += len(leaving)
            done.bytes_before += sum(len(document.raw) for document in leaving)
            if not dry_run:
                done.bytes_after += _move(db, lake, leaving)
                done.files += 1
        if on_progress is not None:
            on_progress(first + len(names), len(candidates))
    return done


def _candidates(db: Database[Document], before: datetime, sealed: int) -> list[str]:
    """Streams that have events which might leave, in the order of their first: neighbours share segments."""
    rows = db["events"].aggregate(
        [
            {"$match": {"position": {"$lte": sealed}, ARCHIVED: None, "timestamp": {"$lt": before}}},
            {"$group": {"_id": "$aggregateId", "first": {"$min": "$position"}}},
            {"$sort": {"first": 1}},
        ],
        allowDiskUse=True,
    )
    return [row["_id"] for row in rows]


def _streams(db: Database[Document], names: list[str]) -> Iterator[list[RawBSONDocument]]:
    log: Collection[RawBSONDocument] = db["events"].with_options(_RAW, read_concern=ReadConcern("majority"))
    found = log.find({"aggregateId": {"$in": names}}, sort=[("aggregateId", 1), ("version", 1)])
    stream: list[RawBSONDocument] = []
    for document in found:
        if stream and document["aggregateId"] != stream[0]["aggregateId"]:
            yield stream
            stream = []
        stream.append(document)
    if stream:
        yield stream


def _decoded(document: RawBSONDocument) -> Mapping[str, Any]:
    return decode_document(bytes(document.raw))


def _folded(events: list[Mapping[str, Any]]) -> Payment:
    state = NOTHING
    for each in events:
        event = read_event(each["eventType"], each["schemaVersion"], each["eventData"])
        state = evolve(state, event, each["metadata"]["organizationId"])
    return state


def _check_against_segments(lake: EventLake, leaving: list[RawBSONDocument]) -> None:
    """Every event is in a sealed segment, whose checksums hold, and reads the same there."""
    stream = b"".join(document.raw for document in leaving)
    said = typed(decode_events(stream, documents(stream), columns_to_read(SCHEMA)), SCHEMA)
    positions = said["position"].to_numpy()
    compared = 0
    for info in lake.segments():
        inside = (positions >= info.segment.first) & (positions <= info.to)
        if info.sealed and inside.any():
            compared += int(inside.sum())
            rows = read_rows(info).take(pa.array(positions[inside] - info.segment.first))
            if not rows.equals(said.filter(pa.array(inside))):
                raise LakeError(
                    f"{info.path} says something else of an event than the log; nothing of it was archived.",
                    "Run `ledgerlake verify`: it names what differs.",
                )
    if compared < len(leaving):
        raise LakeError("A sealed segment has gone meanwhile.", "Refresh the lake, then archive again.")


def _move(db: Database[Document], lake: EventLake, leaving: list[RawBSONDocument]) -> int:
    """Write the archive file, then put stubs in the place of the events; returns the bytes of the stubs."""
    # Another home's archive, or one that was restored from an older copy, may have given out the next number.
    last = db["events"].find_one({ARCHIVE_FILE: {"$exists": True}}, sort=[(ARCHIVE_FILE, -1)])
    above = 0 if last is None else int(last[ARCHIVED]["file"])
    file = lake.archive.write([(document["position"], bytes(document.raw)) for document in leaving], above)
    log = db.get_collection("events", write_concern=WriteConcern("majority", j=True))
    size = 0
    for first in range(0, len(leaving), _STUBS_AT_ONCE):
        changes: list[ReplaceOne[Document]] = []
        for document in leaving[first : first + _STUBS_AT_ONCE]:
            rest = stub(_decoded(document), bytes(document.raw), file)
            size += len(bson.encode(rest))
            # Another run may have archived it meanwhile: its stub stays.
            changes.append(ReplaceOne({"_id": rest["_id"], ARCHIVED: None}, rest))
        log.bulk_write(changes, ordered=False)
    return size
