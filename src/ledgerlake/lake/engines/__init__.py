"""What runs the SQL texts of the lake: DuckDB in this process, or Apache Spark.

The port is the small part of a DuckDB connection that the texts need, so that DuckDB is an engine as it
is. Whatever runs a text, `Definition.declare` casts the result to the declared schema: the tables are
identical.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import pyarrow as pa

if TYPE_CHECKING:
    from ledgerlake.lake.pinned import PinnedLake
    from ledgerlake.settings import Settings


class Answer(Protocol):
    """The rows that a query yields, as one Arrow table or as batches of up to `batch_size` rows."""

    def to_arrow_table(self) -> pa.Table: ...
    def to_arrow_reader(self, batch_size: int, /) -> pa.RecordBatchReader: ...


class Connection(Protocol):
    """A session that knows the view `events`, in time zone UTC, for queries in DuckDB's dialect.

    `$name` in a query stands for the parameter `name`: a text, a whole number, a date, an aware datetime, or
    None. The texts keep to what docs/engines.md calls the portable subset.
    """

    def sql(self, query: str, /, *, params: object = None) -> Answer: ...

    def execute(self, query: str, /) -> object:
        """Run a statement without parameters: CREATE TEMP VIEW ... AS SELECT ..."""
        ...

    def register(self, name: str, table: pa.Table, /) -> object:
        """Make a table of this process a view of the session: some thousand rows, not millions."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


class Engine(Protocol):
    """Opens connections on a lake. `name` is what settings and commands call it."""

    @property
    def name(self) -> str: ...

    def connect(self, pinned: PinnedLake) -> Connection:
        """A connection with the view `events`. Close it after use.

        Raises:
            EngineError: the engine is not installed, or can not be reached.
        """
        ...


class DuckDbEngine:
    """DuckDB in this process, on all its cores."""

    name: Final = "duckdb"

    def connect(self, pinned: PinnedLake) -> Connection:
        return pinned.duckdb()


DUCKDB: Final = DuckDbEngine()


def engine_of(settings: Settings) -> Engine:
    """The engine that the settings name. Nothing is started or reached before its first connection."""
    if settings.engine == DUCKDB.name:
        return DUCKDB
    from ledgerlake.lake.engines.spark import SparkEngine

    return SparkEngine(settings.spark_url, settings.spark_lake)
