"""docs/projections.md is true: its Python runs, and its projections come to the same in any batches."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ledgerlake.projections import (
    PROJECTIONS,
    OnPoison,
    Projection,
    ProjectionError,
    ProjectionStopped,
    add_projections,
    advance,
    misfits,
    per_event,
)
from ledgerlake.projections.dead_letters import listed
from tests.builders import insert_events, payment_history
from tests.folding import fresh_fold, stored

Db = Database[dict[str, Any]]
_PAGE = Path(__file__).resolve().parents[2] / "docs" / "projections.md"
_BLOCKS = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the projections is theirs no longer after it."""
    before = dict(PROJECTIONS)
    monkeypatch.setattr("ledgerlake.projections.PROJECTIONS", before)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def test_the_page_runs_as_it_is_written(
    database: Db, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, no_others: None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert len(_BLOCKS) == 3
    names: dict[str, Any] = {}
    exec(compile(_BLOCKS[0], str(_PAGE), "exec"), names)
    module(monkeypatch, "payers", PAYERS=names["PAYERS"])
    assert "`export LEDGERLAKE_PROJECTIONS=payers:PAYERS`" in _PAGE.read_text("utf-8")
    monkeypatch.setenv("LEDGERLAKE_PROJECTIONS", "payers:PAYERS")
    for block in _BLOCKS[1:]:
        exec(compile(block, str(_PAGE), "exec"), names)
    insert_events(database, payment_history(41, 150, after=2))
    projection: Projection
    for projection in (names["PAYERS"], names["SIZES"]):
        for up_to in (37, 38, 111, 152):
            advance(database, projection, up_to=up_to, batch=20)
        found = stored(database, projection)
        assert len(found[projection.name]) > 5
        assert found == fresh_fold(database, projection)
        for document in database[projection.name].find():
            assert not projection.schema or misfits(projection.schema, document) == []
    assert "payers_paid" in database["payers"].index_information()


def test_what_a_function_per_event_raises_stops_the_projection_at_the_event_or_sets_it_aside(
    database: Db,
) -> None:
    def fold(document: Any, event: Any) -> dict[str, Any]:
        if event["position"] == 17:
            raise KeyError("no such thing")
        return {"events": 1 if document is None else document["events"] + 1}

    seen = per_event("seen", 1, key=lambda event: event["payment_id"], fold=fold, by_stream=True)
    insert_events(database, payment_history(42, 40))
    with pytest.raises(ProjectionStopped, match="position 17.*KeyError.*no such thing"):
        advance(database, seen)
    assert sum(each["events"] for each in database["seen"].find()) == 16
    done = advance(database, seen, on_poison=OnPoison.SET_ASIDE)
    assert listed(database)[0].position == 17
    assert sum(each["events"] for each in database["seen"].find()) == 40 - done.set_aside


def test_a_path_that_leads_to_no_projection_or_to_a_taken_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, no_others: None
) -> None:
    def made(name: str) -> Projection:
        return per_event(name, 1, key=lambda event: None, fold=lambda document, event: {})

    module(
        monkeypatch,
        "ours",
        FINE=made("ours"),
        ORDER={},
        EVENTS=made("events"),
        AGAIN=made("payment_states"),
        HASH=made("a#b"),
        LATER=made("ours__2"),
    )
    for path in (
        "ours:NONE",
        "nowhere:IT",
        "ours:ORDER",
        "ours:EVENTS",
        "ours:AGAIN",
        "ours:HASH",
        "ours:LATER",
    ):
        with pytest.raises(ProjectionError, match="LEDGERLAKE_PROJECTIONS") as refused:
            add_projections([path])
        assert path in str(refused.value)
    assert "ours" in add_projections(["ours:FINE"])
    assert add_projections(["ours:FINE"]) == add_projections([])
