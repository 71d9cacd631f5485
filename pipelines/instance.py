"""Where Dagster keeps its own history: in the folder `dagster` of LEDGERLAKE_HOME, beside what it is about.

Named by dagster.yaml, whose own settings can not say "this variable, or else that". Apart from the folder
they are Dagster's SQLite storage, log files and artifacts, unchanged.
"""
# ruff: noqa: ARG003  (Dagster hands over a configuration, which is empty)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from ledgerlake.settings import Settings


def history_folder() -> Path:
    """`dagster` in LEDGERLAKE_HOME (default: ./var)."""
    return Settings.from_env().home / "dagster"


class History(DagsterSqliteStorage):
    """Runs, events, schedules and sensors."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> History:
        return cls.from_local(str(history_folder()), inst_data)


class Logs(LocalComputeLogManager):
    """What runs print."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Logs:
        return cls(base_dir=str(history_folder() / "logs"), inst_data=inst_data)


class Artifacts(LocalArtifactStorage):
    """What assets hand to one another; ours hand over nothing, they read and write the ledger."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Artifacts:
        return cls(base_dir=str(history_folder()), inst_data=inst_data)
