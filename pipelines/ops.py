"""The steps of the jobs that are no assets. Each tells the assets' pages what it has changed."""

# No `from __future__ import annotations`: Dagster reads the types of arguments as objects, not as text.

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from pipelines.materialization import TRY_AGAIN, at_work, progress, totals_metadata
from pipelines.months import add_months, report_month
from pipelines.resources import Ledger


class RebuildConfig(dg.Config):
    """Which projection is filled anew."""

    projection: str = Field(description="Such as payment_statistics.")
    drop_old: bool = Field(False, description="Drop what was replaced once the new one is swapped in.")


@dg.op(retry_policy=TRY_AGAIN, out=dg.Out(dg.Nothing))
def rebuild_projection(
    context: dg.OpExecutionContext, config: RebuildConfig, ledger: dg.ResourceParam[Ledger]
) -> None:
    """Fill a projection anew, compare, swap."""
    from ledgerlake.eventstore.columnar import head

    with at_work(context), ledger.open() as opened:
        tell = progress(context)
        done = opened.rebuild_projection(
            config.projection, on_progress=lambda part: tell(part.done, part.total)
        )
        dropped = opened.drop_replaced(config.projection) if config.drop_old else ()
        different = sum(each.missing + each.extra + each.different for each in done.comparisons)
        context.log_event(
            dg.AssetMaterialization(
                config.projection,
                description=f"Rebuilt as generation {done.generation}, and swapped in.",
                metadata={
                    "position_from": 0,
                    "position_to": done.position,
                    "events": done.events,
                    "lag": max(0, head(opened.db) - done.position),
                    "seconds": round(done.seconds, 3),
                    "generation": done.generation,
                    "documents_that_were_different": different,
                    "dropped": list(dropped),
                },
            )
        )


class CloseConfig(dg.Config):
    """Which month is closed, and who closes it."""

    period: str = Field(
        "due",
        description='A month such as 2011-11; or "due": the last one that ended LEDGERLAKE_CLOSE_AFTER_DAYS '
        "days ago or earlier, with all before it.",
    )
    through: bool = Field(False, description="Close all open months before it, too.")
    by: str = Field("dagster", description="Who closes: it stays in the list.")
    formats: list[str] = Field(["parquet"], description="parquet, csv, xlsx, html.")


@dg.op(out=dg.Out(dg.Nothing), pool="billing_reports")
def close_month(
    context: dg.OpExecutionContext, config: CloseConfig, ledger: dg.ResourceParam[Ledger]
) -> None:
    """Close a month, or say that nothing is due."""
    from ledgerlake.reports.due import due_period, reopened
    from ledgerlake.reports.months import month_reports

    with at_work(context), ledger.open() as opened:
        period: str | None = config.period
        if period == "due":
            grace = opened.settings.close_after_days
            if grace is None:
                raise dg.Failure(
                    "No month is ever due: LEDGERLAKE_CLOSE_AFTER_DAYS is not set. Set it, or name a month.",
                    allow_retries=False,
                )
            books = opened.periods.books()
            period = due_period(opened.db, books, datetime.now(UTC), grace)
            if (again := reopened(books)) is not None:
                context.log.info(f"Nothing is due while {again} is reopened: whoever reopened it closes it.")
                return
        if period is None:
            context.log.info("Nothing is due: every month that is has been closed.")
            return
        through = config.through or config.period == "due"
        tell = progress(context)
        done = opened.close_period(
            period, by=config.by, through=through, formats=config.formats,
            on_progress=lambda part: tell(part.done, part.total),
        )  # fmt: skip
        books = opened.periods.books()
        add_months(context.instance, [each.entry.period for each in done])
        for each in done:
            entry, closed = each.entry, "is closed" if each.new else "was closed already"
            context.log.info(
                f"{entry.period} {closed}: revision {entry.revision} as of position {entry.position:,}, by"
                f" {entry.by}, in {each.folder}."
            )
            if each.new:
                report_month(context, month_reports(opened.settings.reports_dir, entry.period, books))


@dg.op(out=dg.Out(dg.Nothing), retry_policy=TRY_AGAIN)
def verify_layers(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Ledger]) -> None:
    """Log, read models, statistics, trends, Parquet and reports, one against the other, to the minor unit."""
    with at_work(context), ledger.open() as opened:
        found = opened.verify()
    for check in found.checks:
        context.log.info(f"{check.name}: {check.detail}")
    differences = [f"{check.name}: {each}" for check in found.checks for each in check.differences]
    _fail_with(differences, "Run `ledgerlake verify`: docs/operations.md says what to do about each.")
    context.add_output_metadata({"position": found.head, "comparisons": len(found.checks)})


