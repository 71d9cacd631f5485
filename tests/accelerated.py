"""The definitions as an operator has them, but for the schedule of every hour, which comes every minute."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

import dagster as dg

from pipelines.definitions import build
from pipelines.jobs import refresh_all
from pipelines.schedules import SCHEDULES, catch_up


@dg.schedule(
    name=catch_up.name,
    job=refresh_all,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def often(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    asked: dg.RunRequest | dg.SkipReason = catch_up(context)
    return asked


@dg.definitions
def defs() -> dg.Definitions:
    usual = build()
    return dg.Definitions(
        assets=usual.assets,
        asset_checks=usual.asset_checks,
        jobs=usual.jobs,
        schedules=[often, *(each for each in SCHEDULES if each is not catch_up)],
        sensors=usual.sensors,
        resources=usual.resources,
        executor=usual.executor,
    )
