"""docs/data-dictionary.md says what there is: generated from the schemas, and nothing is left out."""

from __future__ import annotations

import copy
import json
import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ledgerlake.lake import definitions
from ledgerlake.lake.definitions import TRENDS, Definition
from ledgerlake.lake.parquet import write_table
from ledgerlake.lake.tables import TABLES
from ledgerlake.mongo.indexes import COLLECTIONS
from ledgerlake.projections import PROJECTIONS, Field
from ledgerlake.reports.billing_definition import ITEMISED, SUMMARY
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import facts_of, write_manifest
from ledgerlake.reports.spec import ReportSpec
from scripts.data_dictionary import (
    MEANINGS,
    PAGE,
    PARQUET,
    READ_MODELS,
    VERSIONS,
    Undescribed,
    generated,
    meanings,
    parquet_rows,
    read_model_rows,
    tables,
)

Said = dict[str, Any]


@pytest.fixture(scope="module")
def said() -> Said:
    return meanings()


def test_the_page_is_the_one_that_the_schemas_give() -> None:
    page = PAGE.read_text("utf-8")
    assert generated(page) == page, "make docs writes it anew"


def test_negative_control_a_change_of_a_schema_or_a_meaning_changes_the_page(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGE.read_text("utf-8")
    other = copy.deepcopy(said)
    other["columns"]["position"][1] = "somewhere"
    assert generated(page, other) != page
    schema = PARQUET["events"]
    monkeypatch.setitem(PARQUET, "events", schema.set(0, pa.field("position", pa.int32())))
    assert generated(page) != page


def test_a_column_or_field_that_nobody_described_is_an_error(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = PARQUET["events"].append(pa.field("colour", pa.string()))
    with pytest.raises(Undescribed, match="colour of events"):
        parquet_rows("events", schema, said)
    with pytest.raises(Undescribed, match="'colour' of payments has no example"):
        read_model_rows("payments", (Field("colour", "string", "", "red"),), said)


def test_what_is_described_and_is_not_there_is_an_error(said: Said) -> None:
    schema = PARQUET["billing_summary"]
    with pytest.raises(Undescribed, match="billing_summary has no gross_minor"):
        parquet_rows("billing_summary", schema.remove(schema.get_field_index("gross_minor")), said)
    used = {
        name
        for table, schema in PARQUET.items()
        for name in schema.names
        if name not in said["table"].get(table, {})
    }
    assert set(said["columns"]) == used
    assert set(said["table"]) <= set(PARQUET)
    assert set(said["examples_of"]) <= set(READ_MODELS)
    assert set(said["examples"]) <= {field.name for fields in READ_MODELS.values() for field in fields}


def test_every_table_is_on_the_page(said: Said) -> None:
    for definition in TABLES.values():
        name = "payment_trends" if definition in TRENDS.values() else definition.name
        assert PARQUET[name] == definition.schema
    described = {*said["mongodb"], *READ_MODELS}
    assert described >= {*COLLECTIONS, *(name for each in PROJECTIONS.values() for name in each.models)}
    assert not set(said["mongodb"]) & set(READ_MODELS)


def test_every_definition_states_its_version() -> None:
    found = [*vars(definitions).values(), *TRENDS.values(), ITEMISED, SUMMARY]
    assert {each.name: each.version for each in found if isinstance(each, Definition)} == VERSIONS


@pytest.mark.parametrize(
    "mark", ["<!-- table parquet/nothing -->\n<!-- end -->", "<!-- table manifest -->\n<!-- end -->"]
)
def test_a_mark_of_nothing_or_of_a_table_that_is_there_already_is_an_error(mark: str) -> None:
    with pytest.raises(Undescribed):
        generated(PAGE.read_text("utf-8") + mark)


def test_a_table_that_has_no_mark_is_an_error() -> None:
    page = re.sub(r"<!-- table manifest -->.*?<!-- end -->", "", PAGE.read_text("utf-8"), flags=re.DOTALL)
    with pytest.raises(Undescribed, match="no mark for manifest"):
        generated(page)


def test_everything_has_a_meaning_numbers_a_unit_and_an_example_of_the_type(said: Said) -> None:
    for name, rows in tables(said).items():
        for row in rows:
            assert row.meaning or row.type == "string or null", (name, row)
            assert row.example, (name, row)
            held = row.type.split(" or ")[0]
            if held in {"int64", "int32", "int8", "long", "int", "integer"} or held.startswith("decimal"):
                assert row.unit, (name, row)
                assert Decimal(row.example).is_finite(), (name, row)
            if held == "date":
                assert datetime.fromisoformat(row.example), (name, row)
            if held in {"bool", "boolean"}:
                assert row.example in {"true", "false"}, (name, row)
    for table, schema in PARQUET.items():
        for column, row in zip(schema, parquet_rows(table, schema, said), strict=True):
            if not pa.types.is_binary(column.type):
                value = pa.array([row.example]).cast(column.type)[0].as_py()
                if isinstance(value, Decimal) or type(value) is date:
                    assert str(value) == row.example


def test_negative_control_an_example_of_another_type_is_noticed() -> None:
    with pytest.raises(pa.ArrowInvalid):
        pa.array(["12,50"]).cast(pa.int64())


def test_every_metric_has_a_version_and_says_what_it_is(said: Said) -> None:
    asked = {
        "gross",
        "net",
        "success rate by attempt",
        "success rate by payment",
        "refund rate by refund date",
        "refund rate by payment cohort",
    }
    assert asked <= set(said["metrics"])
    for name, (version, _, definition, where) in said["metrics"].items():
        assert version.isdecimal(), name
        assert definition, name
        assert where, name


def test_the_members_of_a_manifest_are_the_described_ones(said: Said, tmp_path: Path) -> None:
    for name in ("itemised.parquet", "summary.parquet"):
        write_table(tmp_path / name, pa.table({"count": pa.array([], pa.int64())}), {})
    facts = facts_of(ReportSpec(Interval.month(2011, 11)), "acme", 7, "4ed8a9b8f1d2c3a4b5c6d7e8")
    write_manifest(tmp_path, facts, ["itemised.parquet", "summary.parquet"])
    content = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    names = {f"facts.{name}" for name in content.pop("facts")} | set(content)
    assert names == set(said["manifest"])


def test_the_two_files_name_each_other() -> None:
    assert f"]({MEANINGS.name})" in PAGE.read_text("utf-8")
    assert PAGE.name in MEANINGS.read_text("utf-8")
