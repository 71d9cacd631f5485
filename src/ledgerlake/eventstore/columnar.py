"""The event log as Arrow tables, read in position ranges.

The server sends whole documents, which costs it least; `bson_columns` turns them into Arrow, and two
threads read disjoint ranges ahead of the consumer. Money is read as int64 minor units, which is exact;
the decimal amount is derived from them in Arrow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import ConnectionFailure
from pymongo.read_concern import ReadConcern

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import ARCHIVE_FILE, NO_ARCHIVE, ArchivedEvents, Place, may_hold_stubs
from ledgerlake.eventstore.bson_columns import Ints, Kind, decode, documents, first_batch
from ledgerlake.eventstore.event_columns import (
    AMOUNT,
    PATHS,
    SCHEMA,
    MalformedEventError,
    columns_to_read,
    decode_events,
    scale,
    schema_of,
    typed,
)
from ledgerlake.eventstore.transaction import COUNTER_ID

__all__ = [
    "AMOUNT",
    "PATHS",
    "SCHEMA",
    "GapError",
    "MalformedEventError",
    "columns_of_documents",
    "event_id_at",
    "head",
    "iter_columns",
    "read_columns",
    "scale",
]

Document: TypeAlias = dict[str, Any]

# Ranges of 10,000 documents (some 6 MB) fit one reply and the processor's cache. A third thread measured
# slower: part of the decoding holds the interpreter's lock.
RANGE_EVENTS: Final = 10_000
THREADS: Final = 2

# Replies as bytes: building a Python object per document would cost more than all the rest.
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True, slots=True)
class _Log:
    """The events in MongoDB, and those that were archived."""

    db: Database[Document]
    archive: ArchivedEvents


class GapError(LedgerLakeError):
    """A position range of the log does not hold exactly one event per position."""

    def __init__(self, after: int, up_to: int, position: int, found: str) -> None:
        super().__init__(
            f"The event log has {found} at position {position} (read: {after + 1} to {up_to}).",
            "The log was changed from outside or restored in part: restore the events collection and"
            " its counter from one backup.",
        )
        self.after = after
        self.up_to = up_to
        self.position = position


def head(db: Database[Document]) -> int:
    """Position of the last committed event; 0 for an empty log."""
    counters = db.get_collection("counters", read_concern=ReadConcern("majority"))
    counter = counters.find_one({"_id": COUNTER_ID})
    return 0 if counter is None else int(counter["position"])


def event_id_at(db: Database[Document], position: int) -> str | None:
    """Id of the event at a position, as hex text; None if there is none."""
    events = db.get_collection("events", read_concern=ReadConcern("majority"))
    found = events.find_one({"position": position}, {"_id": 1})
    return None if found is None else str(found["_id"])


def read_columns(
    db: Database[Document],
    after: int,
    up_to: int,
    columns: Sequence[str] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
) -> pa.Table:
    """The events with after < position <= up_to, one row each, sorted by position.

    Args:
        columns: names out of SCHEMA, in the order wanted; default all.
        archive: where the events lie that were archived.

    Returns:
        Exactly `up_to - after` rows, typed as SCHEMA.

    Raises:
        GapError: a position is missing or held twice.
        MalformedEventError: a required field is missing or of another type.
        ArchiveError: an archived event can not be brought back.
        ValueError: an unknown column, or a range that ends before it starts.
    """
    tables = list(iter_columns(db, after, up_to, max(up_to - after, 1), columns, archive))
    return tables[0] if tables else schema_of(columns).empty_table()


def columns_of_documents(
    stored: Sequence[RawBSONDocument], after: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Events in hand, those that follow position `after`, as `read_columns` gives them; raises what it does.

    None of them may be a stub of an archived event.
    """
    wanted = schema_of(columns)
    raw = b"".join(document.raw for document in stored)
    if may_hold_stubs(raw):
        at = decode(raw, documents(raw), {ARCHIVE_FILE: Kind.INTEGER})[ARCHIVE_FILE]
        if at.null_count < len(at):
            raise ValueError("An archived event is not in hand.")
    found = decode_events(raw, documents(raw), columns_to_read(wanted))
    _check_positions(found["position"], after, after + len(stored))
    return typed(found, wanted)


