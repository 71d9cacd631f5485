"""The manifest beside a report: what it is of, what it says in sum, and a SHA-256 of every file.

A report's facts are what it is a function of: equal facts, equal rows and, by one version of this program,
equal bytes. They stand in the manifest and in the metadata of the Parquet files. `state` is what became of
the report (a draft, or which revision of a closed period), and plays no part in its id.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ledgerlake.lake.files import write_atomically
from ledgerlake.lake.parquet import WrittenFile, read_footer
from ledgerlake.reports.billing_definition import ITEMISED, ITEMISED_FILE, SUMMARY, SUMMARY_FILE
from ledgerlake.reports.books import BEGINNING, Books, Entry
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval

if TYPE_CHECKING:
    from ledgerlake.reports.spec import ReportSpec

Json: TypeAlias = dict[str, Any]

MANIFEST: Final = "manifest.json"
TYPE: Final = "billing"
DEFINITIONS: Final = {each.name: each.version for each in (ITEMISED, SUMMARY)}
TABLES: Final = ("itemised.parquet", "summary.parquet")
_CHUNK: Final = 1 << 20
# How a sealed file ends: its last member speaks for all bytes before it, however they are rendered.
_SEAL: Final = b',\n "sha256": "'
_END: Final = b'"\n}\n'
_LINES_DOWN_TO: Final = 4
# For people to read: two names of one interval, or of one file of rates, mean the same report.
_NAMES: Final = ("label", "source")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was written or read: its id, and the whole content as JSON has it."""

    report_id: str
    content: Json

    @property
    def facts(self) -> Json:
        """What the report is a function of."""
        found: Json = self.content["facts"]
        return found

    @property
    def state(self) -> Json:
        """What became of it: {"state": "draft"}, or state, revision and supersedes of a closed one."""
        found: Json = self.content["state"]
        return found

    @property
    def files(self) -> dict[str, Json]:
        """Name -> size in bytes and SHA-256 of each file."""
        found: dict[str, Json] = self.content["files"]
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and of the rows: equal for equal reports, whichever version wrote the files."""
        rows = {name: table["row_hash"] for name, table in self.content["tables"].items()}
        return _sha256({"report_id": self.report_id, "rows": rows})


def facts_of(spec: ReportSpec, organization: str, position: int, last_event_id: str) -> Json:
    """The facts of one organization's report as of a position; `spec.books` may know of later closes."""
    return {
        "type": TYPE,
        "definitions": dict(DEFINITIONS),
        "organization": organization,
        "interval": {
            "label": spec.interval.label,
            "start": spec.interval.start.isoformat(),
            "end": spec.interval.end.isoformat(),
            "zone": spec.interval.zone,
        },
        "position": position,
        "last_event_id": last_event_id,
        "books": {"zone": spec.books.zone, "closed": closed_facts(spec.books, position)},
        "currency": spec.currency,
        "rates": None if spec.rates is None else {"digest": spec.rates.digest, "source": spec.rates.source},
        "unconverted": spec.unconverted,
    }


def closed_facts(books: Books, position: int) -> list[Json]:
    """The closes that have a say in a report as of a position."""
    return [
        {"period": each.period, "end": each.end.isoformat(), "position": each.position}
        for each in books.shut(position)
    ]


def books_of(facts: Mapping[str, Any]) -> Books:
    """The books that a report was made by, as far as they had a say in it."""
    zone = facts["books"]["zone"]
    closes = [
        Entry(
            number=number,
            action="close",
            period=each["period"],
            zone=zone,
            start=BEGINNING,
            end=datetime.fromisoformat(each["end"]),
            revision=1,
            position=each["position"],
            at=BEGINNING,
            by="",
        )
        for number, each in enumerate(facts["books"]["closed"], 1)
    ]
    return Books(zone, tuple(closes))


def interval_of(facts: Mapping[str, Any]) -> Interval:
    """The interval that a report covers."""
    found = facts["interval"]
    start, end = (datetime.fromisoformat(found[name]) for name in ("start", "end"))
    return Interval(start, end, found["zone"], found["label"])