@dg.op(out=dg.Out(dg.Nothing), retry_policy=TRY_AGAIN)
def verify_lake(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Ledger]) -> None:
    """Every byte of the lake's files, and every event in them against the log."""
    from ledgerlake.lake import maintenance

    with at_work(context), ledger.open() as opened:
        found = maintenance.verify(opened.lake, opened.db, progress(context))
    problems = [f"{each.file}: {each.found} {each.remedy}" for each in found.problems]
    _fail_with(
        problems, "Run `ledgerlake lake verify`, and `ledgerlake lake rebuild` for files that are damaged."
    )
    context.add_output_metadata(
        {"position": found.position, "files": found.files, "events": found.events, "bytes": found.bytes}
    )


@dg.op(out=dg.Out(dg.Nothing), retry_policy=TRY_AGAIN)
def verify_reports(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Ledger]) -> None:
    """Every billing report: its files against its manifest, and its lines against the lake."""
    folder = ledger.settings.reports_dir
    if not any(folder.glob("[0-9]*")):
        context.log.info(f"There are no reports in {folder} yet.")
        return
    with at_work(context), ledger.open() as opened:
        found = opened.verify_reports(folder)
    for note in found.notes:
        context.log.info(note)
    _fail_with(found.differences, f"Run `ledgerlake report verify {folder}`.")
    context.add_output_metadata({"position": found.position, "reports": found.reports, "files": found.files})


def _fail_with(differences: Sequence[str], remedy: str) -> None:
    """Fail the step for good, if there are any; all of them are shown, the first ones in its message."""
    if not differences:
        return
    more = f" ... and {len(differences) - 3:,} more" if len(differences) > 3 else ""
    listed = "\n".join(f"- {each}" for each in differences)
    raise dg.Failure(
        f"{len(differences):,} differences: {'; '.join(differences[:3])}{more}",
        metadata={"differences": dg.MetadataValue.md(listed), "remedy": remedy},
        allow_retries=False,
    )


class ExportConfig(dg.Config):
    """What is reported, and where to."""

    period: str = Field(
        description="A month such as 2011-11, a quarter, a day, days such as 2011-11-03..2011-11-20, or two "
        "instants with a slash between them."
    )
    out: str = Field(description="Folder to write to: OUT/PERIOD/ORGANIZATION/.")
    organization: str | None = Field(None, description="Only this one. Default: all.")
    zone: str | None = Field(None, description="IANA zone of the period. Default: that of the books.")
    as_of: str | None = Field(None, description="A position or an instant. Default: now.")
    currency: str | None = Field(None, description="Reporting currency: adds each line's amount in it.")
    rates: str | None = Field(None, description="File of exchange rates. Default: the package's.")
    unconverted: bool = Field(False, description="Leave lines without a rate unconverted, and count them.")
    formats: list[str] = Field(["parquet"], description="parquet, csv, xlsx, html.")


@dg.op(out=dg.Out(dg.Nothing), retry_policy=TRY_AGAIN)
def write_bill(
    context: dg.OpExecutionContext, config: ExportConfig, ledger: dg.ResourceParam[Ledger]
) -> None:
    """Write the reports of an interval into a folder of one's own."""
    from ledgerlake.reports import Interval, ReportSpec
    from pipelines.totals import of_billing

    started = time.monotonic()
    with at_work(context), ledger.open() as opened:
        rates = _rates(config)
        spec = ReportSpec(
            Interval.parse(config.period, config.zone or opened.settings.books_zone),
            config.organization,
            currency=config.currency,
            rates=rates,
            unconverted=config.unconverted,
        )
        tell = progress(context)
        report = opened.write_bill(
            spec, Path(config.out), as_of=config.as_of, formats=config.formats,
            on_progress=lambda part: tell(part.done, part.total),
        )  # fmt: skip
    folder = Path(config.out) / report.interval.folder
    context.log.info(
        f"{report.lines:,} lines in {len(report.files):,} files in {folder}, as of position"
        f" {report.position:,}."
    )
    context.add_output_metadata(
        {
            "position": report.position,
            "lines": report.lines,
            "organizations": len(report.organizations),
            "files": len(report.files),
            "bytes": sum(path.stat().st_size for path in report.files),
            "folder": dg.MetadataValue.path(folder),
            "seconds": round(time.monotonic() - started, 3),
            **totals_metadata(of_billing(report.totals)),
        }
    )


def _rates(config: ExportConfig) -> Any:
    """The rates that a reporting currency asks for, or None without one."""
    from ledgerlake.domain.money import exponent
    from ledgerlake.reports import ReportError
    from ledgerlake.reports.rates import Rates

    if config.currency is None:
        if config.rates is not None or config.unconverted:
            raise ReportError("There is nothing to convert to.", "Name a reporting currency: currency: EUR.")
        return None
    exponent(config.currency)  # a wrong code is told before anything is done
    return Rates.load(None if config.rates is None else Path(config.rates))
