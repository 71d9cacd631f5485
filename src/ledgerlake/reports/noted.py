"""A copy of the list of closes beside the reports, for whoever reads them without MongoDB.

The list itself is in MongoDB, and only that counts where a period is closed or reopened.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ledgerlake.reports.books import Books, document_of, entry_of
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.manifest import read_json, write_json

NOTED: Final = "periods.json"
_INSTANTS: Final = ("start", "end", "at")


def note_books(out: Path, books: Books) -> None:
    """Write OUT/periods.json, in one step; not at all if it says so already. OUT's lock is held."""
    entries = [
        {**found, **{name: found[name].isoformat() for name in _INSTANTS}}
        for found in map(document_of, books.entries)
    ]
    path = out / NOTED
    content: dict[str, Any] = {"zone": books.zone, "entries": entries}
    try:
        if read_json(path) == content:
            return
    except (FileNotFoundError, ReportError):
        pass
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def noted_books(out: Path) -> Books | None:
    """What `note_books` wrote; None where nothing is noted.

    Raises:
        ReportError: the file is damaged.
    """
    try:
        content = read_json(out / NOTED)
        entries = [
            entry_of({**each, **{name: datetime.fromisoformat(each[name]) for name in _INSTANTS}})
            for each in content["entries"]
        ]
        return Books(str(content["zone"]), tuple(entries))
    except FileNotFoundError:
        return None
    except (ReportError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{out / NOTED} is damaged ({error}).", "Run `ledgerlake refresh`: it writes it anew."
        ) from error
