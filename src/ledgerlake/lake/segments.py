"""Segments: the event log in Parquet files of fixed position ranges.

Segment k of size N holds positions k*N+1 to (k+1)*N and is named by that range, also while it is still
open. What a file holds is a pure function of the rows present, so writers need not know of each other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ledgerlake.domain.events import SCHEMA_VERSION
from ledgerlake.eventstore.columnar import SCHEMA
from ledgerlake.lake.errors import CorruptFileError, LakeError, OutdatedFileError
from ledgerlake.lake.files import exclusive, publish, temporary
from ledgerlake.lake.parquet import (
    DeterministicWriter,
    read_footer,
    read_stated,
    read_verified,
    row_groups,
)

# Of columns and metadata. A reader refuses a newer one; an older one is written again from the log.
# 1: without refund_reference, extra_data, extra_metadata, and hashes of the bytes.
FORMAT: Final = 2

# (currency, event type) -> (events, sum of minor units); a Python int, so no sum can overflow.
Totals = dict[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A position range `first` to `last`, both included."""

    first: int
    last: int

    @classmethod
    def number(cls, index: int, size: int) -> Segment:
        """Segment `index` (from 0) of a lake with `size` events a segment."""
        return cls(index * size + 1, (index + 1) * size)

    @property
    def name(self) -> str:
        """File name; names sort as positions do."""
        return f"events-{self.first:012d}-{self.last:012d}.parquet"


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What a segment file states about itself: positions `first` to `to`, control sums, row hash."""

    path: Path
    segment: Segment
    to: int
    last_event_id: str
    totals: Totals
    row_hash: str
    format: int = FORMAT

    @property
    def outdated(self) -> bool:
        """Whether an earlier version of this program wrote it, with other columns."""
        return self.format < FORMAT

    @property
    def sealed(self) -> bool:
        """Whether the range is full, so that the file never changes again."""
        return self.to == self.segment.last

    @property
    def events(self) -> int:
        """Rows in the file."""
        return self.to - self.segment.first + 1


def read_info(folder: Path, segment: Segment) -> SegmentInfo | None:
    """What the segment's file states; None if there is no file.

    Raises:
        CorruptFileError: the footer is unreadable or contradicts the name or itself.
        LakeError: a newer version of this program wrote the file.
    """
    path = folder / segment.name
    try:
        found, hashed = read_stated(path), True
        if found is None:
            found, hashed = read_footer(path, unhashed_too=True).stated, False
    except FileNotFoundError:
        return None
    try:
        version = int(found["format"])
        if version > 1 and not hashed:
            raise CorruptFileError(f"{path} does not state the hash of its footer.")
        if version > FORMAT:
            raise LakeError(
                f"{path} has format {version}, this program knows up to {FORMAT}.",
                "Use the newer program that wrote it.",
            )
        info = SegmentInfo(
            path=path,
            segment=Segment(int(found["from"]), int(found["segment_last"])),
            to=int(found["to"]),
            last_event_id=found["last_event_id"],
            totals=_parse_totals(found["totals"]),
            row_hash=found["row_hash"],
            format=version,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptFileError(f"{path} lacks the metadata of a segment ({error!r}).") from error
    if info.segment != segment or not segment.first <= info.to <= segment.last:
        raise CorruptFileError(f"{path} states positions {info.segment.first} to {info.to}.")
    return info


def read_rows(info: SegmentInfo) -> pa.Table:
    """All rows of a segment file, with checksums, hashes, positions and control sums verified.

    The file may have grown since `info` was read; then the rows it has now are returned.

    Raises:
        CorruptFileError: something does not fit.
        OutdatedFileError: an earlier version of this program wrote it.
    """
    check_format(info)
    table = read_verified(info.path, SCHEMA)
    positions = table["position"].to_numpy()
    first = info.segment.first
    whole = len(positions) > 0 and positions[0] == first and positions[-1] == first + len(positions) - 1
    if not whole or not (positions[1:] > positions[:-1]).all():
        raise CorruptFileError(f"{info.path} does not hold consecutive positions from {first}.")
    if len(positions) == info.events and totals_of(table) != info.totals:
        raise CorruptFileError(f"{info.path} does not hold the amounts that its control sums state.")
    return table


def check_format(info: SegmentInfo) -> None:
    """See that the file has the columns that this program reads.

    Raises:
        OutdatedFileError: an earlier version of this program wrote it.
    """
    if info.outdated:
        raise OutdatedFileError(
            f"{info.path} has format {info.format}, this program reads format {FORMAT}.",
            "`ledgerlake refresh` writes it again from the log, and so does `ledgerlake lake rebuild`.",
        )


def write_segment(folder: Path, segment: Segment, tables: Iterable[pa.Table]) -> SegmentInfo:
    """Write the segment's file from rows that start at `segment.first`, and publish it atomically.

    A file that holds more by now, from a faster writer, is left alone: its info is returned.
    """
    path = folder / segment.name
    totals: Totals = {}
    to, last_event_id = segment.first - 1, ""
    with temporary(path) as temp:
        writer = DeterministicWriter(temp, SCHEMA)
        try:
            for group in row_groups(tables):
                writer.write(group)
                totals = add_totals(totals, totals_of(group))
                to = group["position"][-1].as_py()
                last_event_id = group["event_id"][-1].as_py()
            if to - segment.first + 1 != writer.rows or not segment.first <= to <= segment.last:
                raise LakeError(f"{writer.rows} rows up to position {to} are no content for {segment.name}.")
            info = SegmentInfo(path, segment, to, last_event_id, totals, writer.row_hash)
            writer.close(_metadata(info))
        finally:
            writer.abandon()
        # Held for a footer's read and a rename, so that a slow writer can not set back a faster one. On a
        # file system without locks it may; the reader notices and the next refresh heals it.
        with exclusive(folder / ".publish.lock"):
            current = _valid_info(folder, segment)
            if current is not None and not current.outdated and current.to > info.to:
                return current
            publish(temp, path)
    return info


def _valid_info(folder: Path, segment: Segment) -> SegmentInfo | None:
    try:
        return read_info(folder, segment)
    except CorruptFileError:
        return None


def totals_of(table: pa.Table) -> Totals:
    """Events and sum of minor units per currency and event type, exact."""
    # int64 sums wrap silently in Arrow; decimals do not.
    wide = pa.table(
        {
            "currency": table["currency"],
            "event_type": table["event_type"],
            "amount_minor": table["amount_minor"].cast(pa.decimal128(38, 0)),
        }
    )
    grouped = wide.group_by(["currency", "event_type"]).aggregate(
        [("amount_minor", "count"), ("amount_minor", "sum")]
    )
    return {
        (row["currency"], row["event_type"]): (row["amount_minor_count"], int(row["amount_minor_sum"]))
        for row in grouped.to_pylist()
    }


def add_totals(one: Totals, other: Totals) -> Totals:
    """Totals of both together."""
    counts: Counter[tuple[str, str]] = Counter()
    sums: Counter[tuple[str, str]] = Counter()
    for totals in (one, other):
        for key, (count, minor) in totals.items():
            counts[key] += count
            sums[key] += minor
    return {key: (counts[key], sums[key]) for key in sorted(counts)}


def _metadata(info: SegmentInfo) -> dict[str, str]:
    return {
        "kind": "event_segment",
        "format": str(FORMAT),
        "schema_version": str(SCHEMA_VERSION),
        "from": str(info.segment.first),
        "to": str(info.to),
        "segment_last": str(info.segment.last),
        "events": str(info.events),
        "position": str(info.to),
        "last_event_id": info.last_event_id,
        "totals": _format_totals(info.totals),
    }


def _format_totals(totals: Totals) -> str:
    rows: list[dict[str, Any]] = [
        {"currency": currency, "event_type": kind, "events": count, "amount_minor": minor}
        for (currency, kind), (count, minor) in sorted(totals.items())
    ]
    return json.dumps(rows, separators=(",", ":"))


def _parse_totals(text: str) -> Totals:
    return {
        (row["currency"], row["event_type"]): (int(row["events"]), int(row["amount_minor"]))
        for row in json.loads(text)
    }
