"""All definitions, in one function whose resources can be replaced."""

from __future__ import annotations

import dagster as dg

from pipelines import assets, checks, schedules, sensors
from pipelines.jobs import refresh_all
from pipelines.resources import Ledger


def build(ledger: Ledger | None = None) -> dg.Definitions:
    """The definitions on a ledger; by default that of the environment, looked up when something runs."""
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(assets, include_specs=True),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=[refresh_all],
        schedules=[schedules.catch_up],
        sensors=[sensors.behind_the_log],
        resources={"ledger": ledger or Ledger()},
        executor=dg.multi_or_in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `dg` and `dagster` load."""
    return build()
