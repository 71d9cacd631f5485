"""What is looked at all the time: whether anything is behind the event log, and whether anything is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ledgerlake.errors import LedgerLakeError
from pipelines.jobs import refresh_all
from pipelines.positions import positions
from pipelines.resources import Ledger
from pipelines.runs import failures, run_under_way, seconds_to_wait

if TYPE_CHECKING:
    from ledgerlake.alerts import Alert

# Jobs that run by themselves -> after how many failures in a row somebody is told. A refresh is tried again
# within seconds, which is enough for a server that restarts.
WATCHED = {"refresh_all": 2, "close_period": 1, "verify": 1, "prune_history": 1}


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
    # Before anything else: a run that died without a word is told apart from one that is at work.
    run = run_under_way(context.instance)
    if not standing.behind:
        return dg.SkipReason(f"Nothing new: everything is at {standing.head:,}, the head of the log.")
    if run is not None:
        return dg.SkipReason(f"Run {run.run_id[:8]} is at it ({run.status.value}). Now: {standing}.")
    wait, failed = seconds_to_wait(context.instance)
    if wait > 0:
        told = "The last run failed" if failed == 1 else f"The last {failed} runs failed"
        return dg.SkipReason(f"{told}: trying again in {wait:.0f} s. Now: {standing}.")
    return dg.RunRequest(tags={"ledgerlake/head": str(standing.head)})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the log, and LEDGERLAKE_ALERT_WEBHOOK if it is set, what is wrong: a projection that "
    "stopped or set events aside, a failed verification, events that wait too long, jobs that fail. Once "
    "when it begins, once a day while it lasts, once when it is over. The cursor is what was told.",
)
def alerts(context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Ledger]) -> dg.SkipReason:
    from pymongo.errors import PyMongoError

    from ledgerlake.alerts import Alarm, channels, look_at, unreachable

    settings = ledger.settings
    alarm = Alarm(channels(settings.alert_webhook, settings.database), context.cursor)
    try:
        with ledger.open() as opened:
            wrong, complete = look_at(opened)
    except (LedgerLakeError, PyMongoError) as error:
        wrong, complete = [unreachable(error)], False
    wrong += [alert for job in WATCHED if (alert := _failing(context.instance, job)) is not None]
    told = alarm.look(wrong, complete=complete)
    context.update_cursor(alarm.memory)
    for notice in told:
        context.log.info(f"{notice.kind}: {notice.text}")
    now = "; ".join(alert.message for alert in wrong) or "All is well."
    return dg.SkipReason(now if not told else f"{now} Told: {', '.join(each.alert.key for each in told)}.")


def _failing(instance: dg.DagsterInstance, job: str) -> Alert | None:
    from ledgerlake.alerts import Alert

    failed = failures(instance, job)
    # Whoever cancels a run knows that it did not end.
    if len(failed) < WATCHED[job] or failed[0].dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return None
    return Alert(
        f"run/{job}",
        "error",
        f"The Dagster job {job} fails: last run {failed[0].dagster_run.run_id[:8]}.",
        "Its page in Dagster says why, with what to do.",
    )


SENSORS = (behind_the_log, alerts)
