"""Dagster's history: runs that are older than anybody asks for are removed, and what they left behind."""

# No `from __future__ import annotations`: Dagster reads the types of arguments as objects, not as text.

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from pipelines.jobs import OURS
from pipelines.materialization import at_work
from pipelines.resources import Ledger
from pipelines.runs import ENDED, of_job, ours

_PAGE = 500
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many runs were removed, and how many older ones are kept because something rests on them."""

    removed: int
    kept: int


def prune(instance: dg.DagsterInstance, before: datetime, log: dg.DagsterLogManager | None = None) -> Pruned:
    """Remove the runs of our own that ended and were created before an instant, with their events and logs.

    What is kept of them: the latest run of each job, and runs that hold the latest materialization or
    observation of an asset or of one of its partitions, or the latest result of a check: pages and sensors of
    Dagster rest on those. May be stopped at any moment, and run again.
    """
    old = dict(_old(instance, before))
    needed = _latest_of_jobs(instance, set(old.values())) | _latest_of_assets(instance)
    needed |= _latest_of_checks(instance)
    unneeded = [run for run in old if run not in needed]
    for start in range(0, len(unneeded), _AT_ONCE):
        batch = unneeded[start : start + _AT_ONCE]
        for run in batch:
            _remove(instance, run)
        _remove_check_results(instance, batch)
        if log is not None:
            log.info(f"{start + len(batch):,} of {len(unneeded):,} runs removed.")
    return Pruned(len(unneeded), len(old) - len(unneeded))


@dg.op(out=dg.Out(dg.Nothing))
def prune_runs(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Ledger]) -> None:
    """Remove old runs."""
    before = datetime.now(UTC) - timedelta(days=ledger.settings.history_days)
    with at_work(context):
        done = prune(context.instance, before, context.log)
    context.log.info(
        f"{done.removed:,} runs from before {before:%Y-%m-%d} removed; {done.kept:,} older ones are kept, as "
        "the latest of a job, asset, partition or check."
    )
    context.add_output_metadata({"removed": done.removed, "kept": done.kept})


@dg.job(
    description="Remove runs that are older than LEDGERLAKE_HISTORY_DAYS days, with their events and logs; "
    "never the latest run of a job, nor one that holds what is known of an asset, a month or a check.",
    tags=OURS,
)
def prune_history() -> None:
    """Remove old runs."""
    prune_runs.alias("prune_history")()


def _old(instance: dg.DagsterInstance, before: datetime) -> Iterator[tuple[str, str]]:
    """The runs that may go, with their jobs."""
    wanted = dg.RunsFilter(statuses=ENDED, created_before=before)
    cursor = None
    while page := instance.get_runs(wanted, cursor=cursor, limit=_PAGE):
        yield from ((run.run_id, run.job_name) for run in page if ours(run))
        cursor = page[-1].run_id


def _latest_of_jobs(instance: dg.DagsterInstance, jobs: set[str]) -> set[str]:
    return {run.run_id for job in jobs for run in instance.get_runs(of_job(job, ENDED), limit=1)}


def _latest_of_assets(instance: dg.DagsterInstance) -> set[str]:
    from dagster._core.events import DagsterEventType

    storage = instance.event_log_storage
    needed = set()
    for asset in instance.all_asset_keys():
        for kind, fetch in (
            (DagsterEventType.ASSET_MATERIALIZATION, instance.fetch_materializations),
            (DagsterEventType.ASSET_OBSERVATION, instance.fetch_observations),
        ):
            needed |= {record.run_id for record in fetch(asset, limit=1).records}
            ids = list(storage.get_latest_storage_id_by_partition(asset, kind).values())
            for start in range(0, len(ids), _PAGE):
                some = ids[start : start + _PAGE]
                of_partitions = dg.AssetRecordsFilter(asset_key=asset, storage_ids=some)
                needed |= {record.run_id for record in fetch(of_partitions, limit=len(some)).records}
    return needed


def _latest_of_checks(instance: dg.DagsterInstance) -> set[str]:
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage, table = instance.event_log_storage, AssetCheckExecutionsTable
    if not isinstance(storage, SqlEventLogStorage):
        return set()
    # A run that has only begun has rows, too, which say nothing yet.
    done = table.c.evaluation_event.is_not(None)
    latest = db.select(db.func.max(table.c.id)).where(done).group_by(table.c.asset_key, table.c.check_name)
    with storage.index_connection() as connection:
        found = connection.execute(db.select(table.c.run_id).where(table.c.id.in_(latest)))
        return {row[0] for row in found}


def _remove_check_results(instance: dg.DagsterInstance, runs: list[str]) -> None:
    """The table of results of checks, which Dagster itself leaves behind."""
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage, table = instance.event_log_storage, AssetCheckExecutionsTable
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            connection.execute(table.delete().where(table.c.run_id.in_(runs)))


def _remove(instance: dg.DagsterInstance, run: str) -> None:
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

    # The run itself last: until then the next pruning finds it again.
    instance.compute_log_manager.delete_logs(prefix=[run])
    storage = instance.event_log_storage
    storage.delete_events(run)
    if isinstance(storage, SqliteEventLogStorage):
        # A file for each run, which Dagster only empties.
        shard = Path(storage.path_for_shard(run))
        for file in (shard, *(shard.with_name(f"{shard.name}-{end}") for end in ("wal", "shm", "journal"))):
            file.unlink(missing_ok=True)
    instance.run_storage.delete_run(run)
