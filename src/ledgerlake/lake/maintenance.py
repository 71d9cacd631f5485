"""Looking after the segments: what there is of them, whether every bit is right, and writing them again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
from pymongo.database import Database

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.archived import ArchiveError
from ledgerlake.eventstore.columnar import GapError, MalformedEventError, head
from ledgerlake.lake.errors import CorruptFileError, LakeError, OutdatedFileError
from ledgerlake.lake.files import remove_leftovers
from ledgerlake.lake.log_reader import LogReader, first_difference
from ledgerlake.lake.segments import (
    FORMAT,
    Segment,
    SegmentInfo,
    Totals,
    add_totals,
    read_info,
    read_rows,
    write_segment,
)

if TYPE_CHECKING:
    from ledgerlake.lake.event_lake import EventLake, OnProgress

Db: TypeAlias = Database[dict[str, Any]]

REBUILD: Final = "`ledgerlake lake rebuild` writes it again from the log."
_MOVE: Final = "Move it out of the folder."
_WHICH: Final = (
    "`ledgerlake verify` tells whether the log was changed."
    " If it was not, `ledgerlake lake rebuild --all` writes the lake again from it."
)
_OTHER_LOG: Final = "The database was restored or exchanged: see docs/operations.md."
_LOG: Final = "the log"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the lake: the name of the file (or "the log"), what it is, what mends it."""

    file: str
    found: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LakeVerification:
    """What a look at every bit of the segments came to.

    `position` is that up to which segments follow one another without a hole, `events` and `bytes` are of the
    files that hold together; `compared` says whether each event was compared with the log.
    """

    position: int
    files: int
    events: int
    bytes: int
    compared: bool
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class LakeRebuild:
    """What a rebuild did: segments looked at, the files written again, by name, and the events in those."""

    position: int
    segments: int
    written: tuple[str, ...]
    events: int


@dataclass(frozen=True, slots=True)
class ControlSum:
    """How many events there are of a currency and type, and what their amounts add up to."""

    currency: str
    event_type: str
    events: int
    amount_minor: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class LakeStatus:
    """What the segments' footers say; sizes in bytes.

    `head` and `lag` (events) are None where the log was not asked. `format` is the oldest of any file.
    """

    folder: str
    position: int
    head: int | None
    lag: int | None
    sealed: int
    open: int
    segment_size: int
    events: int
    bytes: int
    bytes_an_event: Decimal | None
    format: int
    updated_at: datetime | None
    control_sums: tuple[ControlSum, ...]
    problems: tuple[Problem, ...]


def status(lake: EventLake, db: Db | None = None) -> LakeStatus:
    """The state of the segments by their footers, and how far they are behind the log of `db`.

    Raises:
        LakeError: a newer version of this program wrote a file.
    """
    found = _footers(lake)
    infos = list(found.infos.values())
    totals: Totals = {}
    for info in infos:
        totals = add_totals(totals, info.totals)
    states = [info.path.stat() for info in infos]
    events, size = sum(info.events for info in infos), sum(state.st_size for state in states)
    end = None if db is None else head(db)
    return LakeStatus(
        folder=str(lake.root),
        position=found.position,
        head=end,
        lag=None if end is None else max(end - found.position, 0),
        sealed=sum(info.sealed for info in infos),
        open=sum(not info.sealed for info in infos),
        segment_size=lake.segment_size,
        events=events,
        bytes=size,
        bytes_an_event=round(Decimal(size) / events, 1) if events else None,
        format=min((info.format for info in infos), default=FORMAT),
        updated_at=datetime.fromtimestamp(max(state.st_mtime for state in states), UTC) if states else None,
        control_sums=tuple(
            ControlSum(currency, kind, count, minor, Decimal(minor).scaleb(-exponent(currency)))
            for (currency, kind), (count, minor) in totals.items()
        ),
        problems=_in_order([*found.problems, *(_outdated(info) for info in infos if info.outdated)]),
    )


def verify(lake: EventLake, db: Db | None = None, on_progress: OnProgress | None = None) -> LakeVerification:
    """Read every segment file whole, and see that each bit of it is as it was written.

    Checksums of pages, hashes of rows, content and footer, control sums, positions; segments without a hole;
    no other files among them; with `db`, each event as the log has it now. `on_progress(done, total)`
    counts events. Memory: two segments, and what is read ahead of the log.

    Raises:
        LakeError: a newer version of this program wrote a file.
    """
    found = _footers(lake)
    problems = list(found.problems)
    end = 0 if db is None else head(db)  # after the footers: no file of this log says more
    log = None if db is None else LogReader(db, end, lake.archive)
    total = sum(info.events for info in found.infos.values())
    seen = events = size = 0
    try:
        for info in found.infos.values():
            try:
                rows = read_rows(info)
            except OutdatedFileError:
                problems.append(_outdated(info))
            except CorruptFileError as damage:
                problems.append(_damaged(info.path, damage))
            else:
                events += rows.num_rows
                size += info.path.stat().st_size
                if log is not None and (problem := _compared(log, info, rows, end)) is not None:
                    problems.append(problem)
                    if problem.file == _LOG:  # to be mended first: then there is something to compare with
                        log.close()
                        log = None
            seen += info.events
            if on_progress is not None:
                on_progress(seen, total)
    finally:
        if log is not None:
            log.close()
    return LakeVerification(
        found.position,
        len(found.infos),
        events,
        size,
        log is not None,
        _in_order(problems),
    )


