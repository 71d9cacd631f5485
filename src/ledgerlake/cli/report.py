"""`ledgerlake report billing`: billing reports into a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ledgerlake.cli.render import AsJson, console, print_json, print_table, progress_bar

report_app = typer.Typer(help="Billing reports as Parquet.", no_args_is_help=True)


@report_app.callback()
def _reports() -> None:
    """Billing reports as Parquet."""


@report_app.command("billing")
def billing_command(
    month: Annotated[str, typer.Option(help="The month in UTC, such as 2011-11.")],
    out: Annotated[Path, typer.Option(help="Folder to write to: OUT/MONTH/ORGANIZATION/*.parquet.")],
    organization: Annotated[
        str | None, typer.Option("--organization", "-o", help="Only this one. Default: all with movements.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option(help="Bring the lake up to the head of the log before reporting from it.")
    ] = True,
    json: AsJson = False,
) -> None:
    """Write the itemised report and the summary of a month, and print its totals per currency."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.reports import billing
    from ledgerlake.settings import Settings

    settings = Settings.from_env()
    if refresh:
        with LedgerLake.open(settings) as ledger, progress_bar(quiet=json) as bar:
            ledger.lake.refresh(ledger.db, lambda done, total: bar("event_lake", done, total))
    lake = EventLake(settings.lake_dir, settings.segment_size)
    report = billing(lake, month, organization, out)
    totals = [
        {
            "currency": each.currency,
            "charges": each.charges,
            "gross": each.gross,
            "refunds": each.refunds,
            "refunded": each.refunded,
            "net": each.net,
            "failures": each.failures,
            "failed": each.failed,
        }
        for each in report.totals
    ]
    if json:
        print_json(
            {
                "position": report.position,
                "month": report.month,
                "organizations": report.organizations,
                "lines": report.lines,
                "files": [str(file) for file in report.files],
                "totals": totals,
            }
        )
        return
    whom = f"{len(report.organizations)} organizations" if organization is None else organization
    columns = ("currency", "charges", "gross", "refunds", "refunded", "net", "failures", "failed")
    print_table(
        f"Billing {report.month}, {whom}",
        columns,
        [[row[column] for column in columns] for row in totals],
        note=f"as of position {report.position:,}; refunded includes credits that name no payment",
    )
    console().print(
        f"{report.lines:,} lines in {len(report.files)} files under {out / report.month}",
        markup=False,
        soft_wrap=True,
    )
