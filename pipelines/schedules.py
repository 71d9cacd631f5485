"""What happens by the clock, in UTC."""

from __future__ import annotations

import dagster as dg

from pipelines.history import prune_history
from pipelines.jobs import close_period, refresh_all, verify
from pipelines.resources import Ledger
from pipelines.runs import run_under_way


def _unless_at_it(context: dg.ScheduleEvaluationContext, job: str) -> dg.RunRequest | dg.SkipReason:
    run = run_under_way(context.instance, job)
    if run is not None:
        return dg.SkipReason(f"Run {run.run_id[:8]} is at it ({run.status.value}).")
    return dg.RunRequest()


@dg.schedule(
    job=refresh_all,
    cron_schedule="7 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Refreshes every hour even if nothing seems new: it catches up should the sensor be off, "
    "reconciles everything with the event log again, and takes in a changed notebook.",
)
def catch_up(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return _unless_at_it(context, refresh_all.name)


@dg.schedule(
    job=close_period,
    cron_schedule="17 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Closes, in order, every month of the books that ended LEDGERLAKE_CLOSE_AFTER_DAYS days ago "
    "or earlier. A close that fails is tried again the next day; a month that somebody reopened "
    "is left to whoever did. Does nothing while the variable is not set.",
)
def monthly_close(
    context: dg.ScheduleEvaluationContext, ledger: dg.ResourceParam[Ledger]
) -> dg.RunRequest | dg.SkipReason:
    from ledgerlake.reports.due import due_period, reopened

    settings = ledger.settings
    if settings.close_after_days is None:
        return dg.SkipReason("Months are closed by hand: LEDGERLAKE_CLOSE_AFTER_DAYS is not set.")
    asked = _unless_at_it(context, close_period.name)
    if isinstance(asked, dg.SkipReason):
        return asked
    now = context.scheduled_execution_time
    with ledger.open() as opened:
        books = opened.periods.books()
        period = due_period(opened.db, books, now, settings.close_after_days)
    if (again := reopened(books)) is not None:
        return dg.SkipReason(
            f"{again} was reopened: whoever did that closes it again, and nothing is closed before."
        )
    if period is None:
        return dg.SkipReason(f"No month that ended {settings.close_after_days} days ago or earlier is open.")
    config = {"period": period, "through": True, "by": "monthly_close"}
    return dg.RunRequest(run_config={"ops": {"close_period": {"config": config}}})


@dg.schedule(
    job=verify,
    cron_schedule="41 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Compares everything with the event log, to the last event, byte and report.",
)
def nightly_verify(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return _unless_at_it(context, verify.name)


@dg.schedule(
    job=prune_history,
    cron_schedule="23 3 * * 0",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Removes runs that are older than LEDGERLAKE_HISTORY_DAYS days from Dagster's history.",
)
def weekly_pruning(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return _unless_at_it(context, prune_history.name)


SCHEDULES = (catch_up, monthly_close, nightly_verify, weekly_pruning)
