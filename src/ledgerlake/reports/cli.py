"""`ledgerlake report billing`: billing reports into a folder of one's own."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from ledgerlake.reports.monthly import BillingReport

report_app = typer.Typer(help="Billing reports as Parquet.", no_args_is_help=True)
app = report_app


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
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: amounts are text, so no digit is lost.")
    ] = False,
) -> None:
    """Write the itemised report and the summary of a month, and print its totals per currency."""
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.reports.monthly import billing

    settings = Settings.from_env()
    lake = EventLake(settings.lake_dir, settings.segment_size)
    if refresh:
        from ledgerlake.mongo.connection import open_database

        database = open_database(settings)
        try:
            lake.refresh(database)
        finally:
            database.client.close()
    report = billing(lake, month, organization, out)
    if json:
        typer.echo(json_text.dumps(_plain(report), indent=2, ensure_ascii=False))
    else:
        _print(report, organization, out)


def _plain(report: BillingReport) -> dict[str, Any]:
    return {
        "position": report.position,
        "month": report.month,
        "organizations": list(report.organizations),
        "lines": report.lines,
        "files": [str(file) for file in report.files],
        "totals": [
            {
                "currency": each.currency,
                "charges": each.charges,
                "gross": str(each.gross),
                "refunds": each.refunds,
                "refunded": str(each.refunded),
                "net": str(each.net),
                "failures": each.failures,
                "failed": str(each.failed),
            }
            for each in report.totals
        ],
    }


def _print(report: BillingReport, organization: str | None, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    whom = f"{len(report.organizations)} organizations" if organization is None else organization
    table = Table(title=f"Billing {report.month}, {whom}", title_justify="left")
    table.add_column("currency")
    for column in ("charges", "gross", "refunds", "refunded", "net", "failures", "failed"):
        table.add_column(column, justify="right")
    for each in report.totals:
        table.add_row(
            each.currency,
            f"{each.charges:,}",
            f"{each.gross:,f}",
            f"{each.refunds:,}",
            f"{each.refunded:,f}",
            f"{each.net:,f}",
            f"{each.failures:,}",
            f"{each.failed:,f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{report.lines:,} lines as of position {report.position:,}, in {len(report.files)} files"
        f" under {out / report.month}",
        markup=False,
        soft_wrap=True,
    )
