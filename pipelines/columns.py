"""The columns of what an asset holds, for its page: `make docs` writes them down, from the schemas.

The schemas themselves would bring Polars and Arrow along, which loading the definitions can spare.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

FILE = Path(__file__).with_name("columns.json")


def columns(table: str, *others: str) -> dict[str, Any]:
    """Metadata of an asset that holds these tables, such as `parquet/events`, the main one first."""
    shown = {
        f"columns/{other.rpartition('/')[2]}": dg.MetadataValue.table_schema(_schema(other))
        for other in others
    }
    return {"dagster/column_schema": _schema(table), **shown}


def _schema(table: str) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(
                each["name"],
                each["type"].removesuffix(" or null"),
                description=f"{each['meaning']} [{each['unit']}]" if each["unit"] else each["meaning"],
                constraints=dg.TableColumnConstraints(nullable=each["type"].endswith(" or null")),
            )
            for each in _tables()[table]
        ]
    )


@cache
def _tables() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(FILE.read_text("utf-8"))
    return found
