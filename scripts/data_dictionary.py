"""Puts the tables into docs/data-dictionary.md: names and types from the schemas, the rest from the .toml.

The page is prose with marks: what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced. The
columns of Dagster's assets go to pipelines/columns.json. `make docs` runs it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from ledgerlake.eventstore.columnar import SCHEMA
from ledgerlake.ingest.rejections_file import SCHEMA as REJECTIONS
from ledgerlake.lake.archive import archive_schema
from ledgerlake.lake.definitions import (
    FAILURE_REASONS,
    PAYMENTS,
    QUARTERS,
    REFUND_COHORTS,
    REFUND_LATENCY,
    RETRY_RECOVERY,
    STATES,
    STATISTICS,
    TRENDS,
)
from ledgerlake.projections import PROJECTIONS, Field
from ledgerlake.reports.billing_definition import ITEMISED, ITEMISED_FILE, SUMMARY, SUMMARY_FILE

_DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
PAGE: Final = _DOCS / "data-dictionary.md"
MEANINGS: Final = _DOCS / "data-dictionary.toml"
COLUMNS: Final = _DOCS.parent / "pipelines" / "columns.json"

# Table of Arrow, in a file or in memory -> its columns. Weeks and months of trends have those of days.
PARQUET: Final[dict[str, pa.Schema]] = {
    "events": SCHEMA,
    "archive": archive_schema(),
    STATISTICS.name: STATISTICS.schema,
    STATES.name: STATES.schema,
    "payment_trends": TRENDS["day"].schema,
    REFUND_COHORTS.name: REFUND_COHORTS.schema,
    ITEMISED.name: ITEMISED_FILE,
    SUMMARY.name: SUMMARY_FILE,
    "rejections": REJECTIONS,
}
VERSIONS: Final = {
    each.name: each.version
    for each in (
        STATISTICS,
        STATES,
        *TRENDS.values(),
        QUARTERS,
        FAILURE_REASONS,
        REFUND_LATENCY,
        RETRY_RECOVERY,
        REFUND_COHORTS,
        PAYMENTS,
        ITEMISED,
        SUMMARY,
    )
}
READ_MODELS: Final[dict[str, tuple[Field, ...]]] = {
    each.name: tuple(each.schema)
    for projection in PROJECTIONS.values()
    for each in (projection, *projection.derived)
}

# What assets hold, by the names of their tables on the page.
OF_ASSETS: Final = (
    "mongodb/events",
    *(f"mongodb/{name}" for name in READ_MODELS),
    "parquet/events",
    f"parquet/{STATISTICS.name}",
    f"parquet/{STATES.name}",
    "parquet/payment_trends",
    f"parquet/{ITEMISED.name}",
    f"parquet/{SUMMARY.name}",
)

_KINDS: Final = {"parquet": "column", "mongodb": "field", "manifest": "member", "segment": "key"}
_MARKED: Final = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LINK: Final = re.compile(r"\[([^]]+)\]\([^)]+\)")
_TYPES: Final = {
    pa.timestamp("ms", tz="UTC"): "timestamp (ms, UTC)",
    pa.timestamp("ms"): "timestamp (ms)",
    pa.date32(): "date",
}


class Undescribed(LookupError):
    """A column that the .toml says nothing about, or one that it describes and nothing has."""


class Row(NamedTuple):
    """A column or field as the page shows it."""

    name: str
    type: str
    unit: str
    meaning: str
    example: str


def meanings() -> dict[str, Any]:
    """The .toml as it stands."""
    return tomllib.loads(MEANINGS.read_text("utf-8"))


def parquet_rows(table: str, schema: pa.Schema, said: Mapping[str, Any]) -> list[Row]:
    """The columns of a Parquet file.

    Raises:
        Undescribed: names the column.
    """
    own = said["table"].get(table, {})
    described = {**said["columns"], **own}
    strangers = sorted(set(own) - set(schema.names))
    if strangers:
        raise Undescribed(f"{MEANINGS.name}: {table} has no {', '.join(strangers)}.")
    rows = []
    for column in schema:
        if column.name not in described:
            raise Undescribed(f"{MEANINGS.name}: {column.name} of {table} is not described.")
        kind = _TYPES.get(column.type) or str(column.type).replace("decimal128", "decimal")
        rows.append(Row(column.name, kind + " or null" * column.nullable, *described[column.name]))
    return rows


def read_model_rows(name: str, fields: tuple[Field, ...], said: Mapping[str, Any]) -> list[Row]:
    """The fields of a read model's documents.

    Raises:
        Undescribed: names the field that has no example.
    """
    examples = {**said["examples"], **said["examples_of"].get(name, {})}
    try:
        return [Row(each.name, each.type, each.unit, each.meaning, examples[each.name]) for each in fields]
    except KeyError as missing:
        raise Undescribed(f"{MEANINGS.name}: {missing} of {name} has no example.") from missing


def tables(said: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Every table of the page but the metrics, by the name of its mark."""
    return {
        **{f"parquet/{name}": parquet_rows(name, schema, said) for name, schema in PARQUET.items()},
        **{f"mongodb/{name}": read_model_rows(name, each, said) for name, each in READ_MODELS.items()},
        **{
            f"mongodb/{name}": [Row(field, *texts) for field, texts in fields.items()]
            for name, fields in said["mongodb"].items()
        },
        **{
            name: [Row(member, *texts) for member, texts in said[name].items()]
            for name in ("manifest", "segment")
        },
    }


def generated(page: str, said: Mapping[str, Any] | None = None) -> str:
    """The page with the tables that the schemas and the .toml give now.

    Raises:
        Undescribed: a column without a description, or a mark without a table.
    """
    said = meanings() if said is None else said
    texts = {name: _table(_KINDS[name.split("/")[0]], rows) for name, rows in tables(said).items()}
    texts["metrics"] = _markdown(
        ("metric", "version", "unit", "definition", "where"),
        [(name, *each) for name, each in said["metrics"].items()],
    )
    texts["versions"] = _markdown(
        ("definition", "version"), [(f"`{name}`", str(version)) for name, version in VERSIONS.items()]
    )

    def put(found: re.Match[str]) -> str:
        return found[1] + texts.pop(found[2]) + found[3]

    try:
        whole = _MARKED.sub(put, page)
    except KeyError as unknown:
        raise Undescribed(f"{PAGE.name}: there is no table {unknown}, or it is marked twice.") from unknown
    if texts:
        raise Undescribed(f"{PAGE.name} has no mark for {', '.join(texts)}.")
    return whole


def columns_of_assets(said: Mapping[str, Any] | None = None) -> str:
    """The content of pipelines/columns.json: for each table of an asset its columns, without links."""
    found = tables(meanings() if said is None else said)
    columns = {
        name: [
            {"name": row.name, "type": row.type, "unit": row.unit, "meaning": _LINK.sub(r"\1", row.meaning)}
            for row in found[name]
        ]
        for name in OF_ASSETS
    }
    return json.dumps(columns, indent=1, ensure_ascii=False) + "\n"


def _table(kind: str, rows: list[Row]) -> str:
    return _markdown(
        (kind, "type", "unit", "meaning", "example"),
        [(f"`{row.name}`", row.type, row.unit, row.meaning, f"`{row.example}`") for row in rows],
    )


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    # Empty lines around it: some renderers take a comment that follows a table for a row.
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text("utf-8")), "utf-8")
    COLUMNS.write_text(columns_of_assets(), "utf-8")
