"""`ledgerlake archive`: what ended long ago leaves MongoDB for the lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ledgerlake.cli.render import AsJson, print_json, print_table, progress_bar

DAYS = 540


def register(app: typer.Typer) -> None:
    """Add the command to the tool."""
    app.command("archive")(archive)


def archive(
    before: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="Only payments whose events all happened before this day, UTC.",
        ),
    ],
    refund_window: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="A payment that was not refunded has ended so many days after its last event.",
        ),
    ] = DAYS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be archived.")] = False,
    json: AsJson = False,
) -> None:
    """Move the events of payments that have ended out of MongoDB, into the lake's archive.

    Only events that the lake has sealed and that read the same there.
    They are found and read as before. Keep the lake's folder `archive` as safe
    as the database: from then on it is the only place that has them.
    """
    from ledgerlake.application import LedgerLake

    with LedgerLake.open() as ledger, progress_bar(quiet=json) as bar:
        done = ledger.archive_streams(
            before.replace(tzinfo=UTC),
            refund_window=timedelta(days=refund_window),
            dry_run=dry_run,
            on_progress=lambda seen, total: bar("archive", seen, total),
        )
    if json:
        print_json(done)
        return
    columns = ["payments", "events", "bytes before"]
    row = [done.streams, done.events, done.bytes_before]
    if not dry_run:
        columns += ["bytes after", "files"]
        row += [done.bytes_after, done.files]
    notes = [f"Events up to position {done.sealed:,} can leave: so far the lake has sealed the log."]
    if not done.sealed:
        notes = ["No event can leave yet: the lake has sealed nothing. It seals a segment once it is full."]
    if done.kept:
        notes.append("Kept are payments that have not ended, or whose last events are not sealed yet.")
    print_table(
        "Would be archived" if dry_run else "Archived" if done.events else "Nothing to archive",
        (*columns, "payments kept"),
        [(*row, done.kept)],
        note="\n".join(notes),
    )
