"""Looking at runs that are under way, and at those that failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import dagster as dg

from ledgerlake.settings import Settings
from pipelines.jobs import OURS, REFRESH_TAG, refresh_all

SILENT_SECONDS = 180.0
"""A run that has logged nothing for so long died without a word: whatever is at work logs more often."""

SILENT_SECONDS_OF_CELERY = 3600.0
"""There a step may wait in the broker until a worker is free, and nobody logs that."""

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 900.0
_OF_ASSETS = "__ASSET_JOB"  # what Dagster calls the materialization of assets that somebody chose


def ours(run: dg.DagsterRun) -> bool:
    """Whether a run is one of these definitions: others may share the instance, and theirs are left alone."""
    if run.job_name == _OF_ASSETS:
        return bool(run.asset_selection) and _assets().issuperset(run.asset_selection or ())
    return OURS.items() <= run.tags.items() or REFRESH_TAG in run.tags


def of_job(job: str, statuses: Sequence[dg.DagsterRunStatus]) -> dg.RunsFilter:
    """The runs of our job of that name, and of nobody else's."""
    return dg.RunsFilter(job_name=job, statuses=list(statuses), tags={} if job == _OF_ASSETS else OURS)


@cache
def _assets() -> frozenset[dg.AssetKey]:
    from pipelines.definitions import build

    return frozenset(spec.key for spec in build().resolve_all_asset_specs())


def run_under_way(
    instance: dg.DagsterInstance, job: str = refresh_all.name, now: float | None = None
) -> dg.DagsterRun | None:
    """The run of a job that is queued or at work, if there is one.

    One whose machine went down would count for ever, so a silent one, of whichever of our jobs, is marked as
    failed.
    Should it be alive after all, nothing is lost: two at once do no harm.
    """
    now = time.time() if now is None else now
    celery = Settings.from_env().dagster_executor == "celery"
    patience = SILENT_SECONDS_OF_CELERY if celery else SILENT_SECONDS
    found = None
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY)):
        run = record.dagster_run
        if not ours(run):
            continue
        entries = instance.event_log_storage.get_logs_for_run(run.run_id, limit=1, ascending=False)
        made = record.create_timestamp.timestamp()
        silent = now - max((entry.timestamp for entry in entries), default=made)
        if run.status == dg.DagsterRunStatus.QUEUED or silent < patience:
            found = run if found is None and run.job_name == job else found
        else:
            instance.report_run_failed(
                run, f"Nothing was heard of this run for {silent / 60:.0f} minutes: it is taken for dead."
            )
    return found


def failures(instance: dg.DagsterInstance, job: str) -> list[dg.RunRecord]:
    """The last runs of a job that have ended, as long as they did not succeed, the latest first; up to 12."""
    found = []
    for record in instance.get_run_records(of_job(job, ENDED), limit=12):
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
