"""What happens by the clock."""

from __future__ import annotations

import dagster as dg

from pipelines.jobs import refresh_all
from pipelines.runs import run_under_way


@dg.schedule(
    job=refresh_all,
    cron_schedule="7 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Refreshes every hour even if nothing seems new: it catches up should the sensor be off, "
    "reconciles everything with the event log again, and takes in a changed notebook.",
)
def catch_up(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    run = run_under_way(context.instance)
    if run is not None:
        return dg.SkipReason(f"Run {run.run_id[:8]} is at it ({run.status.value}).")
    return dg.RunRequest()
