"""`ledgerlake status`: how far each part is, once or for as long as somebody looks."""

from __future__ import annotations

import json as json_text
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.cli.ending import on_signal
from ledgerlake.cli.render import AsJson, console, plain, print_json
from ledgerlake.errors import LedgerLakeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ledgerlake.application import LedgerLake, LedgerStatus

FINE, STOPPED, LATE = 0, 1, 2
_SHADOW = "#shadow"


def register(app: typer.Typer) -> None:
    """Add the command to the tool."""
    app.command("status")(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until it is interrupted.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[int | None, typer.Option(min=1, help="With --watch: end after so many looks.")] = None,
    late_after: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that an event may wait for a part; more is late, and exit 2."),
    ] = None,
    json: AsJson = False,
) -> None:
    """The head of the log, each checkpoint, how far it is behind, how fast it goes, and what stopped it.

    Exit 0: fine. Exit 1: a part has stopped, or nobody can say: MongoDB does not answer, say. Exit 2: one is
    late, see --late-after. With --watch, as of the last look; and --json is then one line a look.
    """
    from pymongo.errors import PyMongoError

    from ledgerlake.application import LedgerLake

    try:
        with LedgerLake.open() as ledger:
            if watch:
                code = _watch(_looks(ledger, every, looks), late_after, as_json=json)
            else:
                found = ledger.status()
                if json:
                    print_json(found)
                else:
                    console().print(shown(found, late_after), crop=False)
                code = exit_code(found, late_after)
    except (LedgerLakeError, PyMongoError) as error:
        # Not 2, as from the other commands: to a monitor that is a delay.
        told = error if isinstance(error, LedgerLakeError) else f"{_away(error)}."
        print(f"ledgerlake: {told}", file=sys.stderr)
        code = STOPPED
    if code:
        raise typer.Exit(code)


def exit_code(found: LedgerStatus, late_after: float | None) -> int:
    """What a monitor wants to know, as a number."""
    # A rebuild is slow by nature, and whoever started it hears how it ends. One to another version was
    # started by a refresh, and until it ends well nothing moves the live read model.
    versions = {part.name: part.version for part in found.parts}
    parts = [part for part in found.parts if not part.name.endswith(_SHADOW)]
    rebuilds = [
        part
        for part in found.parts
        if part.name.endswith(_SHADOW) and part.version != versions.get(part.name.removesuffix(_SHADOW))
    ]
    if any(part.status == "stopped" for part in (*parts, *rebuilds)):
        return STOPPED
    if late_after is not None and any(part.lag_seconds > late_after for part in parts):
        return LATE
    return FINE


def _looks(ledger: LedgerLake, every: float, looks: int | None) -> Iterator[LedgerStatus | Exception]:
    """A status, or why there is none, every so many seconds."""
    from pymongo.errors import PyMongoError

    earlier: LedgerStatus | None = None
    number = 0
    while True:
        started = time.monotonic()
        try:
            earlier = ledger.status(earlier)
            yield earlier
        except PyMongoError as error:
            yield error
        number += 1
        if number == looks:
            return
        time.sleep(max(0.0, started + every - time.monotonic()))


def _watch(looks: Iterator[LedgerStatus | Exception], late_after: float | None, *, as_json: bool) -> int:
    """Show each look until there is no other, or a signal; the exit code of the last one."""
    code = FINE
    with _screen(late_after, as_json=as_json) as show, on_signal(_interrupt):
        try:
            for look in looks:
                code = STOPPED if isinstance(look, Exception) else exit_code(look, late_after)
                show(look)
        except KeyboardInterrupt:
            pass
    return code


@contextmanager
def _screen(
    late_after: float | None, *, as_json: bool
) -> Iterator[Callable[[LedgerStatus | Exception], None]]:
    """Shows a look: in place on a terminal, else one after the other; with JSON a line each."""
    out = console()
    if as_json:
        yield lambda look: print(json_text.dumps(_as_json(look), ensure_ascii=False), flush=True)
    elif not out.is_terminal:
        yield lambda look: out.print(_shown(look, late_after), crop=False)
    else:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda look: live.update(_shown(look, late_after), refresh=True)


def _as_json(look: LedgerStatus | Exception) -> Any:
    return {"error": _away(look)} if isinstance(look, Exception) else plain(look)


def _away(error: Exception) -> str:
    return f"MongoDB does not answer ({type(error).__name__})"


def _shown(look: LedgerStatus | Exception, late_after: float | None) -> RenderableType:
    from rich.text import Text

    return Text(_away(look), style="red") if isinstance(look, Exception) else shown(look, late_after)


def shown(found: LedgerStatus, late_after: float | None = None) -> RenderableType:
    """The status as a table that 80 columns hold, and under it what is wrong."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("part", overflow="fold")
    for column in ("position", "lag", "oldest", "ev/s"):
        table.add_column(column, justify="right")
    table.add_column("state")
    notes = []
    for part in found.parts:
        late = late_after is not None and part.lag_seconds > late_after
        state = "late" if late and part.status == "live" else part.status
        table.add_row(
            part.name,
            f"{part.position:,}",
            f"{part.lag:,}",
            _age(part.lag_seconds) if part.lag else "-",
            _rate(part.rate),
            Text(state, style=_STYLES.get(state, "yellow")),
        )
        if part.last_error:
            notes.append(Text(f"{part.name}: {part.last_error}", style="red"))
        if part.dead_letters:
            notes.append(Text(f"{part.name}: {part.dead_letters:,} set aside", style="yellow"))
    rate = "" if found.rate is None else f", {_rate(found.rate)} ev/s"
    title = Text(f"Head of the log: position {found.head:,}{rate}", style="bold")
    title.append(f"  ({found.at:%H:%M:%S} UTC)", style="not bold dim")
    return Group(title, table, *notes)


_STYLES = {"live": "green", "stopped": "red"}


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}"


def _age(seconds: float) -> str:
    """An age in the largest unit that leaves two digits."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.1f} s"


def _interrupt() -> None:
    raise KeyboardInterrupt