def rebuild(
    lake: EventLake, db: Db, *, everything: bool = False, on_progress: OnProgress | None = None
) -> LakeRebuild:
    """Write segments that are damaged, missing, set back or of an earlier format again from the log.

    Each file is replaced in one step, so whoever reads the lake may go on. Killed at any moment, run again,
    it does the rest. What the log has beyond the last segment is a refresh's to add.

    Args:
        everything: all segments, also those that hold together.
        on_progress: called with the events looked at or written, and those that there are.

    Raises:
        LakeError: the lake is of another log.
        GapError, MalformedEventError, ArchiveError: the log can not be read; that segment stays as it was.
    """
    found = _footers(lake)
    end = head(db)
    lake.check_same_log(db, list(found.infos.values()), end)
    segments = [Segment.number(index, lake.segment_size) for index in range(found.count)]
    if segments and segments[-1].first > end:
        raise LakeError(
            f"The lake {lake.root} has {segments[-1].name}, and the log ends at {end}.", _OTHER_LOG
        )
    if segments:
        lake.create_layout()
        remove_leftovers(lake.events_dir)
    log = LogReader(db, end, lake.archive)
    written: list[str] = []
    events = 0
    try:
        for segment in segments:
            wanted = min(segment.last, end)
            if everything or not _sound(found.infos.get(segment), may_be_open=segment == segments[-1]):
                info = write_segment(lake.events_dir, segment, log.read(segment.first - 1, wanted))
                written.append(segment.name)
                events += info.events
            if on_progress is not None:
                on_progress(wanted, min(segments[-1].last, end))
    finally:
        log.close()
    return LakeRebuild(lake.position(), len(segments), tuple(written), events)


@dataclass(slots=True)
class _Footers:
    """The footers that can be read, what is wrong without reading more, and the lake's extent.

    `position` is that up to which there is no hole, `count` the number of segments up to the last file.
    """

    infos: dict[Segment, SegmentInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    position: int = 0
    count: int = 0


def _footers(lake: EventLake) -> _Footers:
    found = _Footers()
    for path in lake.files():
        if (segment := lake.segment_of(path)) is not None:
            found.count = segment.last // lake.segment_size
        else:
            told = "no segment of this lake, but whoever reads the folder would read it, too"
            found.problems.append(Problem(path.name, told, _MOVE))
    # One after the other, not as listed: a folder that is written to is not listed as of one instant.
    missing: list[Segment] = []
    for index in range(found.count):
        segment = Segment.number(index, lake.segment_size)
        try:
            info = read_info(lake.events_dir, segment)
        except CorruptFileError as damage:
            found.problems.append(_damaged(lake.events_dir / segment.name, damage))
            continue
        if info is None:
            missing.append(segment)
            continue
        found.infos[segment] = info
        if found.position == segment.first - 1 and not info.outdated:
            found.position = info.to
        if not info.sealed and index < found.count - 1:
            told = f"ends at position {info.to:,}, and other segments follow"
            found.problems.append(Problem(segment.name, told, REBUILD))
    if missing:
        told = "missing" if len(missing) == 1 else f"missing, and {len(missing) - 1:,} more after it"
        found.problems.append(Problem(missing[0].name, told, REBUILD))
    return found


def _sound(info: SegmentInfo | None, *, may_be_open: bool) -> bool:
    if info is None or info.outdated or not (info.sealed or may_be_open):
        return False
    try:
        read_rows(info)
    except CorruptFileError:
        return False
    return True


def _compared(log: LogReader, info: SegmentInfo, rows: pa.Table, end: int) -> Problem | None:
    """A segment's rows against the log, which ends at `end`."""
    if info.to > end:
        told = f"ends at position {info.to:,}, the log at {end:,}"
        return Problem(info.segment.name, told, _OTHER_LOG)
    try:
        differs = first_difference(log, info.segment.first - 1, rows, end)
    except (GapError, MalformedEventError, ArchiveError) as error:
        return Problem(_LOG, error.message, error.remedy or "")
    return None if differs is None else Problem(info.segment.name, differs, _WHICH)


def _damaged(path: Path, damage: CorruptFileError) -> Problem:
    told = damage.message.removeprefix(f"{path} ").rstrip(".")
    return Problem(path.name, told, REBUILD)


def _outdated(info: SegmentInfo) -> Problem:
    told = f"has format {info.format}, this program reads format {FORMAT}"
    return Problem(info.segment.name, told, REBUILD)


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.file))
