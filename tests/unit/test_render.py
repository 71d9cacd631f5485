"""Tables on terminals: no digit is lost, and no heading is cut up."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from rich.console import Console

from ledgerlake.cli import render

COLUMNS = ("currency", "gross", "refunded", "net", "payments", "credit notes", "success by attempt", "by")
ROW = ("GBP", Decimal("9025222.08"), Decimal("12345.67"), Decimal("9012876.41"), 123456, 12, "98.76 %", "ada")


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    """The lines that a terminal of so many columns gets, without colours."""
    monkeypatch.setattr(render, "console", lambda: Console(width=width, force_terminal=True, highlight=False))
    render.print_table("Volumes", COLUMNS, [ROW, ROW])
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [100, 120])
def test_headings_are_folded_between_words_before_a_table_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    lines = printed(monkeypatch, capsys, width)
    assert max(map(len, lines)) <= width
    heading = " ".join(lines[1:6])
    assert all(word in heading for column in COLUMNS for word in column.split())
    assert sum("9,025,222.08" in line and "9,012,876.41" in line for line in lines) == 2


@pytest.mark.parametrize("width", [30, 80])
def test_what_a_terminal_is_too_narrow_for_stands_a_line_for_each_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    lines = printed(monkeypatch, capsys, width)
    assert f"{'credit notes':18}  12" in [line.rstrip() for line in lines]
    assert sum(line.split() == ["gross", "9,025,222.08"] for line in lines) == 2
    assert not any("\u2502" in line for line in lines)
