"""How figures are shown: JSON for machines, tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: amounts are text, so no digit is lost.")]


# Where a terminal leaves fewer columns to a text, a table does not fit it.
_NARROWEST = 12


def plain(value: Any) -> Any:
    """The value as JSON has it; Decimals and instants become text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return value


def print_json(value: Any) -> None:
    """Print the value as indented JSON."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """Where tables (or, on stderr, progress) go. A pipe gets the full width: no cell is cut off there."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = 200
    return found


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
    """Print rows; numbers and amounts are right-aligned. A terminal too narrow gets a line for each value."""
    from rich.table import Table

    shown = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in shown]
    numeric = [
        bool(shown) and all(isinstance(row[i], int | Decimal) or row[i] is None for row in shown)
        for i in range(len(columns))
    ]
    longest = [max((len(row[i]) for row in cells), default=0) for i in range(len(columns))]
    whole = [max(most, len(column)) for most, column in zip(longest, columns, strict=True)]
    # A text that is too wide goes on below, in its cell. A number stands whole, in one line.
    least = [
        max(longest[i], *map(len, column.split())) if numeric[i] else min(whole[i], _NARROWEST)
        for i, column in enumerate(columns)
    ]
    out = console()
    room = out.width - 3 * len(columns) - 1
    if out.is_terminal and sum(least) > room and len(columns) > 2:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        numbers = [most for most, is_number in zip(longest, numeric, strict=True) if is_number]
        out.width = max(out.width, max(map(len, columns)) + 2 + max(numbers, default=_NARROWEST))
        pairs = ([*zip(columns, row, strict=True), ("", "")] for row in cells)
        cells = [list(pair) for row in pairs for pair in row]
    else:
        table = Table()
        for i, column in enumerate(columns):
            if numeric[i]:
                table.add_column(column, justify="right", width=least[i] if sum(whole) > room else whole[i])
            else:
                table.add_column(column, overflow="fold", min_width=least[i])
        # Wider than the terminal, if need be: that folds its lines, where a narrower table would drop digits.
        out.width += max(0, sum(least) - room)
    # Title and note stand by themselves: inside the table they would be folded to its width.
    out.print(title, style="bold", markup=False, soft_wrap=True)
    for row in cells:
        table.add_row(*row)
    out.print(table, crop=False)
    if note:
        out.print(note, style="dim", markup=False, soft_wrap=True)


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    if isinstance(value, datetime | date):
        return str(plain(value))
    return escape(str(value))


class Bar(Protocol):
    """A progress bar that is told how far a named task is."""

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None: ...


def _silent(name: str, done: int, total: int, note: str = "") -> None:
    """The bar that shows nothing."""


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Bar]:
    """A progress bar on stderr, one line a task; silent when `quiet`."""
    if quiet:
        yield _silent
        return
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console(stderr=True),
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int, note: str = "") -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, note=note)
            progress.update(tasks[name], completed=done, total=total, note=note)

        yield show
