"""Whether reports are as they were written, and say what the lake says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.reports.billing_definition import LINE_FX, SUMMARY_FX
from ledgerlake.reports.checking import (
    check_books,
    check_listed,
    check_report,
    check_revision,
    read_table,
    visible,
)
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.manifest import (
    DEFINITIONS,
    MANIFEST,
    TABLES,
    Manifest,
    books_of,
    file_facts,
    generator,
    interval_of,
    read_json,
)
from ledgerlake.reports.revisions import is_revision_name, missing
from ledgerlake.reports.slug import slug
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import Target, write_reports, write_targets

if TYPE_CHECKING:
    import duckdb

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.pinned import PinnedLake
    from ledgerlake.reports.books import Books
    from ledgerlake.reports.rates import Rates

_FX: Final = frozenset(each.name for each in (*LINE_FX, *SUMMARY_FX))
_FEW: Final = 5


@dataclass(frozen=True, slots=True)
class VerifiedReports:
    """What a look at a folder of reports found; in order if there are no differences.

    `notes` are what could not be compared, `position` is the last one that a report is as of.
    """

    reports: int
    files: int
    position: int
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def noting(self, note: str) -> VerifiedReports:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))


def verify_reports(
    folder: Path,
    lake: EventLake | None = None,
    books: Books | None = None,
    rates: Rates | None = None,
    home: Path | None = None,
) -> VerifiedReports:
    """Every report in a folder, at any depth: its files against its manifest, and that against the lake.

    Each report is written anew from the lake, as of its position, and compared, to the byte where this
    version wrote it. `books` are those of the ledger, which hold what was closed; `rates` are those of the
    reports that were converted; `home` is the ledger's own folder of reports, in which every revision that
    the books name has to be. What is not given is not compared.

    Raises:
        ReportError: the folder is not there, or has no reports.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder.", "Name a report's folder, or one with reports in it.")
    differences: list[str] = []
    notes: list[str] = []
    reports: dict[Path, Manifest] = {}
    files = 0
    for each in _folders(folder):
        if _is_revision(each):
            differences += check_revision(each, books)
            files += 1
            continue
        manifest, found = check_report(each)
        differences += [f"{each}: {text}" for text in found]
        if manifest is not None:
            differences += [f"{each}: {text}" for text in check_listed(each, manifest)]
            files += 1 + len(manifest.files)
            reports[each] = manifest
    if home is not None and books is not None:
        differences += _lost(folder, home, books)
    if not files and not differences:
        raise ReportError(f"There are no reports in {folder}.", f"A report has a file {MANIFEST}.")
    groups = list(_alike(reports))
    if books is not None:
        for group in groups:
            text = check_books(next(iter(group.values())), books)
            differences += [f"{each}: {one}" for each in group for one in text]
    if lake is not None:
        for group in groups:
            against = _Against(lake, rates, group)
            differences += against.differences()
            notes += against.notes
    position = max((each.facts["position"] for each in reports.values()), default=0)
    return VerifiedReports(len(reports), files, position, tuple(differences), tuple(notes))


def _lost(folder: Path, home: Path, books: Books) -> list[str]:
    """The revisions that should be in the folder, as part of the ledger's own, and are not."""
    inside = folder.resolve()
    return [
        f"{home / entry.folder} is missing, as which {entry.by} closed {entry.period}: restore it, or run"
        " ledgerlake refresh, which writes it again"
        for entry in missing(home, books)
        if (home / entry.folder).resolve().is_relative_to(inside)
    ]


def converted(folder: Path) -> bool:
    """Whether any report in a folder was converted to a reporting currency, as far as can be read."""
    for each in _folders(folder):
        try:
            if read_json(each / MANIFEST)["facts"]["rates"] is not None:
                return True
        except (ReportError, OSError, KeyError, TypeError):
            continue
    return False


