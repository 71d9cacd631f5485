"""Stored documents have the fields, and Parquet files the columns, that are declared for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ledgerlake.eventstore.columnar import SCHEMA
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.projections import PROJECTIONS, Field, misfits, model
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import Check, checked

_NAMED: Final = 10
# What a quick look takes of each collection, and of segments: what was written last, where a fault is new.
_NEWEST: Final = 50
_NEWEST_FILES: Final = 10


def check_documents(log: Log, projection: str, *, quick: bool = False) -> Check:
    """The documents of a projection and of its totals against their declared fields.

    All of them, which the server looks through; with `quick` the newest ones of each collection.
    """
    found = PROJECTIONS[projection]
    declared = {found.name: found.schema, **{each.name: each.schema for each in found.derived}}
    differences = [
        text for name, schema in declared.items() if schema for text in _misfits(log, name, schema, quick)
    ]
    which = f"the newest {_NEWEST} documents" if quick else "all documents"
    told = checked(f"fields of {projection}", f"{which} of {', '.join(declared)}", differences)
    return replace(told, part=projection)


def check_files(lake: EventLake, folder: str | None = None, *, quick: bool = False) -> Check:
    """The columns of the event segments; with `folder` (statistics, trends) those of the tables in it.

    Of all segments, or with `quick` of the newest ones.
    """
    segments = lake.segments()
    files: dict[Path, pa.Schema] = {
        info.path: SCHEMA for info in (segments[-_NEWEST_FILES:] if quick else segments)
    }
    if folder is not None:
        tables = {lake.root / path: each.schema for path, each in TABLES.items() if path.startswith(folder)}
        files = {path: schema for path, schema in tables.items() if path.exists()}
    differences = [text for path, schema in files.items() for text in _columns(path, schema)]
    found = checked(f"columns of {folder or 'events'}", f"{len(files):,} files", differences)
    return replace(found, part="event_lake" if folder is None else f"lake_{folder}")


def _misfits(log: Log, name: str, schema: Sequence[Field], quick: bool) -> list[str]:
    documents = model(log.db, name, log.session)
    if quick:
        some = documents.find({}, sort=[("$natural", -1)], session=log.session).limit(_NEWEST)
    else:
        # The server finds them, by the same types; what is wrong with them is put in words here.
        some = documents.find({"$nor": [{"$jsonSchema": json_schema(schema)}]}, session=log.session)
    told: list[str] = []
    for document in some:
        wrong = misfits(schema, document)
        if wrong:
            told.append(f"{name}, document {document['_id']!r}: {'; '.join(wrong)}")
        if len(told) > _NAMED:
            return [*told[:_NAMED], f"... and more documents of {name}"]
    return told


def json_schema(schema: Sequence[Field]) -> Document:
    """What `misfits` looks for, as the server understands it."""
    return {
        "required": [field.name for field in schema],
        "additionalProperties": False,
        "properties": {field.name: {"bsonType": field.type.split(" or ")} for field in schema},
    }


def _columns(path: Path, schema: pa.Schema) -> list[str]:
    try:
        found: Any = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        return [f"{path}: {type(error).__name__}"]
    if found.equals(schema):
        return []
    kinds = {column.name: column for column in found}
    wanted = {column.name: column for column in schema}
    told = [f"{name} is missing" for name in wanted if name not in kinds]
    told += [f"{name} is not declared" for name in kinds if name not in wanted]
    told += [
        f"{name} is {kinds[name].type}, not {column.type}"
        for name, column in wanted.items()
        if name in kinds and not kinds[name].equals(column)
    ]
    return [f"{path}: {'; '.join(told) or 'the columns are in another order'}"]
