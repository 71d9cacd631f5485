"""Looking at runs that are under way, and at those that failed."""

from __future__ import annotations

import time

import dagster as dg

from pipelines.jobs import refresh_all

SILENT_SECONDS = 180.0
"""A run that has logged nothing for so long died without a word: whatever is at work logs more often."""

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 900.0


def run_under_way(instance: dg.DagsterInstance, now: float | None = None) -> dg.DagsterRun | None:
    """The refresh that is queued or at work, if there is one.

    One whose machine went down would count for ever, so a silent one is marked as failed. Should it be
    alive after all, nothing is lost: two refreshes at once do no harm.
    """
    now = time.time() if now is None else now
    for run in instance.get_runs(dg.RunsFilter(job_name=refresh_all.name, statuses=_UNDER_WAY)):
        entries = instance.event_log_storage.get_logs_for_run(run.run_id, limit=1, ascending=False)
        silent = now - max((entry.timestamp for entry in entries), default=now)
        if run.status == dg.DagsterRunStatus.QUEUED or silent < SILENT_SECONDS:
            return run
        instance.report_run_failed(
            run, f"Nothing was heard of this run for {silent / 60:.0f} minutes: it is taken for dead."
        )
    return None


def seconds_to_wait(instance: dg.DagsterInstance, now: float | None = None) -> tuple[float, int]:
    """How long to leave the job alone, and after how many failures in a row: 5 s, 10 s ... 15 minutes."""
    now = time.time() if now is None else now
    failures, ended = 0, 0.0
    for record in instance.get_run_records(dg.RunsFilter(job_name=refresh_all.name), limit=12):
        if record.dagster_run.status not in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
            break
        failures += 1
        ended = max(ended, record.end_time or record.update_timestamp.timestamp())
    if not failures:
        return 0.0, 0
    return max(0.0, ended + min(_FIRST_WAIT * 2 ** (failures - 1), _LONGEST_WAIT) - now), failures
