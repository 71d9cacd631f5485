"""Archiving: events of streams that have ended leave MongoDB for the archive in the lake.

An event goes only if the lake has sealed it and says the same of it, and after its archive file was read
back. A run that is killed leaves an archive file that nothing refers to, or some events of a stream archived
and others not: both are in order, and the next run does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
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

# What is held at once: the names of so many streams, the events that go into one archive file (so many bytes
# of BSON, and what more its last stream has), and one segment to compare them with.
_STREAMS_AT_ONCE: Final = 2_000
_BYTES_A_FILE: Final = 32_000_000
_STUBS_AT_ONCE: Final = 1_000
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)


@dataclass(slots=True)
class Archived:
    """What an archiving did: streams and events that left, in `files` new archive files.

    `bytes_before` and `bytes_after` are the BSON of the events, and of what stays of them. `kept` counts the
    streams from before the date that have not ended, or that the lake has not sealed to their end. `sealed`
    is the position up to which the lake has sealed the log: what is after it can not leave yet.
    """

    streams: int = 0
    events: int = 0
    files: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    kept: int = 0
    sealed: int = 0


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

    Memory is bounded, whatever there is to archive: some 200 MB, for an archive file of 32 MB of BSON.

    Args:
        refund_window: so long after its last event a payment has ended even if it was not refunded.
        dry_run: count only; nothing is written.
        on_progress: called with the position up to which streams that begin there were looked at, and the
            last position that is sealed.

    Raises:
        LakeError: a sealed segment says something else than the log.
        CorruptFileError: a segment is damaged.
    """
    sealed = max((info.to for info in lake.segments() if info.sealed), default=0)
    moment = datetime.now(UTC) if now is None else now
    done = Archived(sealed=sealed)
    leaving = _Leaving()

    def leave() -> None:
        _check_against_segments(lake, leaving)
        done.events += len(leaving.events)
        done.bytes_before += leaving.bytes
        if not dry_run:
            done.bytes_after += _move(db, lake, leaving.events)
            done.files += 1
        leaving.clear()

    for names, first in _candidates(db, before, sealed):
        for stream in _streams(db, names):
            events = restored(map(decode_document, stream), lake.archive)
            whole = all(each["timestamp"] < before and each["position"] <= sealed for each in events)
            idle = moment - max(each["timestamp"] for each in events)
            if whole and has_ended(_folded(events), idle, refund_window):
                leaving.add(stream)
                done.streams += 1
            else:
                done.kept += 1
            if leaving.bytes >= _BYTES_A_FILE:
                leave()
        if on_progress is not None:
            on_progress(first, sealed)
    if leaving.events:
        leave()
    if on_progress is not None:
        on_progress(sealed, sealed)
    return done


class _Leaving:
    """Events on their way into one archive file: (position, raw BSON) pairs."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.bytes = 0

    def add(self, stream: Sequence[bytes]) -> None:
        """What is not archived yet of a stream."""
        for raw in stream:
            if ARCHIVED not in (document := decode_document(raw)):
                self.events.append((document["position"], raw))
                self.bytes += len(raw)

    def clear(self) -> None:
        self.events.clear()
        self.bytes = 0


def _candidates(db: Database[Document], before: datetime, sealed: int) -> Iterator[tuple[list[str], int]]:
    """Streams that have events which might leave, some thousand at once, and where the last of them begins.

    In the order of their first events, so that those which leave together share segments.
    """
    rows = db["events"].aggregate(
        [
            {"$match": {"position": {"$lte": sealed}, ARCHIVED: None, "timestamp": {"$lt": before}}},
            {"$group": {"_id": "$aggregateId", "first": {"$min": "$position"}}},
            {"$sort": {"first": 1}},
        ],
        allowDiskUse=True,
        batchSize=_STREAMS_AT_ONCE,
    )
    while some := list(islice(rows, _STREAMS_AT_ONCE)):
        yield [row["_id"] for row in some], int(some[-1]["first"])


def _streams(db: Database[Document], names: list[str]) -> Iterator[list[bytes]]:
    """The streams of these names, one after the other, each as the raw BSON of its events."""
    log: Collection[RawBSONDocument] = db["events"].with_options(_RAW, read_concern=ReadConcern("majority"))
    found = log.find({"aggregateId": {"$in": names}}, sort=[("aggregateId", 1), ("version", 1)])
    for _, stream in groupby(found, lambda document: document["aggregateId"]):
        yield [bytes(document.raw) for document in stream]


def _folded(events: list[Mapping[str, Any]]) -> Payment:
    state = NOTHING
    for each in events:
        event = read_event(each["eventType"], each["schemaVersion"], each["eventData"])
        state = evolve(state, event, each["metadata"]["organizationId"])
    return state


def _check_against_segments(lake: EventLake, leaving: _Leaving) -> None:
    """Every event is in a sealed segment, whose checksums hold, and reads the same there."""
    leaving.events.sort()
    stream = b"".join([raw for _, raw in leaving.events])
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
    if compared < len(leaving.events):
        raise LakeError("A sealed segment has gone meanwhile.", "Refresh the lake, then archive again.")


def _move(db: Database[Document], lake: EventLake, leaving: Sequence[tuple[int, bytes]]) -> int:
    """Write the archive file, then put stubs in the place of the events; returns the bytes of the stubs."""
    # Another home's archive, or one that was restored from an older copy, may have given out the next number.
    last = db["events"].find_one({ARCHIVE_FILE: {"$exists": True}}, sort=[(ARCHIVE_FILE, -1)])
    above = 0 if last is None else int(last[ARCHIVED]["file"])
    file = lake.archive.write(leaving, above)
    log = db.get_collection("events", write_concern=WriteConcern("majority", j=True))
    size = 0
    for first in range(0, len(leaving), _STUBS_AT_ONCE):
        changes: list[ReplaceOne[Document]] = []
        for _, raw in leaving[first : first + _STUBS_AT_ONCE]:
            rest = stub(decode_document(raw), raw, file)
            size += len(bson.encode(rest))
            # Another run may have archived it meanwhile: its stub stays.
            changes.append(ReplaceOne({"_id": rest["_id"], ARCHIVED: None}, rest))
        log.bulk_write(changes, ordered=False)
    return size
