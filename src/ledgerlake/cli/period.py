"""`ledgerlake period`: months that are closed for good, and reopened with a reason."""

from __future__ import annotations

import getpass
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from ledgerlake.cli.engine import EngineName, SparkUrl, with_engine
from ledgerlake.cli.render import AsJson, console, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ledgerlake.reports.books import Entry

period_app = typer.Typer(help="Close months of the books, and reopen them.", no_args_is_help=True)

_By = Annotated[
    str | None, typer.Option("--by", help="Who does it. Default: the user of this machine.", metavar="NAME")
]
_Month = Annotated[str, typer.Argument(help="The month, such as 2011-11.", metavar="MONTH")]


@period_app.callback()
def _period() -> None:
    """Close months of the books, and reopen them."""


@period_app.command("close")
def close_command(
    month: _Month,
    through: Annotated[
        bool, typer.Option("--through", help="Close all open months before it, too, in order.")
    ] = False,
    formats: Annotated[
        str, typer.Option("--format", help="Formats of the reports, by commas: parquet, csv, xlsx, html.")
    ] = "parquet",
    by: _By = None,
    engine: EngineName = None,
    url: SparkUrl = None,
    json: AsJson = False,
) -> None:
    """Write a month's reports for good. What comes later for it is a correction in the open month.

    Everything is brought up to the head and reconciled with the log first. A difference stops it.
    """
    from ledgerlake.application import LedgerLake
    from ledgerlake.reports.errors import PublicationBlocked
    from ledgerlake.settings import Settings

    names = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    try:
        settings = with_engine(Settings.from_env(), engine, url)
        with LedgerLake.open(settings) as ledger, progress_bar(quiet=json) as bar:
            done = ledger.close_period(
                month,
                by=by or _user(),
                through=through,
                formats=names,
                on_progress=lambda part: bar(part.name, part.done, part.total),
            )
    except PublicationBlocked as blocked:
        console(stderr=True).print(str(blocked), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if json:
        print_json([{**_row(each.entry), "folder": str(each.folder), "new": each.new} for each in done])
        return
    for each in done:
        entry, closed = each.entry, "is closed" if each.new else "was closed already"
        console().print(
            f"{entry.period} {closed}: revision {entry.revision} as of position {entry.position:,},"
            f" by {entry.by}, {entry.at:%Y-%m-%d %H:%M} UTC: {each.folder}",
            markup=False,
            soft_wrap=True,
        )


@period_app.command("reopen")
def reopen_command(
    month: _Month,
    reason: Annotated[str, typer.Option("--reason", help="Why: it stays in the list.", metavar="TEXT")],
    through: Annotated[
        bool, typer.Option("--through", help="Reopen all closed months after it, too, the last one first.")
    ] = False,
    by: _By = None,
    json: AsJson = False,
) -> None:
    """Reopen the last closed month. What was closed stays as it is; the next close is a new revision."""
    from ledgerlake.application import LedgerLake

    with LedgerLake.open() as ledger:
        done = ledger.periods.reopen(month, reason=reason, by=by or _user(), through=through)
    if json:
        print_json([_row(entry) for entry in done])
        return
    for entry in done:
        console().print(
            f"{entry.period} is open again, by {entry.by}. Revision {entry.revision} stays readable, and the"
            " next refresh writes a draft.",
            markup=False,
            soft_wrap=True,
        )


@period_app.command("list")
def list_command(json: AsJson = False) -> None:
    """What was closed and reopened when, by whom, and which revision counts."""
    from ledgerlake.application import LedgerLake

    with LedgerLake.open() as ledger:
        books = ledger.periods.books()
        missing = {entry.number for entry in ledger.periods.missing(books)}
    counts = {entry.number for entry in books.closed()}
    rows = [
        {
            **_row(entry),
            "counts": entry.number in counts,
            "written": None if entry.action == "reopen" else entry.number not in missing,
        }
        for entry in books.entries
    ]
    if json:
        print_json({"zone": books.zone, "entries": rows})
        return
    if not books.entries:
        console().print(f"No month was closed yet. Months are those of {books.zone}.", markup=False)
        return
    note = f"Months of {books.zone}, times in UTC."
    if missing:
        folders = ", ".join(entry.folder for entry in books.entries if entry.number in missing)
        note += f" Not written here yet: {folders}; `ledgerlake refresh` does."
    print_table(
        "Periods",
        ("month", "what", "when", "by", "reason"),
        [
            (entry.period, _what(entry, counts), f"{entry.at:%Y-%m-%d %H:%M}", entry.by, entry.reason)
            for entry in books.entries
        ],
        note=note,
    )


def _what(entry: Entry, counts: Collection[int]) -> str:
    if entry.action == "reopen":
        return "reopened"
    return f"closed, revision {entry.revision}{'' if entry.number in counts else ', reopened since'}"


def _row(entry: object) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(entry)  # type: ignore[call-overload,no-any-return]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
