"""`ledgerlake rebuild`: a projection filled anew beside the live one, compared with it, and swapped in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ledgerlake.cli.render import AsJson, Bar, console, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ledgerlake.projections.rebuild import RebuildProgress, Rebuilt

# Where nobody watches a bar, so often a line says how far it is.
_SECONDS_BETWEEN_LINES: Final = 10.0


def register(app: typer.Typer) -> None:
    """Add the command to the tool."""
    app.command("rebuild")(rebuild)


def rebuild(
    name: Annotated[str, typer.Argument(help="The projection, such as payment_statistics.")],
    swap: Annotated[
        bool, typer.Option(help="--no-swap: fill and compare only; run it again without to swap.")
    ] = True,
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", help="Drop what was replaced and kept; rebuild nothing."),
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up the rebuild that was begun, and drop what it filled.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Fill a projection anew while it is read, compare it with the live one, and swap them at once.

    It may be stopped at any moment: run again, it goes on where it stood. What it replaced is kept until
    --drop-old.
    """
    from ledgerlake.application import LedgerLake

    if drop_old and abandon:
        raise typer.BadParameter("Give one of --drop-old and --abandon.")
    with LedgerLake.open() as ledger:
        if drop_old:
            dropped = ledger.drop_replaced(name)
            if json:
                print_json({"projection": name, "dropped": dropped})
            else:
                told = ", ".join(str(each) for each in dropped)
                console().print(
                    f"Dropped generation {told}." if dropped else "Nothing was kept.", markup=False
                )
            return
        if abandon:
            given_up = ledger.abandon_rebuild(name)
            if json:
                print_json({"projection": name, "abandoned": given_up})
            else:
                console().print("Given up." if given_up else "No rebuild was under way.", markup=False)
            return
        with progress_bar(quiet=json) as bar:
            done = ledger.rebuild_projection(name, swap=swap, on_progress=_Shown(bar))
    if json:
        print_json(done)
    else:
        _print(done)


class _Shown:
    """Shows progress: as a bar on a terminal, in a line now and then elsewhere."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._out = console(stderr=True)
        self._last = time.monotonic()

    def __call__(self, progress: RebuildProgress) -> None:
        note = pace(progress)
        self._bar(progress.phase, progress.done, progress.total, note=note)
        now = time.monotonic()
        if not self._out.is_terminal and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._out.print(f"{progress.phase} {progress.done:,} of {progress.total:,}  {note}", markup=False)


def pace(progress: RebuildProgress) -> str:
    """Rate and time left, in words."""
    if progress.rate is None or progress.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"{progress.rate:,.0f}/s, {minutes}:{seconds:02d} left"


def _print(done: Rebuilt) -> None:
    versions = (
        f"version {done.to_version}"
        if done.from_version == done.to_version
        else f"version {done.from_version} to {done.to_version}"
    )
    rate = f", {done.events / done.seconds:,.0f} events/s" if done.events and done.seconds else ""
    title = f"{done.projection}: generation {done.generation}, {versions}, at position {done.position:,}"
    if done.comparisons:
        print_table(
            title,
            ("compared", "documents", "missing", "extra", "different", "fields"),
            [
                (
                    each.collection,
                    each.documents,
                    each.missing,
                    each.extra,
                    each.different,
                    " ".join(each.fields),
                )
                for each in done.comparisons
            ],
            note=f"{done.events:,} events in {done.seconds:.1f} s{rate}",
        )
    out = console()
    if not done.comparisons:
        out.print(title, style="bold", markup=False, soft_wrap=True)
        out.print("Nothing to compare it with.", markup=False)
    for each in done.comparisons:
        for example in each.examples:
            out.print(f"{each.collection} {example}", markup=False, soft_wrap=True)
    if not done.swapped:
        again = f"`ledgerlake rebuild {done.projection}` swaps it in; --abandon drops it."
        out.print(f"Not swapped. {again}", markup=False, soft_wrap=True)
        return
    kept = ", ".join(str(each) for each in done.kept)
    drop = f"`ledgerlake rebuild {done.projection} --drop-old` drops them."
    out.print(
        f"Swapped. Kept: generation {kept}. {drop}" if kept else "Swapped.", markup=False, soft_wrap=True
    )
