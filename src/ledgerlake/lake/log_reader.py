"""Rows for segments: from their files as far as those go, then from the log in MongoDB."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from typing import Any, Final

import pyarrow as pa
from pymongo.database import Database

from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.columnar import iter_columns
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import ROW_GROUP
from ledgerlake.lake.segments import Segment, SegmentInfo, read_rows

_LOG: Final = logging.getLogger(__name__)


def segment_rows(
    log: LogReader, segment: Segment, info: SegmentInfo | None, wanted: int
) -> Iterator[pa.Table]:
    """The segment's rows up to `wanted`: from its file as far as that verifies, then from the log.

    All from the log where the file is of an earlier format: it lacks columns.
    """
    after = segment.first - 1
    if info is not None and not info.outdated:
        try:
            kept = read_rows(info)
        except CorruptFileError as damage:
            _LOG.warning("%s It is written again from the log.", damage)
        else:
            yield kept
            after += kept.num_rows
    yield from log.read(after, wanted)


class LogReader:
    """Consecutive stretches of the log from one stream: reading goes on while a file is written."""

    def __init__(self, db: Database[dict[str, Any]], end: int, archive: ArchivedEvents = NO_ARCHIVE) -> None:
        self._db = db
        self._archive = archive
        self._end = end
        self._stream: Generator[pa.Table, None, None] | None = None
        self._rest: pa.Table | None = None
        self._position = 0

    def read(self, after: int, up_to: int) -> Iterator[pa.Table]:
        """The events with after < position <= up_to; stretches read in order come from one stream."""
        if self._stream is None or self._position != after:
            self.close()
            self._stream = iter_columns(self._db, after, self._end, ROW_GROUP, archive=self._archive)
            self._position = after
        while self._position < up_to:
            table = self._rest if self._rest is not None else next(self._stream)
            part = table.slice(0, up_to - self._position)
            rest = table.slice(part.num_rows)
            self._rest = rest if rest.num_rows else None
            self._position += part.num_rows
            yield part

    def close(self) -> None:
        """Stop reading ahead."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._rest = None


def first_difference(log: LogReader, after: int, rows: pa.Table, end: int) -> str | None:
    """In words, where rows that follow position `after` first say something else than the log up to `end`.

    Names columns and no values, which may be personal. None: they say the same.
    """
    done = 0
    for expected in log.read(after, min(after + rows.num_rows, end)):
        part = rows.slice(done, expected.num_rows)
        done += expected.num_rows
        if part.equals(expected):
            continue
        names = [name for name in part.column_names if not part[name].equals(expected[name])]
        pairs = zip(part.select(names).to_pylist(), expected.select(names).to_pylist(), strict=True)
        row, one, other = next((row, *pair) for row, pair in enumerate(pairs) if pair[0] != pair[1])
        differing = ", ".join(name for name in names if one[name] != other[name])
        position = expected["position"][row].as_py()
        return f"says something else of position {position:,} than the log: {differing}"
    return None
