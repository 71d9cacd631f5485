"""Import: a file of commands through the real aggregates and the real append path, batch by batch."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ledgerlake.commands.model import CommandResult
from ledgerlake.commands.payments import Begun, PaymentHandler
from ledgerlake.commands.rejections import Rejection, RejectionLog, rejection_of, rejection_of_fields
from ledgerlake.domain.payment import Command, CommandRejected
from ledgerlake.ingest.parse import parse_command
from ledgerlake.ingest.rejections_file import RejectionsFile
from ledgerlake.ingest.rows import BrokenFile, Row, open_rows
from ledgerlake.lake.files import remove_leftovers, write_atomically


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is: `done` of `total` (compressed bytes; for Parquet rows), and its rows."""

    done: int
    total: int
    rows: int


@dataclass(slots=True)
class ImportSummary:
    """What an import did. rows = accepted + duplicates + rejected.

    `first_position` and `last_position` span the log's new events of this import; other writers'
    events may lie between them. Paths are absolute.
    """

    file: str
    digest: str
    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_by_code: dict[str, int] = field(default_factory=dict)
    first_position: int | None = None
    last_position: int | None = None
    ignored_columns: list[str] = field(default_factory=list)
    rejections_file: str = ""
    summary_file: str = ""
    seconds: float = 0.0
    broken: str | None = None

    @property
    def events(self) -> int:
        """Events that this import added to the log."""
        return self.accepted


_Parsed: TypeAlias = tuple[Row, "Command | CommandRejected"]


def import_file(
    path: Path,
    handler: PaymentHandler,
    rejections: RejectionLog,
    imports_dir: Path,
    *,
    batch: int = 500,
    on_progress: Callable[[ImportProgress], None] | None = None,
) -> ImportSummary:
    """Do every command of the file once; a second run adds nothing.

    Refused rows are kept in `rejections` and in rejections.parquet, beside summary.json, under
    `imports_dir/<file name>-<digest>/`.

    Raises:
        BrokenFile: the file can not be read to its end. The batches before that place are in the log,
            whole; the summary says so in `broken`. Importing the mended file again does the rest.
    """
    started = time.monotonic()
    digest = _digest(path)
    folder = imports_dir / f"{path.name}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    summary = ImportSummary(
        file=str(path.resolve()),
        digest=digest,
        rejections_file=str((folder / "rejections.parquet").resolve()),
        summary_file=str((folder / "summary.json").resolve()),
    )
    codes: Counter[str] = Counter()
    broken: BrokenFile | None = None
    with RejectionsFile(folder / "rejections.parquet") as refused_rows:

        def finish(sent: _Sent) -> None:
            refused = _finish(sent, handler, rejections, summary)
            refused_rows.write(refused)
            codes.update(rejection.reason_code for rejection in refused)
            if on_progress is not None:
                on_progress(ImportProgress(sent.read, sent.size, summary.rows))

        try:
            with open_rows(path) as file, closing(_read_ahead(_batches(file.rows, batch))) as batches:
                sent: _Sent | None = None
                before: _Sent | None
                try:
                    for parsed in batches:
                        commands = [c for _, c in parsed if not isinstance(c, CommandRejected)]
                        # A batch is decided while the one before commits, unless it needs the outcome.
                        if sent is not None and not sent.begun.streams.isdisjoint(
                            command.stream_id for command in commands
                        ):
                            before, sent = sent, None
                            finish(before)
                        before, sent = sent, _Sent(parsed, handler.begin(commands), file.read(), file.size)
                        if before is not None:
                            finish(before)
                finally:
                    # Whatever ends the loop: what is on its way is stored, and its refusals are kept.
                    if sent is not None:
                        finish(sent)
                    summary.ignored_columns = file.ignored
        except BrokenFile as error:
            broken = error
    summary.rejected_by_code = dict(sorted(codes.items()))
    summary.seconds = round(time.monotonic() - started, 3)
    summary.broken = None if broken is None else str(broken)
    with write_atomically(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n")
    if broken is not None:
        stored = f"The {summary.rows:,} rows of the whole batches before it are in"
        rest = "importing the mended file does the rest, and nothing twice"
        broken.args = (f"{broken} {stored}; {rest}. Summary: {summary.summary_file}",)
        raise broken
    return summary


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch whose events are on their way, and how much of the file's size had been read by then."""

    parsed: Sequence[_Parsed]
    begun: Begun
    read: int
    size: int


def _finish(
    sent: _Sent, handler: PaymentHandler, rejections: RejectionLog, summary: ImportSummary
) -> Sequence[Rejection]:
    parsed = sent.parsed
    outcomes = iter(handler.finish(sent.begun))
    refused: list[Rejection] = []
    accepted: list[Command] = []
    fresh: list[str] = []
    for row, command in parsed:
        if isinstance(command, CommandRejected):
            origin = f"{summary.digest}:{row.line}"
            refused.append(
                rejection_of_fields(
                    row.fields, command, origin, summary.file, row.line, unhashed=rejections.unhashed
                )
            )
            continue
        outcome = next(outcomes)
        if isinstance(outcome, CommandRejected):
            refused.append(
                rejection_of(command, outcome, summary.file, row.line, unhashed=rejections.unhashed)
            )
            continue
        accepted.append(command)
        if outcome.duplicate:
            summary.duplicates += 1
        else:
            _count(summary, outcome)
            fresh.append(outcome.command_id)
    # In this order: a row of this batch that is refused under an accepted id is not mended by it.
    rejections.resolve(accepted, fresh=fresh)
    kept = rejections.record(refused)
    summary.rows += len(parsed)
    summary.rejected += len(refused)
    return kept


def _count(summary: ImportSummary, result: CommandResult) -> None:
    summary.accepted += 1
    if summary.first_position is None or result.position < summary.first_position:
        summary.first_position = result.position
    if summary.last_position is None or result.position > summary.last_position:
        summary.last_position = result.position


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[_Parsed]]:
    batch: list[_Parsed] = []
    for row in rows:
        try:
            batch.append((row, parse_command(row.fields)))
        except CommandRejected as rejected:
            batch.append((row, rejected))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_ahead(batches: Iterator[list[_Parsed]]) -> Generator[list[_Parsed], None, None]:
    """The same batches, parsed by a thread of its own while the one before is committed."""
    ready: queue.Queue[list[_Parsed] | BaseException | None] = queue.Queue(maxsize=4)
    stopped = threading.Event()

    def put(item: list[_Parsed] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that reads the queue
            put(error)

    reader = threading.Thread(target=read, name="ledgerlake-import-reader", daemon=True)
    reader.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        reader.join()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenFile(path, None, f"can not be read ({error.strerror}).", "Check the path.") from error


def summary_as_dict(summary: ImportSummary) -> dict[str, Any]:
    """The summary's figures, as `--json` prints them."""
    return asdict(summary)
