"""The jobs: one that keeps everything up to date, and those that somebody starts for a purpose."""

# No `from __future__ import annotations`: Dagster reads the types of arguments as objects, not as text.

import dagster as dg

from pipelines.ops import (
    close_month,
    rebuild_projection,
    verify_lake,
    verify_layers,
    verify_reports,
    write_bill,
)

REFRESH_TAG = "ledgerlake/refresh"
"""On every run that refreshes; dagster.yaml lets the queue start one at a time."""

OURS = {"ledgerlake/definitions": "pipelines"}
"""On every run of these jobs: others may share the instance, with jobs of the same names."""

_MONTHS = dg.AssetSelection.assets("billing_months")

# Where the steps run, in this process or elsewhere, is up to the executor of the definitions.
refresh_all = dg.define_asset_job(
    "refresh_all",
    selection=(dg.AssetSelection.all() - _MONTHS) | dg.AssetSelection.all_asset_checks(),
    description="Bring everything up to the head of the event log: read models, lake, checks, and, when "
    "these pass, reports and notebooks. A run that finds nothing new says so.",
    tags={**OURS, REFRESH_TAG: "all"},
)

billing_month = dg.define_asset_job(
    "billing_month",
    selection=_MONTHS,
    description="Make months' reports right: drafts are written anew, closed months are verified. Choose "
    "the months as partitions; a backfill of several is one run.",
    tags=OURS,
)


@dg.job(
    description="Fill one read model anew from the whole log while it is read, compare it with the live one, "
    "and swap them at once. Stopped at any moment, the next run goes on where it stood.",
    tags=OURS,
)
def rebuild() -> None:
    """Rebuild a projection."""
    rebuild_projection.alias("rebuild")()


@dg.job(
    description="Close a month of the books for good, or all that are due: everything is brought up to date "
    "and reconciled with the log first, and nothing is closed if anything differs.",
    tags=OURS,
)
def close_period() -> None:
    """Close a month."""
    close_month.alias("close_period")()


@dg.job(
    description="Read everything and compare it with the event log: read models, statistics, trends and "
    "lake, every byte of the lake's files, every billing report. Fails with what differs.",
    tags=OURS,
)
def verify() -> None:
    """Verify everything; each step tells its own differences, whatever the others find."""
    verify_layers()
    verify_lake()
    verify_reports()


@dg.job(
    description="Write billing reports of any interval, as of any position or instant, in any format, into a "
    "folder of your own: what `ledgerlake report billing` does.",
    tags=OURS,
)
def export() -> None:
    """Write a bill."""
    write_bill.alias("export")()


JOBS = (refresh_all, billing_month, rebuild, close_period, verify, export)
