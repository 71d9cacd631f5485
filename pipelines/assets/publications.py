"""The billing reports. Only figures that agree with the event log get out: blocking checks come first."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

import time
import warnings

import dagster as dg

from pipelines.assets.lake import lake_tables
from pipelines.assets.read_models import events, payment_read_models, payment_statistics, payment_trends
from pipelines.columns import columns
from pipelines.materialization import OWNERS, TRY_AGAIN, advanced, at_work, progress
from pipelines.months import BILLING_MONTHS, MONTHS, mark_months, month_metadata
from pipelines.resources import Ledger

# Dagster says so at every start. Without it a backfill is a run a month; nothing else would change.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)


@dg.asset(
    # The reports are made from the lake alone. The read models are named because what is published has to
    # agree with them: their checks block this asset.
    deps=[lake_tables, payment_read_models, payment_statistics, payment_trends],
    group_name="publications",
    kinds={"parquet", "duckdb"},
    owners=OWNERS,
    pool="billing_reports",
    retry_policy=TRY_AGAIN,
    metadata=columns("parquet/billing_itemised", "parquet/billing_summary"),
    description="Billing reports per organization, itemised and summary: drafts of the months that are not "
    "closed. What new events change is written again; what comes for a closed month is a correction in the "
    f"open one, and is noted on the closed one's partition of `{MONTHS}` (whatever LEDGERLAKE_ENGINE says, "
    "these notes are made by DuckDB).",
)
def billing_reports(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.MaterializeResult[None]:
    from ledgerlake.eventstore.columnar import head
    from ledgerlake.reports import refresh_billing
    from pipelines.totals import of_billing

    started = time.monotonic()
    out = ledger.settings.reports_dir
    with at_work(context), ledger.open() as opened:
        done = refresh_billing(
            opened.lake, out, opened.periods.books, on_progress=progress(context), engine=opened.engine
        )
        marked = mark_months(context, opened, done)
        metadata = advanced(
            context,
            name="billing_reports",
            position_from=done.from_position,
            position_to=done.to_position,
            head=head(opened.db),
            seconds=time.monotonic() - started,
            totals=of_billing(done.totals) if done.months else None,
            totals_of="months_written",
            months=list(done.months),
            files=len(done.files),
            bytes_written=sum(path.stat().st_size for path in done.files if path.exists()),
            late_movements=marked.late,
            closes=marked.closes,
            folder=dg.MetadataValue.path(out),
        )
    return dg.MaterializeResult(metadata=metadata)


@dg.asset(
    name=MONTHS,
    # What a month's reports say follows from the log. Were it to depend on what every run makes anew, each
    # closed month would be shown as out of date for ever.
    deps=[events],
    partitions_def=BILLING_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="publications",
    kinds={"parquet", "duckdb"},
    owners=OWNERS,
    pool="billing_reports",
    retry_policy=TRY_AGAIN,
    metadata=columns("parquet/billing_itemised", "parquet/billing_summary"),
    description="The same reports, month by month. To materialize a month that is open writes its draft "
    "anew, as of the lake's position, after it was compared with the log. To materialize one that is closed "
    "compares its revision with what was closed, with the lake and with the log, and changes nothing.",
)
def billing_months(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.MaterializeResult[None]:
    with at_work(context), ledger.open() as opened:
        for month in opened.bring_months(context.partition_keys, progress(context)):
            metadata = month_metadata(month)
            context.log.info(f"{month.period}: {metadata['state']}, {month.lines:,} lines in {month.folder}.")
            context.add_asset_metadata(metadata, partition_key=month.period)
    return dg.MaterializeResult()
