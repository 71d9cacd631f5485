"""Where the steps of a run are carried out, by LEDGERLAKE_DAGSTER_EXECUTOR (docs/scaling.md).

The assets know nothing of it: each opens the ledger for itself, and hands nothing over but what lies in the
ledger, its lake and its reports.
"""

from __future__ import annotations

import dagster as dg

from ledgerlake.errors import LedgerLakeError
from ledgerlake.settings import Settings


class ExecutorMissing(LedgerLakeError):
    """The executor that the settings ask for is not installed."""


def executor(settings: Settings | None = None) -> dg.ExecutorDefinition:
    """The executor of all jobs: in_process, multiprocess or celery.

    Celery's broker and result backend are those of its own variables, CELERY_BROKER_URL and
    CELERY_RESULT_BACKEND, which its workers read, too. Raises ExecutorMissing, SettingsError.
    """
    wanted = (settings or Settings.from_env()).dagster_executor
    if wanted == "celery":
        return _celery()
    if wanted == "multiprocess":
        # A step is forked off a process that has imported everything, which costs a tenth of a new one.
        return dg.multiprocess_executor.configured(
            {"start_method": {"forkserver": {"preload_modules": ["pipelines.definitions"]}}}
        )
    # A step is often shorter than the start of a process for it.
    return dg.in_process_executor


def _celery() -> dg.ExecutorDefinition:
    try:
        from dagster_celery import celery_executor
    except ImportError as error:
        raise ExecutorMissing(
            "LEDGERLAKE_DAGSTER_EXECUTOR=celery needs the package dagster-celery.",
            "Install it with `pip install 'ledgerlake[celery]'`, for whoever loads the definitions.",
        ) from error
    found: dg.ExecutorDefinition = celery_executor
    return found
