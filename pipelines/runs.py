"""Looking at runs that are under way, and at those that failed."""

from __future__ import annotations

import time

import dagster as dg

from pipelines.jobs import refresh_all

SILENT_SECONDS = 180.0
"""A run that has logged nothing for so long died without a word: whatever is at work logs more often."""

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 900.0


def run_under_way(
    instance: dg.DagsterInstance, job: str = refresh_all.name, now: float | None = None
) -> dg.DagsterRun | None:
    """The run of a job that is queued or at work, if there is one.

    One whose machine went down would count for ever, so a silent one, of whichever job, is marked as failed.
    Should it be alive after all, nothing is lost: two at once do no harm.
    """
    now = time.time() if now is None else now
    found = None
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        entries = instance.event_log_storage.get_logs_for_run(run.run_id, limit=1, ascending=False)
        silent = now - max((entry.timestamp for entry in entries), default=now)
        if run.status == dg.DagsterRunStatus.QUEUED or silent < SILENT_SECONDS:
            found = run if found is None and run.job_name == job else found
        else:
            instance.report_run_failed(
                run, f"Nothing was heard of this run for {silent / 60:.0f} minutes: it is taken for dead."
            )
    return found


def failures(instance: dg.DagsterInstance, job: str) -> list[dg.RunRecord]:
    """The last runs of a job that have ended, as long as they did not succeed, the latest first; up to 12."""
    found = []
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=ENDED), limit=12):
        if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS:
            break
        found.append(record)
    return found


def seconds_to_wait(instance: dg.DagsterInstance, now: float | None = None) -> tuple[float, int]:
    """How long to leave the refresh alone, and after how many failures in a row: 5 s, 10 s ... 15 minutes."""
    now = time.time() if now is None else now
    failed = failures(instance, refresh_all.name)
    if not failed:
        return 0.0, 0
    ended = max(record.end_time or record.update_timestamp.timestamp() for record in failed)
    return max(0.0, ended + min(_FIRST_WAIT * 2 ** (len(failed) - 1), _LONGEST_WAIT) - now), len(failed)
