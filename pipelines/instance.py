"""Where Dagster keeps its own history: in the folder `dagster` of LEDGERLAKE_HOME, beside what it is about.

Named by dagster.yaml, whose own settings can not say "this variable, or else that". Apart from the folder
they are Dagster's storage (SQLite, or a PostgreSQL), log files and artifacts, unchanged.
"""
# ruff: noqa: ARG003  (Dagster hands over a configuration, which is empty)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from ledgerlake.errors import LedgerLakeError
from ledgerlake.settings import Settings


class PostgresMissing(LedgerLakeError):
    """The settings name a PostgreSQL, and what talks to it is not installed."""


def history_folder() -> Path:
    """`dagster` in LEDGERLAKE_HOME (default: ./var)."""
    return Settings.from_env().home / "dagster"


class History(DagsterSqliteStorage):
    """Runs, events, schedules and sensors: in files, or where LEDGERLAKE_DAGSTER_POSTGRES says.

    The address stays in the environment: what Dagster hands from process to process holds no password.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """Raises PostgresMissing, SettingsError."""
        address = Settings.from_env().dagster_postgres
        if address is None:
            return cls.from_local(str(history_folder()), inst_data)
        try:
            from dagster_postgres import DagsterPostgresStorage
        except ImportError as error:
            raise PostgresMissing(
                "LEDGERLAKE_DAGSTER_POSTGRES needs the package dagster-postgres.",
                "Install it with `pip install 'ledgerlake[postgres]'`.",
            ) from error
        # SQLAlchemy 2.1 takes psycopg 3 where no driver is named, which Dagster's statements do not fit.
        driven = address.replace("postgresql://", "postgresql+psycopg2://", 1)
        return DagsterPostgresStorage(driven, inst_data=inst_data)


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