def report_id(facts: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of the facts, in whatever order they stand; what only names things apart."""
    bare = {
        fact: {name: each for name, each in value.items() if name not in _NAMES}
        if isinstance(value, Mapping)
        else value
        for fact, value in facts.items()
    }
    return _sha256(bare)


def totals_of(summary: pa.Table) -> list[Json]:
    """The control totals of a report: its summary's keys, counts and sums of minor units."""
    names = [each.name for each in summary.schema if pa.types.is_integer(each.type)]
    keys = [name for name in ("currency", "category") if name in summary.column_names]
    found: list[Json] = summary.select([*keys, *names]).to_pylist()
    return found


def stated(
    facts: Mapping[str, Any], state: Mapping[str, Any] | None, totals: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """The same as texts, for the metadata of a Parquet file: what is no text already, as JSON."""
    content = {**facts, "state": _state(state), "generator": generator(), "totals": totals}
    texts = {name: value if isinstance(value, str) else _canonical(value) for name, value in content.items()}
    return {"report_id": report_id(facts), **texts}


def write_manifest(
    folder: Path,
    facts: Mapping[str, Any],
    files: Sequence[str],
    state: Mapping[str, Any] | None = None,
    written: tuple[Mapping[str, WrittenFile], Sequence[Json]] | None = None,
) -> Manifest:
    """Write FOLDER/manifest.json about these files in it; the two Parquet files have to be among them.

    `written` is what the caller has just made of the two, and the summary's control totals; else that is
    taken from the files as they lie there.

    Raises:
        CorruptFileError: a Parquet file can not be read.
    """
    if written is None:
        tables = {name: _table(folder / name) for name in TABLES}
        totals: Sequence[Json] = totals_of(pq.ParquetFile(folder / TABLES[1]).read(use_threads=False))
        digests = {}
    else:
        made, totals = written
        tables = {
            name: {"rows": made[name].rows, "row_hash": made[name].row_hash, "columns": _COLUMNS[name]}
            for name in TABLES
        }
        digests = {name: {"bytes": made[name].bytes, "sha256": made[name].sha256} for name in TABLES}
    content: Json = {
        "report_id": report_id(facts),
        "facts": dict(facts),
        "state": _state(state),
        "generator": generator(),
        "tables": tables,
        "totals": totals,
        "files": {name: digests.get(name) or file_facts(folder / name) for name in sorted(files)},
    }
    write_json(folder / MANIFEST, content)
    return Manifest(content["report_id"], content)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a report's folder.

    Raises:
        ReportError: it was changed since it was written, or is none.
        FileNotFoundError: there is none.
    """
    path = folder / MANIFEST
    content = read_json(path)
    try:
        found = Manifest(content["report_id"], content)
        if report_id(found.facts) != found.report_id:
            raise ReportError(f"{path}: its id {found.report_id} is not that of its facts.")
        if not all(isinstance(content[name], dict) for name in ("state", "tables", "files")):
            raise TypeError("not an object")
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is no manifest of a report ({error!r}).") from error
    return found


@cache
def generator() -> dict[str, str]:
    """What wrote the files: equal versions, equal bytes."""
    versions = {name: version(name) for name in ("ledgerlake", "polars", "pyarrow")}
    return {**versions, "zlib": zlib.ZLIB_RUNTIME_VERSION}


def file_facts(path: Path) -> Json:
    """Size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whose last member is the SHA-256 of all bytes before it, in one step."""
    body = _rendered(content).encode("utf-8", "surrogatepass").removesuffix(b"\n}")
    seal = hashlib.sha256(body).hexdigest().encode()
    with write_atomically(path) as temp:
        temp.write_bytes(body + _SEAL + seal + _END)


def read_json(path: Path) -> Json:
    """What `write_json` wrote.

    Raises:
        ReportError: a bit of it is not as it was written.
        FileNotFoundError: there is no such file.
    """
    body, _, rest = path.read_bytes().rpartition(_SEAL)
    if rest != hashlib.sha256(body).hexdigest().encode() + _END:
        raise ReportError(f"{path} was changed after it was written.")
    try:
        content: Json = json.loads(body + b"\n}")
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is damaged ({error!r}).") from error
    return content


def _rendered(value: Any, depth: int = 0) -> str:
    """JSON that people can read: a line for each member or item, down to those that fit on one."""
    # Not json's own indentation: that is written in Python, and takes as long as a report's whole summary.
    if not value or not isinstance(value, dict | list) or depth == _LINES_DOWN_TO:
        return str(value) if type(value) is int else _encode(value)
    if isinstance(value, dict):
        lines = [f"{json.dumps(name)}: {_rendered(each, depth + 1)}" for name, each in value.items()]
    else:
        lines = [_rendered(each, _LINES_DOWN_TO) for each in value]
    first, last = ("{", "}") if isinstance(value, dict) else ("[", "]")
    pad = " " * (depth + 1)
    return f"{first}\n{pad}" + f",\n{pad}".join(lines) + f"\n{pad[1:]}{last}"


def _table(path: Path) -> Json:
    footer = read_footer(path)
    return {
        "rows": footer.rows,
        "row_hash": footer.stated["row_hash"],
        "columns": _columns(pq.read_schema(path)),
    }


def _columns(schema: pa.Schema) -> list[Json]:
    return [{"name": each.name, "type": str(each.type)} for each in schema]


_COLUMNS: Final = {
    name: _columns(schema) for name, schema in zip(TABLES, (ITEMISED_FILE, SUMMARY_FILE), strict=True)
}
# json.dumps makes an encoder each time.
_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


def _state(state: Mapping[str, Any] | None) -> Json:
    return {"state": "draft"} if state is None else dict(state)


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _sha256(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
