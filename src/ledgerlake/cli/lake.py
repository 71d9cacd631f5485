"""`ledgerlake lake`: the segments looked at, checked to the bit, and written again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.cli.render import AsJson, Bar, console, plain, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo.database import Database

    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.maintenance import Problem

lake_app = typer.Typer(help="The event log in Parquet files.", no_args_is_help=True)

Offline = Annotated[
    bool, typer.Option("--offline", help="Look at the files only; MongoDB is not asked, nor started.")
]


@lake_app.callback()
def _lake() -> None:
    """The event log in Parquet files."""


@lake_app.command("status")
def status(offline: Offline = False, json: AsJson = False) -> None:
    """How far the lake is, what it holds per currency, and how large it is, by the files' own metadata."""
    from ledgerlake.lake import maintenance

    with _opened(offline=offline) as (lake, db, away):
        found = maintenance.status(lake, db)
    if json:
        print_json(found)
        return
    behind = "" if found.lag is None else f", {found.lag:,} behind the log"
    print_table(
        f"Lake at position {found.position:,}{behind}",
        ("sealed", "open", "events", "bytes", "bytes/event", "format"),
        [
            (
                found.sealed,
                found.open,
                found.events,
                found.bytes,
                found.bytes_an_event,
                found.format,
            )
        ],
        note=f"{found.folder}, {found.segment_size:,} events a segment"
        + ("" if found.updated_at is None else f", written {found.updated_at:%Y-%m-%d %H:%M:%S} UTC"),
    )
    if found.control_sums:
        print_table(
            "Control sums",
            ("currency", "event type", "events", "amount"),
            [(each.currency, each.event_type, each.events, each.amount) for each in found.control_sums],
        )
    _tell(found.problems)
    if away:
        console().print(away, markup=False, soft_wrap=True)


@lake_app.command("verify")
def verify(offline: Offline = False, json: AsJson = False) -> None:
    """Read every segment whole: checksums, hashes, control sums, positions, and each event as in the log.

    Exit 1: something is wrong. Without MongoDB, or with --offline, the files are checked by themselves.
    """
    from ledgerlake.lake import maintenance

    with _opened(offline=offline) as (lake, db, away), progress_bar(quiet=json) as bar:
        found = maintenance.verify(lake, db, _with_rate(bar, "verify"))
    if json:
        print_json({"ok": found.ok, **plain(found), "note": away})
    else:
        _tell(found.problems)
        out = console()
        held = f"{found.events:,} events in {found.files:,} segments, {found.bytes:,} bytes"
        if found.ok:
            compared = ", and every event is as the log has it" if found.compared else ""
            out.print(f"Every bit is as it was written{compared}: {held}.", markup=False, soft_wrap=True)
        if not found.compared:
            out.print(away or "Not compared with the log.", markup=False, soft_wrap=True)
    if not found.ok:
        raise typer.Exit(1)


@lake_app.command("rebuild")
def rebuild(
    everything: Annotated[
        bool, typer.Option("--all", help="Every segment, also those that hold together.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write segments that are damaged, missing or of an earlier format again, from the log and the archive.

    Whoever reads the lake may go on. It may be stopped at any moment: run again, it does the rest.
    """
    from ledgerlake.application import LedgerLake
    from ledgerlake.lake import maintenance

    with LedgerLake.open() as ledger, progress_bar(quiet=json) as bar:
        shown = _with_rate(bar, "rebuild")
        done = maintenance.rebuild(ledger.lake, ledger.db, everything=everything, on_progress=shown)
    if json:
        print_json(done)
        return
    out = console()
    for name in done.written:
        out.print(f"written  {name}", markup=False, soft_wrap=True)
    what = f"{done.events:,} events in {len(done.written):,} of {done.segments:,} segments"
    out.print(
        f"Written again: {what}." if done.written else f"All {done.segments:,} segments hold together.",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _opened(*, offline: bool) -> Iterator[tuple[EventLake, Database[dict[str, Any]] | None, str]]:
    """The lake, the log's database if it answers, and in words why not if it does not."""
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.settings import Settings

    settings = Settings.from_env()
    lake = EventLake(settings.lake_dir, settings.segment_size)
    if offline:
        yield lake, None, ""
        return
    from ledgerlake.application import LedgerLake
    from ledgerlake.mongo.connection import MongoUnreachable

    try:
        ledger = LedgerLake.open(settings)
    except MongoUnreachable as error:
        yield lake, None, f"Not compared with the log: {error.message}"
        return
    with ledger:
        yield lake, ledger.db, ""


def _with_rate(bar: Bar, name: str) -> Callable[[int, int], None]:
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        bar(name, done, total, note=f"{done / max(time.monotonic() - started, 1e-3):,.0f} events/s")

    return show


def _tell(problems: Sequence[Problem]) -> None:
    out = console()
    for each in problems:
        out.print(each.file, style="bold red", markup=False, soft_wrap=True)
        out.print(f"  {each.found}\n  {each.remedy}", markup=False, soft_wrap=True)
