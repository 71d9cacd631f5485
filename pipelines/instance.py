"""Where Dagster keeps its own history: in the folder `dagster` of LEDGERLAKE_HOME, beside what it is about.

Named by dagster.yaml, whose own settings can not say "this variable, or else that". Apart from the folder,
and from how files of events are opened, they are Dagster's storage (SQLite, or a PostgreSQL), log files and
artifacts, unchanged.
"""
# ruff: noqa: ARG003  (Dagster hands over a configuration, which is empty)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from ledgerlake.errors import LedgerLakeError
from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

_RUNS_AT_HAND = 4
_BUSY_SECONDS = 60


class PostgresMissing(LedgerLakeError):
    """The settings name a PostgreSQL, and what talks to it is not installed."""


def history_folder() -> Path:
    """`dagster` in LEDGERLAKE_HOME (default: ./var)."""
    return Settings.from_env().home / "dagster"


class EventFiles(SqliteEventLogStorage):
    """Dagster's files of events: one for each run, and one for all, which is kept open.

    Dagster opens and closes two for every event, with all that SQLAlchemy prepares, and the last one who
    closes a file makes SQLite tidy it up on the disk: half the time of a run that finds nothing new. A run's
    file is closed all the same: the web page sees that there is more by that it is tidied up.
    """

    def __init__(self, base_dir: str) -> None:
        self._engines: dict[str, Engine] = {}
        self._opened: int | None = None
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool, QueuePool

        with self._db_lock:
            engine = self._engines.pop(shard, None)
            if engine is not None and shard == INDEX_SHARD_NAME and self._file() != self._opened:
                # Removed, or put back from a backup: what goes to the old one would be lost.
                engine.dispose()
                self._initialized_dbs.discard(shard)
                engine = self._opened = None
            if engine is None:
                address = self.conn_string_for_shard(shard)
                pool = QueuePool if shard == INDEX_SHARD_NAME else NullPool
                engine = create_engine(address, connect_args={"timeout": _BUSY_SECONDS}, poolclass=pool)
            self._engines[shard] = engine
            for old in [each for each in self._engines if each != INDEX_SHARD_NAME][:-_RUNS_AT_HAND]:
                self._engines.pop(old).dispose()
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            if shard == INDEX_SHARD_NAME and self._opened is None:
                self._opened = self._file()
            with engine.begin() as connection:
                yield connection

    def _file(self) -> int | None:
        """Which file it is that has all events; None if there is none."""
        try:
            return Path(self.path_for_shard(INDEX_SHARD_NAME)).stat().st_ino
        except FileNotFoundError:
            return None

    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class History(DagsterSqliteStorage):
    """Runs, events, schedules and sensors: in files, or where LEDGERLAKE_DAGSTER_POSTGRES says.

    The address stays in the environment: what Dagster hands from process to process holds no password.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        files = self._event_log_storage
        self._event_log_storage = EventFiles(files._base_dir)
        files.dispose()

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
