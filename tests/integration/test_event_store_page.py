"""docs/event-store.md is true: its Python runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "event-store.md"


def test_the_page_runs_as_it_is_written(
    database: Database[dict[str, Any]], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    blocks = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(_PAGE), "exec"), names)
    names["database"].client.close()
