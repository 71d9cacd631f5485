"""Formats that a report came without: made of its Parquet files when asked for, and kept for the next one.

A folder for each, named by what its files are made of, so that a report that was written anew has another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Final

from ledgerlake.errors import LedgerLakeError
from ledgerlake.reports.formats import FILES_OF, export
from ledgerlake.reports.manifest import TABLES, Json, Manifest, file_facts, generator, read_json, write_json

_FACTS: Final = "files.json"
_MOST_BYTES: Final = 2 << 30
_PATIENCE_SECONDS: Final = 30.0
# Each holds a thread of those that also look tokens up.
_MOST_ASKING: Final = 4
_LONGEST_SECONDS: Final = 24 * 3600
_FORMAT_OF: Final = {name: kind for kind, names in FILES_OF.items() for name in names}


class ReportReplaced(LedgerLakeError):
    """A report was written anew while a file was made of it."""


class ExportsBusy(LedgerLakeError):
    """Others are having files made: many, or for long."""


class Exports:
    """What was made, in the folder `root`: nothing there is of worth, and it holds `most_bytes` at most."""

    def __init__(self, root: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._making = threading.Lock()
        self._asking = threading.BoundedSemaphore(_MOST_ASKING)

    def facts(self, manifest: Manifest, name: str) -> Json | None:
        """Size ("bytes") and "sha256" of a file if it is there; None: it would have to be made."""
        return _facts(self._folder(manifest, name), name)

    def get(self, report: Path, manifest: Manifest, name: str) -> tuple[Path, Json]:
        """A file of the report in the folder `report`, made if need be; and its size and SHA-256.

        Raises:
            ReportReplaced: the folder holds another report than the manifest's.
            ExportsBusy: one file is made at a time, a few wait for it, and others came first.
            ReportError, CorruptFileError: the report's Parquet files are damaged.
        """
        folder = self._folder(manifest, name)
        facts = _facts(folder, name)
        if facts is None:
            if not self._asking.acquire(blocking=False):
                raise _busy()
            try:
                # One at a time: a large report takes a core and much memory.
                if not self._making.acquire(timeout=_PATIENCE_SECONDS):
                    raise _busy()
                try:
                    facts = _facts(folder, name) or self._make(report, manifest, name)
                finally:
                    self._making.release()
            finally:
                self._asking.release()
        with contextlib.suppress(FileNotFoundError):  # removed by another process: it is asked for again
            os.utime(folder)
        return folder / name, facts

    def _folder(self, manifest: Manifest, name: str) -> Path:
        made_of = [*(manifest.files[table]["sha256"] for table in TABLES), *sorted(generator().items())]
        return self._root / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()}-{_FORMAT_OF[name]}"

    def _make(self, report: Path, manifest: Manifest, name: str) -> Json:
        final, kind = self._folder(manifest, name), _FORMAT_OF[name]
        hidden = final.with_name(f".{final.name}.{os.getpid()}-{threading.get_ident()}")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        try:
            for table in TABLES:
                _take(report / table, hidden / table)
                if file_facts(hidden / table) != manifest.files[table]:
                    raise ReportReplaced(f"{report} was written anew.", "Ask again.")
            made = {each.name: file_facts(each) for each in export(hidden, [kind])}
            write_json(hidden / _FACTS, {"files": made})
            for table in TABLES:
                (hidden / table).unlink()
            with contextlib.suppress(FileNotFoundError):  # another process is at it, too
                self._make_room(sum(each["bytes"] for each in made.values()))
            try:
                hidden.rename(final)
            except OSError:
                # Another process was first, with the same bytes.
                if _facts(final, name) is None:
                    raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return made[name]

    def _make_room(self, needed: int) -> None:
        """Remove what was not asked for longest, and what somebody began who died."""
        for left in self._root.glob(".*"):
            if left.stat().st_mtime < time.time() - _LONGEST_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        kept = sorted((each.stat().st_mtime, each) for each in self._root.iterdir() if each.name[0] != ".")
        sizes = {each: sum(file.stat().st_size for file in each.iterdir()) for _, each in kept}
        for _, each in kept:
            if sum(sizes.values()) + needed <= self._most_bytes:
                return
            shutil.rmtree(each, ignore_errors=True)
            del sizes[each]


def _busy() -> ExportsBusy:
    return ExportsBusy("Others are having files made.", "Try again in a minute.")


def _take(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # a draft that is replaced stays what it was here
    except FileNotFoundError:
        raise ReportReplaced(f"{source} is gone.", "Ask again.") from None
    except OSError:
        shutil.copyfile(source, target)


def _facts(folder: Path, name: str) -> Json | None:
    try:
        found: Json = read_json(folder / _FACTS)["files"][name]
    except FileNotFoundError:
        return None
    return found
