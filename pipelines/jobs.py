"""One job for everything."""

from __future__ import annotations

import dagster as dg

REFRESH_TAG = "ledgerlake/refresh"
"""On every run that refreshes; dagster.yaml lets the queue start one at a time."""

refresh_all = dg.define_asset_job(
    "refresh_all",
    selection=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
    description="Bring everything up to the head of the event log: read models, lake, checks, and, when "
    "these pass, reports and notebook. A run that finds nothing new says so.",
    # One process: a step is often shorter than the start of a process for it. For parallel steps give
    # {"execution": {"config": {"multiprocess": {"max_concurrent": 4}}}} as the run's configuration.
    executor_def=dg.multi_or_in_process_executor,
    config={"execution": {"config": {"in_process": {}}}},
    tags={REFRESH_TAG: "all"},
)
