"""The event lake: the log in Parquet segments, brought up to date from MongoDB and pinned for reading."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pymongo.database import Database

from ledgerlake.eventstore.columnar import event_id_at, head
from ledgerlake.lake.archive import EventArchive
from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.lake.files import remove_leftovers, write_atomically, write_once
from ledgerlake.lake.log_reader import LogReader, segment_rows
from ledgerlake.lake.pinned import PinnedLake
from ledgerlake.lake.segments import (
    FORMAT,
    Segment,
    SegmentInfo,
    check_format,
    read_info,
    read_rows,
    write_segment,
)

if TYPE_CHECKING:
    import duckdb
    import polars as pl

Document: TypeAlias = dict[str, Any]
OnProgress: TypeAlias = Callable[[int, int], None]

_LOG: Final = logging.getLogger(__name__)
# What each segment's file said of itself, with its inode, time and size: of every lake that this process has
# opened, since each step of a run opens it anew.
_FOOTERS: Final[dict[Path, tuple[tuple[int, int, int], SegmentInfo]]] = {}


@dataclass(frozen=True, slots=True)
class LakeRefresh:
    """What a refresh did: the lake's position before and after, and the segment files written."""

    from_position: int
    to_position: int
    events: int
    segments_written: int


class EventLake:
    """The lake in folder `root`: `events/` with segments of `segment_size` events each.

    Making one reads at most one small file, so it is cheap; nothing is created before the first refresh.

    Raises:
        LakeError: the folder holds a lake with another segment size.
    """

    def __init__(self, root: Path, segment_size: int = 100_000) -> None:
        if segment_size < 1:
            raise LakeError(f"A segment can not hold {segment_size} events.", "Give at least 1.")
        self.root = root.absolute()
        self.events_dir = self.root / "events"
        self.segment_size = segment_size
        self.archive = EventArchive(self.root)
        self._check_layout()

    def position(self) -> int:
        """Position up to which the lake holds every event, in this program's format; 0 if there is none."""
        return _current(self.segments())

    def end(self) -> tuple[int, str]:
        """Position and id of the last event, as a pinned lake has them: 0 and "" without any. Reads no event.

        Raises:
            OutdatedFileError: an earlier version of this program wrote it, and nothing refreshed it since.
        """
        held = self.segments()
        for info in held:
            check_format(info)
        return (held[-1].to, held[-1].last_event_id) if held else (0, "")

    def updated_at(self) -> datetime | None:
        """When the last segment was written; None for a lake without events."""
        held = self.segments()
        return datetime.fromtimestamp(held[-1].path.stat().st_mtime, UTC) if held else None

    def segments(self) -> list[SegmentInfo]:
        """The segments that make up the lake: all sealed but perhaps the last, without a hole.

        A segment behind a hole (the trace of a slow writer, or of a lost file) does not count until a
        refresh has closed the hole. Reads footers that changed since this process last did, nothing else.
        """
        held: list[SegmentInfo] = []
        while True:
            info = self._info(Segment.number(len(held), self.segment_size))
            if info is None:
                return held
            held.append(info)
            if not info.sealed:
                return held

    def files_behind_a_hole(self) -> list[Path]:
        """Segment files that do not count, because a segment before them is missing or not full."""
        held = len(self.segments())
        names = {Segment.number(index, self.segment_size).name for index in range(held)}
        own = (path for path in self.files() if self.segment_of(path) is not None)
        return [path for path in own if path.name not in names]

    def foreign_files(self) -> list[Path]:
        """Parquet files among the segments that are none: a glob over the folder would read them, too."""
        return [path for path in self.files() if self.segment_of(path) is None]

    def refresh(
        self, db: Database[Document], on_progress: OnProgress | None = None, up_to: int | None = None
    ) -> LakeRefresh:
        """Bring the lake up to the head of the log (or `up_to`). Writes nothing if nothing is new.

        Rows of the open tail are taken from its file, if that verifies, and only newer ones from MongoDB.
        Segments of an earlier format are written again, all of them, wherever `up_to` is: until then
        nothing reads them. May be killed at any moment and run any number of times at once.
        `on_progress(done, total)` counts events.

        Raises:
            GapError, MalformedEventError: the log is damaged; the lake stays as it was.
            LakeError: the lake was made from another database, or one that was restored since.
        """
        before = self.segments()
        held = before[-1].to if before else 0
        # Read after the lake's position: else a concurrent refresh would look like a foreign lake.
        end = head(db)
        self.check_same_log(db, before, end)
        position = _current(before)
        target = end if up_to is None else min(up_to, end)
        if position < held:
            target = max(target, held)
        if target <= position:
            return LakeRefresh(position, position, 0, 0)
        self.create_layout()
        for folder in (self.root, self.events_dir):
            remove_leftovers(folder)
        written = 0
        log = LogReader(db, target, self.archive)
        try:
            for index in range(position // self.segment_size, -(-target // self.segment_size)):
                segment = Segment.number(index, self.segment_size)
                wanted = min(segment.last, target)
                info = self._info(segment)
                if info is not None and index > position // self.segment_size:
                    # It lay behind a hole, or another refresh has just written it, from a later head.
                    self.check_same_log(db, [info], head(db))
                if info is None or info.outdated or info.to < wanted:
                    write_segment(self.events_dir, segment, segment_rows(log, segment, info, wanted))
                    written += 1
                if on_progress is not None:
                    on_progress(wanted - position, target - position)
        finally:
            log.close()
        return LakeRefresh(position, target, target - position, written)

    def pin(self, up_to: int | None = None) -> PinnedLake:
        """A view of the lake as of `up_to` (default: its position) that no refresh changes any more.

        Raises:
            LakeError: the lake does not reach `up_to` yet.
            CorruptFileError: the open tail is damaged.
            OutdatedFileError: an earlier version of this program wrote it, and nothing refreshed it since.
        """
        held = self.segments()
        position = held[-1].to if held else 0
        wanted = position if up_to is None else up_to
        if not 0 <= wanted <= position:
            raise LakeError(
                f"The lake {self.root} reaches position {position}, not {wanted}.",
                "Refresh it first: ledgerlake refresh.",
            )
        needed = [info for info in held if info.segment.first <= wanted]
        for info in needed:
            check_format(info)
        # The tail is replaced by every refresh: its rows are taken now. Sealed files never change.
        tail = None if not needed or needed[-1].sealed else read_rows(needed[-1])
        if tail is not None and needed[-1].segment.first + tail.num_rows <= wanted:
            raise LakeError(f"{needed[-1].path} was set back by a slow writer.", "Refresh and try again.")
        return PinnedLake(self.root, wanted, tuple(i for i in needed if i.sealed), tail)

    def scan(self, up_to: int | None = None) -> pl.LazyFrame:
        """The events with position <= `up_to` as a Polars LazyFrame, in position order; see `pin`."""
        return self.pin(up_to).scan()

    def duckdb(self, up_to: int | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the view `events`, as of `up_to`; see `pin`. Close it after use."""
        return self.pin(up_to).duckdb()

    def files(self) -> list[Path]:
        """All Parquet files among the segments, by name, which is the order of their positions."""
        return sorted(self.events_dir.glob("*.parquet"))

    def segment_of(self, path: Path) -> Segment | None:
        """The segment that a file of this name holds; None if a lake of this layout has none of that name."""
        first = path.name.removeprefix("events-").partition("-")[0]
        if not (first.isascii() and first.isdecimal()):
            return None
        index, rest = divmod(int(first) - 1, self.segment_size)
        segment = Segment.number(index, self.segment_size)
        return segment if rest == 0 and index >= 0 and path.name == segment.name else None

    def _info(self, segment: Segment) -> SegmentInfo | None:
        path = self.events_dir / segment.name
        try:
            state = path.stat()
        except FileNotFoundError:
            return None
        version = (state.st_ino, state.st_mtime_ns, state.st_size)
        known = _FOOTERS.get(path)
        if known is not None and known[0] == version:
            return known[1]
        try:
            info = read_info(self.events_dir, segment)
        except CorruptFileError as damage:
            _LOG.warning("%s The next refresh writes it again.", damage)
            return None
        if info is not None:
            _FOOTERS[path] = (version, info)
        return info

    def check_same_log(self, db: Database[Document], held: Sequence[SegmentInfo], end: int) -> None:
        """See that the last of these segments ends with the event that the log has there.

        Raises:
            LakeError: the lake was made from another database, or one that was restored since.
        """
        if not held:
            return
        last = held[-1]
        if last.to <= end and event_id_at(db, last.to) == last.last_event_id:
            return
        found = f"the log ends at {end}" if last.to > end else "the log has another event there"
        raise LakeError(
            f"The lake {self.root} holds position {last.to} of another log: {found}.",
            "The database was restored or exchanged. Point LEDGERLAKE_HOME at this database's own lake,"
            " or move the lake (all but its folder archive) and its reports away and refresh.",
        )

    def create_layout(self) -> None:
        """Make the lake's folders, and the file that says how it is laid out; bring that up to this format.

        Raises:
            LakeError: the folder holds a lake with another segment size, or of a newer format.
        """
        path = self.root / "lake.json"
        layout = (json.dumps({"format": FORMAT, "segmentSize": self.segment_size}) + "\n").encode()
        self.events_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_once(path, layout)
        # Another process may have created it first, with another size; or an earlier version of this
        # program, which from here on refuses to open what it would not understand.
        if self._check_layout() < FORMAT:
            with write_atomically(path) as temp:
                temp.write_bytes(layout)

    def _check_layout(self) -> int:
        """The format of the lake; this program's where there is none yet."""
        path = self.root / "lake.json"
        try:
            layout = json.loads(path.read_text())
            size, version = int(layout["segmentSize"]), int(layout["format"])
        except FileNotFoundError:
            return FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise LakeError(
                f"{path} is damaged ({error!r}).",
                "Restore it, or move the lake away, all but its folder archive.",
            ) from error
        if version > FORMAT:
            raise LakeError(
                f"{path} has format {version}, this program knows {FORMAT}.", "Use the newer one."
            )
        if size != self.segment_size:
            raise LakeError(
                f"The lake {self.root} has segments of {size} events, not {self.segment_size}.",
                f"Set LEDGERLAKE_SEGMENT_SIZE={size}, or move the lake away, all but its folder archive, to"
                " build it anew.",
            )
        return version


def _current(held: Sequence[SegmentInfo]) -> int:
    """The position up to which segments that follow one another are as this program writes them."""
    if not held:
        return 0
    return next((info.segment.first - 1 for info in held if info.outdated), held[-1].to)
