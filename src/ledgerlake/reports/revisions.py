"""The reports of closed months: a folder for each revision, whole or absent, and never changed.

A revision is written into a hidden folder, which gets its name in one step.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ledgerlake.lake.engines import DUCKDB, Engine
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.files import sync_folder
from ledgerlake.reports.books import Books, Entry
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import DEFINITIONS, MANIFEST, Manifest, file_facts, read_manifest, write_json
from ledgerlake.reports.noted import note_books
from ledgerlake.reports.slug import slug
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import write_reports

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection
    from ledgerlake.lake.pinned import PinnedLake

DRAFT: Final = "draft"

_LOG: Final = logging.getLogger(__name__)
_HIDDEN: Final = ".{}.writing"
_READ_ONLY: Final = 0o444
_REVISION: Final = re.compile(r"revision-[0-9]+")


class Gatekeeper(Protocol):
    """Lets through what is what the log says, or raises PublicationBlocked."""

    def everything(self, position: int, coming: Sequence[ReportSpec] = ()) -> None:
        """Every layer, up to a position; then reports as of it will come one by one, in this order."""

    def __call__(
        self, specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """Reports as of a position, with the rows of their summaries; only their intervals differ."""


def complete_revisions(lake: EventLake, out: Path, books: Books, engine: Engine = DUCKDB) -> list[Path]:
    """Write the folders of closed revisions that are missing in `out`, whose lock is held; which these were.

    And note the books there, so that whoever reads the folder knows what is closed.

    Those of another version of the reports can not be written: that is logged.

    Raises:
        ReportError: the rows would be others than those that were closed; the rest is written.
    """
    for left in out.glob(f"*/{_HIDDEN.format('*')}"):
        shutil.rmtree(left)
    done: list[Path] = []
    failed: list[ReportError] = []
    for entry in missing(out, books):
        if dict(entry.definitions) != DEFINITIONS:
            _LOG.warning(
                "The reports %s are missing, and were closed by another version (%s) than this program"
                " makes. Restore them from a backup, or make them with that version.",
                out / entry.folder,
                dict(entry.definitions),
            )
            continue
        try:
            _complete(lake, out, books, entry, engine)
        except ReportError as error:
            failed.append(error)
        else:
            done.append(out / entry.folder)
    for entry in books.closed():
        remove_draft(out, entry.period)
    note_books(out, books)
    if failed:
        raise failed[0]
    return done


def remove_draft(out: Path, period: str) -> None:
    """Remove a month's draft, which disappears at once."""
    draft = out / period / DRAFT
    hidden = draft.with_name(_HIDDEN.format(DRAFT))
    if draft.exists():
        draft.rename(hidden)
        shutil.rmtree(hidden)


def digest_of(reports: Mapping[str, Manifest]) -> str:
    """What stands for the rows of a revision's reports, by their folders' names."""
    lines = "".join(f"{name} {reports[name].digest}\n" for name in sorted(reports))
    return hashlib.sha256(lines.encode()).hexdigest()


def missing(out: Path, books: Books) -> list[Entry]:
    """The closes, those that were reopened too, whose folder is missing in `out`."""
    closes = [entry for entry in books.entries if entry.action == "close"]
    return [entry for entry in closes if not (out / entry.folder).is_dir()]


def is_revision_name(name: str) -> bool:
    """Whether a folder of this name is that of a closed month's revision, whatever is in it."""
    return _REVISION.fullmatch(name) is not None


def _complete(lake: EventLake, out: Path, books: Books, entry: Entry, engine: Engine) -> None:
    pinned = lake.pin(entry.position)
    with pinned.naming_damage(), engine.connect(pinned) as connection:
        then = Books(books.zone, books.entries[: entry.number - 1])
        hidden, digest = write(out, entry, then, pinned, connection, None)
    if digest != entry.digest:
        shutil.rmtree(hidden)
        raise ReportError(
            f"{out / entry.folder} is missing, and the lake gives other rows than those that were closed.",
            "Run `ledgerlake verify`: the lake is damaged, or of another log.",
        )
    publish(out, entry, hidden)


def write(
    out: Path,
    entry: Entry,
    books: Books,
    pinned: PinnedLake,
    connection: Connection,
    gate: Gatekeeper | None,
) -> tuple[Path, str]:
    """A revision's reports in a hidden folder, flushed to the disk and read-only; and their digest."""
    final = out / entry.folder
    hidden = final.with_name(_HIDDEN.format(final.name))
    if hidden.exists():
        shutil.rmtree(hidden)
    hidden.mkdir(parents=True)
    state = {"state": "closed", "revision": entry.revision, "supersedes": entry.supersedes}
    spec = ReportSpec(Interval(entry.start, entry.end, entry.zone, entry.period), books=books)
    report = write_reports(pinned, connection, spec, hidden, entry.formats, state=state, gate=gate)
    manifests = {slug(name): read_manifest(hidden / slug(name)) for name in report.organizations}
    digest = digest_of(manifests)
    content = {
        "type": "period",
        "period": entry.period,
        "zone": entry.zone,
        "start": entry.start.isoformat(),
        "end": entry.end.isoformat(),
        "position": entry.position,
        "revision": entry.revision,
        "supersedes": entry.supersedes,
        "definitions": dict(entry.definitions),
        "digest": digest,
        "reports": {
            name: {
                "organization": found.facts["organization"],
                "report_id": found.report_id,
                "lines": found.content["tables"]["itemised.parquet"]["rows"],
                "manifest": file_facts(hidden / name / MANIFEST),
            }
            for name, found in sorted(manifests.items())
        },
    }
    write_json(hidden / MANIFEST, content)
    for folder, _, names in os.walk(hidden):
        for name in names:
            (Path(folder) / name).chmod(_READ_ONLY)
        sync_folder(Path(folder))
    return hidden, digest


def publish(out: Path, entry: Entry, hidden: Path) -> None:
    """Give a revision's hidden folder its name."""
    final = out / entry.folder
    hidden.rename(final)
    sync_folder(final.parent)