def iter_columns(
    db: Database[Document],
    after: int,
    up_to: int,
    batch: int,
    columns: Sequence[str] | None = None,
    archive: ArchivedEvents = NO_ARCHIVE,
) -> Generator[pa.Table, None, None]:
    """Tables of `batch` events each (the last may be shorter), in position order; see `read_columns`.

    Memory is bounded by one batch and four ranges of 10,000 events read ahead, however long the log is.
    """
    wanted = schema_of(columns)
    if batch < 1 or up_to < after or after < 0:
        raise ValueError(f"Can not read positions {after + 1} to {up_to} in batches of {batch}.")
    log = _Log(db, archive)
    if 0 < up_to - after <= min(batch, RANGE_EVENTS):
        # There is nothing to read ahead: a thread would cost more than it saves.
        yield _read_range(log, wanted, after, up_to)
        return
    parts: list[pa.Table] = []
    rows = 0
    with closing(_read_ahead(log, wanted, _ranges(after, up_to, batch))) as ahead:
        for part in ahead:
            parts.append(part)
            rows += part.num_rows
            if rows == batch:
                yield pa.concat_tables(parts)
                parts, rows = [], 0
    if parts:
        yield pa.concat_tables(parts)


def _ranges(after: int, up_to: int, batch: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most RANGE_EVENTS that never cross the end of a batch."""
    for start in range(after, up_to, batch):
        end = min(start + batch, up_to)
        for low in range(start, end, RANGE_EVENTS):
            yield low, min(low + RANGE_EVENTS, end)


def _read_ahead(
    log: _Log, wanted: pa.Schema, ranges: Iterator[tuple[int, int]]
) -> Generator[pa.Table, None, None]:
    pending: deque[Future[pa.Table]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-events")
    try:
        for low, high in ranges:
            pending.append(pool.submit(_read_range, log, wanted, low, high))
            if len(pending) > THREADS + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also when the consumer stops early: no thread may use the connection after this returns.
        pool.shutdown(wait=True, cancel_futures=True)


def _read_range(log: _Log, wanted: pa.Schema, after: int, up_to: int) -> pa.Table:
    try:
        return _read_once(log, wanted, after, up_to)
    except ConnectionFailure:
        # As the driver does for its own reads: once more, on whichever server is primary by now.
        return _read_once(log, wanted, after, up_to)


def _read_once(log: _Log, wanted: pa.Schema, after: int, up_to: int) -> pa.Table:
    names = columns_to_read(wanted)
    parts: list[pa.Table] = []
    reached = after
    while reached < up_to:
        reply = _reply(log.db, reached, up_to)
        starts = first_batch(reply)
        if not len(starts):
            break
        part = _decode(log, reply, starts, names)
        parts.append(part)
        reached = part["position"][-1].as_py()
    if not parts:
        raise GapError(after, up_to, after + 1, "no event")
    found = pa.concat_tables(parts)
    _check_positions(found["position"], after, up_to)
    return typed(found, wanted)


def _decode(log: _Log, reply: bytes, starts: Ints, names: tuple[str, ...]) -> pa.Table:
    """The documents of a reply as columns, with the archived events in place of their stubs."""
    if not may_hold_stubs(reply):
        return decode_events(reply, starts, names)
    where = decode(reply, starts, {"position": Kind.INTEGER, ARCHIVE_FILE: Kind.INTEGER})
    files = where[ARCHIVE_FILE]
    if files.null_count == len(files):  # the name stood elsewhere in an event
        return decode_events(reply, starts, names)
    is_stub = files.is_valid().to_numpy(zero_copy_only=False)
    stubs = pa.table(where).filter(files.is_valid())
    places = [
        Place(file, at)
        for at, file in zip(*(stubs[name].to_pylist() for name in stubs.column_names), strict=True)
    ]
    archived = b"".join(log.archive.fetch(places))
    both = pa.concat_tables(
        [decode_events(reply, starts[~is_stub], names), decode_events(archived, documents(archived), names)]
    )
    return both.sort_by("position").combine_chunks()


def _reply(db: Database[Document], after: int, up_to: int) -> bytes:
    """As many events of the range as one reply holds, in position order: the BSON of its cursor field."""
    reply = db.command(
        {
            "find": "events",
            "filter": {"position": {"$gt": after, "$lte": up_to}},
            "sort": {"position": 1},
            # One more than there should be, so that a position held twice shows.
            "batchSize": up_to - after + 1,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        },
        codec_options=_RAW,
    )
    return bytes(reply["cursor"].raw)


def _check_positions(positions: pa.ChunkedArray, after: int, up_to: int) -> None:
    found = positions.to_numpy()
    expected = np.arange(after + 1, up_to + 1)
    if np.array_equal(found, expected):
        return
    shared = min(len(found), len(expected))
    differs = np.flatnonzero(found[:shared] != expected[:shared])
    at = int(differs[0]) if len(differs) else shared
    doubled = at < len(found) and at > 0 and found[at] == found[at - 1]
    position = int(found[at]) if doubled else int(expected[at])
    raise GapError(after, up_to, position, "two events" if doubled else "no event")
