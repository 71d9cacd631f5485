"""When to refresh: whenever anything is behind the event log."""

from __future__ import annotations

import dagster as dg

from pipelines.jobs import refresh_all
from pipelines.positions import positions
from pipelines.resources import Ledger
from pipelines.runs import run_under_way, seconds_to_wait


@dg.sensor(
    job=refresh_all,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares the head of the event log with the position of every asset, and refreshes when "
    "one is behind. It looks at how things are, not at what has changed: events that arrive during a run "
    "are seen at the next look, and what a failed run left undone is done by the next.",
)
def behind_the_log(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Ledger]
) -> dg.RunRequest | dg.SkipReason:
    with ledger.open() as opened:
        standing = positions(opened)
    if not standing.behind:
        return dg.SkipReason(f"Nothing new: everything is at {standing.head:,}, the head of the log.")
    run = run_under_way(context.instance)
    if run is not None:
        return dg.SkipReason(f"Run {run.run_id[:8]} is at it ({run.status.value}). Now: {standing}.")
    wait, failures = seconds_to_wait(context.instance)
    if wait > 0:
        failed = "The last run failed" if failures == 1 else f"The last {failures} runs failed"
        return dg.SkipReason(f"{failed}: trying again in {wait:.0f} s. Now: {standing}.")
    return dg.RunRequest(tags={"ledgerlake/head": str(standing.head)})