class _Against:
    """Reports of one interval as of one position, against the lake."""

    def __init__(self, lake: EventLake, rates: Rates | None, reports: Mapping[Path, Manifest]) -> None:
        self._lake = lake
        self._rates = rates
        self._reports = dict(reports)
        self._facts = next(iter(self._reports.values())).facts
        told = self._facts["rates"]
        # Whether the reports were converted, at rates that are not at hand.
        self._unrated = told is not None and (rates is None or rates.digest != told["digest"])
        self.notes: list[str] = []

    def differences(self) -> list[str]:
        """What differs, in words."""
        facts = self._facts
        where = ", ".join(str(each) for each in list(self._reports)[:_FEW])
        if facts["definitions"] != DEFINITIONS:
            self.notes.append(f"not compared with the lake, since another version made them: {where}")
            return []
        try:
            pinned = self._lake.pin(facts["position"])
            if pinned.last_event_id != facts["last_event_id"]:
                return [f"the lake has another event at position {facts['position']:,}: {where}"]
            with (
                tempfile.TemporaryDirectory(prefix="ledgerlake-verify-") as out,
                pinned.naming_damage(),
                pinned.duckdb() as connection,
            ):
                found = []
                self._write(pinned, connection, Path(out))
                for folder, manifest in self._reports.items():
                    anew = Path(out) / slug(manifest.facts["organization"])
                    found += [f"{folder}: {text}" for text in self._compared(folder, manifest, anew)]
                self._note_what_was_not()
                return found
        except (LakeError, ReportError) as error:
            return [f"can not be compared with the lake: {where}. {error}"]

    def _note_what_was_not(self) -> None:
        """Which columns and files were not compared."""
        facts = self._facts
        if self._unrated:
            self.notes.append(
                f"converted amounts in {facts['currency']} were not computed again: give the rates of"
                f" {facts['rates']['source']} with --rates"
            )
        # All have the same files.
        names = [name for name in next(iter(self._reports.values())).files if name not in TABLES]
        folders = [
            str(folder)
            for folder, manifest in self._reports.items()
            if self._unrated or manifest.content["generator"] != generator()
        ]
        if names and folders:
            why = "without their rates" if self._unrated else "which another version wrote"
            more = f" and {len(folders) - _FEW:,} more" if len(folders) > _FEW else ""
            self.notes.append(
                f"{', '.join(names)} were compared with their manifests only, {why}:"
                f" {', '.join(folders[:_FEW])}{more}"
            )

    def _spec(self) -> ReportSpec:
        facts = self._facts
        rates = None if facts["rates"] is None or self._unrated else self._rates
        return ReportSpec(
            interval_of(facts),
            books=books_of(facts),
            currency=facts["currency"] if rates is not None else None,
            rates=rates,
            unconverted=facts["unconverted"],
        )

    def _write(self, pinned: PinnedLake, connection: duckdb.DuckDBPyConnection, out: Path) -> None:
        """Write these reports anew: all at once where there are several; what is left one by one."""
        spec = self._spec()
        one = next(iter(self._reports.values()))
        formats = sorted({_format(name) for name in one.files})
        left = {each.facts["organization"] for each in self._reports.values()}
        if len(left) > 1:
            # Only theirs: others may have lines that can not be converted.
            target = Target(spec.interval, out, frozenset(left))
            [done] = write_targets(pinned, connection, spec, [target], formats, state=one.state)
            left -= set(done.organizations)
        for name in sorted(left):
            alone = replace(spec, organization=name)
            write_reports(pinned, connection, alone, out, formats, state=one.state)

    def _compared(self, folder: Path, manifest: Manifest, anew: Path) -> list[str]:
        same = manifest.content["generator"] == generator() and not self._unrated
        found = []
        for name, told in manifest.files.items():
            if same and file_facts(anew / name) == told:
                continue
            if name in TABLES:
                try:
                    here = read_table(folder / name)
                except (CorruptFileError, OSError):
                    continue  # told already
                found += [
                    f"{name}: {text}"
                    for text in _differing_rows(read_table(anew / name), here, not self._unrated)
                ]
            elif same:
                found.append(f"{name} is not what the lines and the summary give")
        return found


def _differing_rows(expected: pa.Table, found: pa.Table, converted: bool) -> list[str]:
    """The first rows that differ, by number from 1, with the columns that do."""
    names = [name for name in expected.column_names if converted or name not in _FX]
    expected, found = expected.select(names), found.select(names)
    if expected.equals(found):
        return []
    told = []
    if expected.num_rows != found.num_rows:
        told.append(f"the lake gives {expected.num_rows:,} rows, the file has {found.num_rows:,}")
    both = min(expected.num_rows, found.num_rows)
    one, other = expected.slice(0, both), found.slice(0, both)
    unequal = [
        pc.invert(
            pc.or_(
                pc.fill_null(pc.equal(one[name], other[name]), False),
                pc.and_(pc.is_null(one[name]), pc.is_null(other[name])),
            )
        )
        for name in names
    ]
    rows = pc.indices_nonzero(reduce(pc.or_, unequal)).to_pylist()
    for row in rows[:_FEW]:
        lake, file = one.slice(row, 1).to_pylist()[0], other.slice(row, 1).to_pylist()[0]
        told.append(
            f"row {row + 1}: "
            + ", ".join(f"{n} is {file[n]}, the lake gives {lake[n]}" for n in names if lake[n] != file[n])
        )
    if len(rows) > _FEW:
        told.append(f"... and {len(rows) - _FEW:,} more rows")
    return told


def _alike(reports: Mapping[Path, Manifest]) -> Iterator[dict[Path, Manifest]]:
    """The reports in groups that one look at the lake can compare: all facts equal but whose they are."""
    groups: dict[str, dict[Path, Manifest]] = {}
    for folder, manifest in reports.items():
        facts = {name: value for name, value in manifest.facts.items() if name != "organization"}
        key = json.dumps([facts, manifest.state, sorted(manifest.files)], sort_keys=True)
        groups.setdefault(key, {})[folder] = manifest
    yield from groups.values()


def _folders(folder: Path) -> Iterator[Path]:
    """The folders of reports and revisions in a folder, that itself included, in order."""
    names = visible(folder)
    if MANIFEST in names or any(name in names for name in TABLES) or is_revision_name(folder.absolute().name):
        yield folder
    for name in names:
        if (folder / name).is_dir():
            yield from _folders(folder / name)


def _is_revision(folder: Path) -> bool:
    """Whether a folder is a closed month's, with one folder a report, and no report itself."""
    try:
        found: bool = read_json(folder / MANIFEST).get("type") == "period"
    except (ReportError, OSError):
        names = visible(folder)
        return any((folder / name).is_dir() for name in names) or (
            is_revision_name(folder.absolute().name) and not any(name in names for name in TABLES)
        )
    return found


def _format(name: str) -> str:
    return name.rpartition(".")[2]
