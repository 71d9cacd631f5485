"""All definitions, in one function whose resources can be replaced."""

from __future__ import annotations

from typing import Any

import dagster as dg

from pipelines import assets, checks, executors
from pipelines.history import prune_history
from pipelines.jobs import JOBS
from pipelines.resources import Ledger
from pipelines.schedules import SCHEDULES
from pipelines.sensors import SENSORS


def build(
    ledger: Ledger | None = None, executor: dg.ExecutorDefinition | None = None, **resources: Any
) -> dg.Definitions:
    """The definitions on a ledger; by default that of the environment, looked up when something runs.

    `executor` is by default the one that LEDGERLAKE_DAGSTER_EXECUTOR names; other resources are put beside
    the ledger, by their names.
    """
    return dg.Definitions(
        assets=checks.with_freshness(dg.load_assets_from_package_module(assets, include_specs=True)),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=[*JOBS, prune_history],
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={"ledger": ledger or Ledger(), **resources},
        executor=executor or executors.executor(),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `dg` and `dagster` load."""
    return build()
