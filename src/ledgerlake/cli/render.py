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


# Where a terminal leaves so few columns to a text, the table is wider than the terminal.
_NARROWEST = 8


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
    """Print rows; numbers and amounts are right-aligned."""
    from rich.table import Table

    shown = [list(row) for row in rows]
    table = Table(title_justify="left")
    width = 1
    for i, column in enumerate(columns):
        numeric = bool(shown) and all(isinstance(row[i], int | Decimal) or row[i] is None for row in shown)
        # A text that is too wide goes on below, in its cell. A number stands whole, in one line.
        least = max(_NARROWEST, *(len(_cell(row[i])) for row in shown)) if numeric else _NARROWEST
        table.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=least if numeric else None,
        )
        width += least + 3
    for row in shown:
        table.add_row(*(_cell(value) for value in row))
    out = console()
    # Title and note stand by themselves: inside the table they would be folded to its width.
    out.print(title, style="bold", markup=False, soft_wrap=True)
    # Wider than the terminal, if need be: that folds its lines, where a narrower table would drop digits.
    out.width = max(out.width, width)
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
