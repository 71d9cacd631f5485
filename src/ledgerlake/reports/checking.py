"""Whether a report's files are as they were written: each against the manifest, and that against itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.reports.billing_definition import ITEMISED_FILE, SUMMARY_FILE
from ledgerlake.reports.books import Books
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.manifest import (
    MANIFEST,
    TABLES,
    Manifest,
    closed_facts,
    file_facts,
    read_json,
    read_manifest,
    stated,
    totals_of,
)
from ledgerlake.reports.revisions import digest_of

_SCHEMAS: Final = dict(zip(TABLES, (ITEMISED_FILE, SUMMARY_FILE), strict=True))


def check_report(folder: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest of a report's folder, if that can be read, and how its files differ from it, in words."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return None, [f"{MANIFEST} is missing"]
    except (ReportError, OSError) as error:
        return None, [str(error)]
    found = []
    known = {*manifest.files, MANIFEST}
    found += [f"{each} is no file of this report" for each in visible(folder) if each not in known]
    for name, told in manifest.files.items():
        try:
            here = file_facts(folder / name)
        except OSError as error:
            found.append(f"{name} can not be read ({error})")
            continue
        if here != told:
            found.append(
                f"{name} has {here['bytes']:,} bytes with the SHA-256 {here['sha256'][:16]}..., the manifest"
                f" says {told['bytes']:,} with {told['sha256'][:16]}...{_damage(folder / name)}"
            )
    if not found:
        found += _against_tables(folder, manifest)
    return manifest, found


def _against_tables(folder: Path, manifest: Manifest) -> list[str]:
    """What the manifest says of the tables, against the rows and the metadata in them."""
    found = []
    content = manifest.content
    try:
        footers = {name: read_footer(folder / name) for name in TABLES}
        lines, summary = (read_table(folder / name) for name in TABLES)
    except (CorruptFileError, OSError) as error:
        return [str(error)]
    totals = totals_of(summary)
    if totals != content["totals"]:
        found.append("the control totals of the manifest are not those of the summary")
    expected = stated(manifest.facts, manifest.state, content["totals"])
    expected["generator"] = json.dumps(content["generator"], sort_keys=True, separators=(",", ":"))
    for name, footer in footers.items():
        wrong = [key for key, value in expected.items() if footer.stated.get(key) != value]
        if wrong:
            found.append(f"{name} says otherwise than the manifest: {', '.join(wrong)}")
        told = content["tables"].get(name, {})
        if (told.get("rows"), told.get("row_hash")) != (footer.rows, footer.stated.get("row_hash")):
            found.append(f"{name} has other rows than the manifest says")
    sums = (
        lines.group_by(["currency", "category"])
        .aggregate([("line", "count"), ("amount_minor", "sum"), ("failed_minor", "sum")])
        .to_pylist()
    )
    of_lines = {
        (row["currency"], row["category"]): (
            row["line_count"],
            row["amount_minor_sum"],
            row["failed_minor_sum"] or 0,
        )
        for row in sums
    }
    of_summary = {
        (row["currency"], row["category"]): (row["count"], row["net_minor"], row["failed_minor"])
        for row in totals
        if row["count"]
    }
    if of_lines != of_summary:
        wrong_keys = sorted(
            key for key in {*of_lines, *of_summary} if of_lines.get(key) != of_summary.get(key)
        )
        named = ", ".join(" ".join(key) for key in wrong_keys)
        found.append(f"the lines do not add up to the summary: {named}")
    return found


def check_revision(folder: Path, books: Books | None) -> list[str]:
    """A closed month's folder: whose reports it has to hold, and that they are those that were closed."""
    try:
        content = read_json(folder / MANIFEST)
        listed: dict[str, Any] = content["reports"]
        found = [
            f"{folder / each} is no report of this revision"
            for each in visible(folder)
            if each not in {*listed, MANIFEST}
        ]
        manifests = {}
        for name, told in listed.items():
            try:
                if file_facts(folder / name / MANIFEST) != told["manifest"]:
                    found.append(f"{folder / name / MANIFEST} is not the one that was closed")
                manifests[name] = read_manifest(folder / name)
            except (ReportError, OSError) as error:
                found.append(str(error))
        if len(manifests) == len(listed) and digest_of(manifests) != content["digest"]:
            found.append(f"{folder}: the reports are not those that were closed")
        closed = [
            entry
            for entry in (books.entries if books is not None else ())
            if entry.action == "close"
            and entry.folder == f"{content['period']}/revision-{content['revision']}"
        ]
        if books is not None and [entry.digest for entry in closed] != [content["digest"]]:
            found.append(f"{folder}: the list of closed periods says otherwise, or does not know of it")
        return found
    except (ReportError, OSError, KeyError, TypeError) as error:
        return [f"{folder / MANIFEST}: {error}"]


def check_listed(folder: Path, manifest: Manifest) -> list[str]:
    """Whether a report that says it was closed is listed, as it is, by a revision in the folder above."""
    if manifest.state.get("state") != "closed":
        return []
    above = folder.absolute().parent / MANIFEST
    try:
        told = read_json(above)["reports"].get(folder.absolute().name)
        if told is None:
            return [f"it says that it was closed, and {above} does not list it"]
        if told["manifest"] != file_facts(folder / MANIFEST):
            return [f"{MANIFEST} is not the one that was closed, says {above}"]
    except (ReportError, OSError, KeyError, TypeError, AttributeError) as error:
        return [f"it says that it was closed, and {above} can not be asked ({error!r})"]
    return []


def check_books(manifest: Manifest, books: Books) -> list[str]:
    """Whether a report was made by the ledger's books, as they are or were at any time."""
    facts = manifest.facts
    try:
        closed, zone = facts["books"]["closed"], facts["books"]["zone"]
        entries = books.entries
        if manifest.state.get("state") == "closed":
            # Its own close, and what came later, had no say in it; what came before it did.
            month = f"{facts['interval']['label']}/revision-{manifest.state['revision']}"
            own = [each.number for each in entries if each.action == "close" and each.folder == month]
            lengths = range(own[0] - 1, own[0]) if own else range(0)
        else:
            lengths = range(len(entries) + 1)
        # Without a close the zone is only a setting, which may have been another one then.
        if zone == books.zone or not closed:
            for length in lengths:
                if closed == closed_facts(Books(books.zone, entries[:length]), facts["position"]):
                    return []
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} does not say by which books it was made ({error!r})"]
    except ReportError as error:
        return [str(error)]
    periods = ", ".join(str(each["period"]) for each in closed) or "no month"
    made = f"it was made by books in {zone} with {periods} closed before position {facts['position']:,}"
    return [f"{made}: this ledger's never said so"]


def visible(folder: Path) -> list[str]:
    """The names in a folder, those apart that are being written."""
    return sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))


def read_table(path: Path) -> pa.Table:
    """The rows of one of a report's Parquet files, if every bit is as it was written.

    Raises:
        CorruptFileError: it is not.
    """
    return read_verified(path, _SCHEMAS[path.name])


def _damage(path: Path) -> str:
    """Where a Parquet file is damaged, as far as it says."""
    if path.name not in _SCHEMAS:
        return ""
    try:
        read_table(path)
    except (CorruptFileError, OSError) as error:
        return f": {error}"
    return ""
