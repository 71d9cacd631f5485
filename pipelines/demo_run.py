"""Runs the job `refresh_all` in this process, on the Dagster instance that the web UI shows later."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterEvent, DagsterInstance, ExecuteInProcessResult
    from dagster._core.execution.plan.objects import StepFailureData

JOB = "refresh_all"
ROOT = Path(__file__).resolve().parent.parent

OnStep = Callable[[str, str, float], None]
"""Called with a step's name, what came of it and its seconds, when the step is done."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run of the job. `failure` says which step failed and why; None if all went well."""

    run_id: str
    log: Path
    failure: str | None


def refresh_all(settings: Settings, on_step: OnStep) -> JobRun:
    """Run the job to its end. What it and the notebooks print goes to the log file."""
    # Where dagster.yaml is. It keeps the history in LEDGERLAKE_HOME, where `dagster dev` shows it later.
    os.environ.setdefault("DAGSTER_HOME", str(ROOT))
    run_id = str(uuid.uuid4())
    log = settings.home / "demo" / "dagster.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _output_to(log):
        # Imported here: Dagster takes more than a second, and its warnings belong in the log.
        import dagster as dg

        from pipelines.definitions import build
        from pipelines.resources import Ledger

        with dg.DagsterInstance.get() as instance, _following(instance, run_id, on_step):
            job = build(Ledger(settings)).resolve_job_def(JOB)
            result = job.execute_in_process(instance=instance, run_id=run_id, raise_on_error=False)
            failure = _failure(result)
    return JobRun(run_id, log, failure)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Sends this process's stdout and stderr, and those of the processes it starts, to the file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        with log.open("wb") as target:
            for descriptor in (1, 2):
                os.dup2(target.fileno(), descriptor)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextmanager
def _following(instance: DagsterInstance, run_id: str, on_step: OnStep) -> Iterator[None]:
    """Reports the run's steps from the instance's event log while they finish."""
    ended = threading.Event()

    def follow() -> None:
        cursor: str | None = None
        steps: dict[str, _Step] = defaultdict(_Step)
        while True:
            last_look = ended.is_set()
            found = instance.get_records_for_run(run_id, cursor=cursor)
            cursor = found.cursor
            for record in found.records:
                entry = record.event_log_entry
                if entry.dagster_event is None or entry.step_key is None:
                    continue
                step = steps[entry.step_key]
                if step.take(entry.dagster_event, entry.timestamp):
                    on_step(entry.step_key, step.outcome, entry.timestamp - step.begun)
            if last_look:
                return
            ended.wait(0.2)

    follower = threading.Thread(target=follow, name="demo-follower", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


@dataclass(slots=True)
class _Step:
    begun: float = 0.0
    events: int | None = None
    checks: int = 0
    failed: bool = False

    @property
    def outcome(self) -> str:
        if self.failed:
            return "FAILED"
        if self.checks:
            return f"{self.checks} check{'s' if self.checks > 1 else ''}"
        if self.events is None:
            return ""
        return f"{self.events:,} new events" if self.events else "nothing new"

    def take(self, event: DagsterEvent, at: float) -> bool:
        """Learn from the step's next event; True when it was the last one."""
        if event.is_step_start:
            self.begun = at
        elif event.is_step_materialization:
            count = event.step_materialization_data.materialization.metadata.get("events")
            if count is not None and isinstance(count.value, int):
                self.events = max(count.value, self.events or 0)
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            self.checks += 1
        self.failed = event.is_step_failure
        return event.is_step_success or event.is_step_failure


def _failure(result: ExecuteInProcessResult) -> str | None:
    from dagster import AssetCheckSeverity

    failed_checks = [
        f"{check.asset_key.to_user_string()}.{check.check_name} ({check.description or 'no description'})"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity is AssetCheckSeverity.ERROR
    ]
    if failed_checks:
        return f"run {result.run_id} failed these checks: {'; '.join(failed_checks)}"
    if result.success:
        return None
    for event in result.all_events:
        if event.is_step_failure:
            return (
                f"the step {event.step_key} of run {result.run_id} failed: {_reason(event.step_failure_data)}"
            )
    return f"run {result.run_id} failed before its first step"


def _reason(data: StepFailureData) -> str:
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    if data.error is None:
        return "no reason was given"
    # Dagster wraps what an asset raised; its own words add nothing.
    return (data.error.cause or data.error).message.strip()
