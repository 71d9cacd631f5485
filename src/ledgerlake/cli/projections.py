"""Commands on projections: advance one, split it over workers, look at its dead letters, put them back."""

from __future__ import annotations

from typing import Annotated

import typer

from ledgerlake.cli.render import AsJson, console, print_json, print_table, progress_bar

Name = Annotated[str, typer.Argument(help="The projection, as `ledgerlake status` names it.")]
OnlyOf = Annotated[str | None, typer.Option(help="Only of this projection.")]

dead_letters_app = typer.Typer(
    help="Events that a projection could not fold and has set aside.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("advance")(advance)
    app.command("split")(split)
    app.add_typer(dead_letters_app, name="dead-letters")


def advance(
    name: Name,
    worker: Annotated[
        int | None, typer.Option(min=0, help="Only this worker of a split projection, counted from 0.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Bring one projection up to the head of the log, or one worker of it: a process for each is faster."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import OnPoison, part_slot
    from ledgerlake.projections import advance as advance_projection

    with LedgerLake.open() as ledger, progress_bar(quiet=json) as bar:
        projection = ledger.projection(name)
        moved = advance_projection(
            ledger.db,
            projection,
            batch=ledger.settings.projection_batch,
            on_progress=lambda done, total: bar(name, done, total),
            archive=ledger.archive,
            telemetry=ledger.telemetry,
            slot=None if worker is None else part_slot(ledger.db, projection, worker),
            on_poison=OnPoison(ledger.settings.on_poison),
        )
    if json:
        print_json(moved)
        return
    print_table(
        f"Advanced {name}" if moved.events else "Nothing new: it is at the head",
        ("from position", "to position", "events", "set aside"),
        [(moved.from_position, moved.to_position, moved.events, moved.set_aside)],
    )


def split(
    name: Name,
    workers: Annotated[int, typer.Argument(min=1, max=64, help="How many; 1: it is not split.")],
    json: AsJson = False,
) -> None:
    """Split a projection over so many workers, each with its own checkpoint; `advance` runs them."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import OnPoison
    from ledgerlake.projections import split as split_projection

    with LedgerLake.open() as ledger:
        position = split_projection(
            ledger.db,
            ledger.projection(name),
            workers,
            batch=ledger.settings.projection_batch,
            archive=ledger.archive,
            on_poison=OnPoison(ledger.settings.on_poison),
        )
    if json:
        print_json({"projection": name, "workers": workers, "position": position})
        return
    over = "is not split" if workers == 1 else f"is split over {workers} workers"
    console().print(f"{name} {over}, from position {position:,} on.", markup=False)


@dead_letters_app.command("list")
def list_dead_letters(
    projection: OnlyOf = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000,
    json: AsJson = False,
) -> None:
    """The events that are set aside, and why. Exit 1 when there are any."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import dead_letters

    with LedgerLake.open() as ledger:
        if projection is not None:
            ledger.projection(projection)
        found = dead_letters.listed(ledger.db, projection, limit)
        total = sum(n for name, n in dead_letters.counts(ledger.db).items() if projection in (None, name))
    if json:
        print_json({"total": total, "dead_letters": found})
    else:
        print_table(
            f"{total:,} event{'' if total == 1 else 's'} set aside" if total else "No event is set aside",
            ("projection", "position", "stream", "event", "attempts", "error"),
            [(d.projection, d.position, d.stream_id, d.event_type, d.attempts, d.error) for d in found],
            note=f"the first {len(found):,}" if total > len(found) else "",
        )
    if total:
        raise typer.Exit(1)


@dead_letters_app.command("retry")
def retry_dead_letters(projection: OnlyOf = None, json: AsJson = False) -> None:
    """Fold what is set aside again, stream by stream, in order. Exit 1 when some of it stays."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import dead_letters, retry

    with LedgerLake.open() as ledger:
        if projection is not None:
            ledger.projection(projection)
        there = dead_letters.counts(ledger.db)
        names = [name for name in ledger.projections if name in there and projection in (None, name)]
        done = [retry(ledger.db, ledger.projections[name], ledger.archive) for name in names]
    if json:
        print_json(done)
    else:
        print_table(
            "Put back" if done else "No event is set aside",
            ("projection", "put back", "still set aside"),
            [(each.projection, each.put_back, each.left) for each in done],
        )
    if any(each.left for each in done):
        raise typer.Exit(1)
