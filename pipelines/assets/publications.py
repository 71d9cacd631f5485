"""What leaves the house. Only figures that agree with the event log do: blocking checks come first."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

import time
from pathlib import Path

import dagster as dg

from pipelines.assets.lake import lake_tables
from pipelines.assets.read_models import payment_read_models, payment_statistics, payment_trends
from pipelines.materialization import OWNERS, TRY_AGAIN, advanced, at_work, progress, totals_table
from pipelines.resources import Ledger

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@dg.asset(
    # The reports are made from the lake alone. The read models are named because what is published has to
    # agree with them: their checks block this asset.
    deps=[lake_tables, payment_read_models, payment_statistics, payment_trends],
    group_name="publications",
    kinds={"parquet", "duckdb"},
    owners=OWNERS,
    pool="billing_reports",
    retry_policy=TRY_AGAIN,
    description="Billing reports per organization, itemised and summary: drafts of the months that are not "
    "closed. What new events change is written again.",
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
        metadata = advanced(
            context,
            name="billing_reports",
            position_from=done.from_position,
            position_to=done.to_position,
            head=head(opened.db),
            seconds=time.monotonic() - started,
            months=list(done.months),
            files=len(done.files),
            folder=dg.MetadataValue.path(out),
        )
    if done.months:
        metadata["totals_of_months_written"] = totals_table(of_billing(done.totals))
    return dg.MaterializeResult(metadata=metadata)


@dg.asset(
    deps=[lake_tables],
    group_name="publications",
    kinds={"jupyter", "plotly"},
    owners=OWNERS,
    pool="payment_trends_notebook",
    description="The notebook payment_trends, executed into one HTML page that opens without a network.",
)
def payment_trends_notebook(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.MaterializeResult[None]:
    from ledgerlake.eventstore.columnar import head
    from ledgerlake.notebook import refresh_page
    from pipelines.positions import notebook_page, positions

    page = notebook_page(ledger.settings)
    with at_work(context), ledger.open() as opened:
        before = positions(opened).assets
        done = refresh_page(NOTEBOOKS / "payment_trends.ipynb", page, ledger.settings, before["lake_trends"])
        metadata = advanced(
            context,
            name="payment_trends_notebook",
            position_from=min(before["payment_trends_notebook"], done.position),
            position_to=done.position,
            head=head(opened.db),
            seconds=done.seconds,
            executed=done.executed,
            page=dg.MetadataValue.path(page),
            bytes=page.stat().st_size,
        )
    return dg.MaterializeResult(metadata=metadata)
