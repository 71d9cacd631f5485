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
            formats=["%Y-%m-%d"], help="Only payments whose events all happened before this day, UTC."
        ),
    ],
    refund_window: Annotated[
        int,
        typer.Option(
            min=0, help="A payment that was not refunded has ended so many days after its last event."
        ),
    ] = DAYS,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be archived.")] = False,
    json: AsJson = False,
) -> None:
    """Move the events of payments that have ended out of MongoDB, into the lake's archive.

    Only events that the lake has sealed and that read the same there. They are found and read as before; keep
    the lake's folder `archive` as safe as the database: from then on it is the only place that has them.
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
    print_table(
        "Would be archived" if dry_run else "Archived" if done.events else "Nothing to archive",
        ("payments", "events", "files", "bytes before", "bytes after", "payments kept"),
        [(done.streams, done.events, done.files, done.bytes_before, done.bytes_after, done.kept)],
        note="kept: not ended, or not sealed in the lake yet" if done.kept else "",
    )
