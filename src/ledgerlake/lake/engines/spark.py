"""Apache Spark as an engine: on a master that this process joins as the driver, or over Spark Connect."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pyarrow as pa

from ledgerlake.eventstore.columnar import SCHEMA
from ledgerlake.lake.errors import EngineError, UnansweredError

if TYPE_CHECKING:
    from ledgerlake.lake.pinned import PinnedLake

_PATIENCE_SECONDS: Final = 10
_CONNECT_PORT: Final = 15002  # Spark's default
# What decides over a result; the rest is the cluster's business.
_SESSION: Final = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # an overflow or a bad cast is an error and no null
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
}
# Where this process is the driver. The limit on a result is this machine's memory.
_DRIVER: Final = {"spark.driver.maxResultSize": "0", "spark.ui.showConsoleProgress": "false"}
# Where it is the whole of Spark, too: nothing listens beyond this machine.
_LOCAL: Final = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.log.level": "ERROR",
    "spark.ui.enabled": "false",
}
_READ: Final = {
    # Spark can verify page checksums, and does not unless it is asked to.
    "parquet.page.verify-checksum.enabled": "true",
    # Our instants are of the proleptic calendar, as Spark's are: none is to be moved.
    "datetimeRebaseMode": "CORRECTED",
}

_TYPES: Final = {
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.int8(): "byte",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.string(): "string",
}


@dataclass(frozen=True, slots=True)
class SparkEngine:
    """Spark at a URL: a master such as `local[2]`, `spark://host:7077` or `yarn`, or `sc://host:15002` for
    Spark Connect.

    Attributes:
        url: what follows the host may be a token, and is never shown.
        lake: where Spark finds the lake's folder, such as `s3a://bucket/lake`; None: where it lies here.
    """

    url: str = field(repr=False)
    lake: str | None = None
    name: str = field(default="spark", init=False)

    def connect(self, pinned: PinnedLake) -> SparkConnection:
        """A session of its own with the view `events`; see `Engine`.

        Raises:
            EngineError: Spark is not installed or can not be reached, or what lies at `lake` is another lake.
        """
        try:
            import pyspark.sql  # noqa: F401
            import sqlglot  # noqa: F401
        except ImportError as error:
            raise EngineError(
                f"The engine spark needs packages that are not installed ({error}).",
                "Install them with `pip install 'ledgerlake[spark]'`, or use the engine duckdb.",
            ) from error
        with _telling(
            f"Spark at {self._shown()} can not be used",
            None if self._remote else "Install Java 17 or later, or use Spark Connect: --url sc://HOST:PORT.",
        ):
            connection = SparkConnection(*self._session())
        try:
            connection.show(pinned, self.lake)
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _remote(self) -> bool:
        return self.url.startswith("sc://")

    def _session(self) -> tuple[Any, Callable[[], None]]:
        """A new session, and what ends it."""
        if not self._remote:
            from pyspark.sql import SparkSession

            options = {**_DRIVER, **(_LOCAL if self.url.startswith("local") else {})}
            first = (
                SparkSession.builder.master(self.url).appName("ledgerlake").config(map=options).getOrCreate()
            )
            # Views and settings are the session's own. Spark itself, which took seconds to start, stays for
            # the next one and ends with this process.
            return first.newSession(), lambda: None

        from pyspark.sql.connect.session import SparkSession as RemoteSession

        self._knock()
        session = RemoteSession.builder.remote(self.url).create()
        return session, session.stop

    def _knock(self) -> None:
        """Spark's client would try for minutes where nobody listens."""
        place = urlsplit(self.url.partition("/;")[0])
        try:
            address = (place.hostname or "", place.port or _CONNECT_PORT)
            socket.create_connection(address, _PATIENCE_SECONDS).close()
        except (OSError, ValueError) as error:
            raise EngineError(
                f"No Spark Connect server answers at {self._shown()} ({error}).",
                "Start one (docs/engines.md), or name the right one: --url sc://HOST:PORT.",
            ) from error

    def _shown(self) -> str:
        return self.url.partition("/;")[0].rpartition("@")[2]


class SparkConnection:
    """A session of Spark; see `Connection`."""

    def __init__(self, session: Any, end: Callable[[], None]) -> None:
        self._session = session
        self._end = end
        self._views: set[str] = set()
        for name, value in _SESSION.items():
            session.conf.set(name, value)

    def show(self, pinned: PinnedLake, lake: str | None) -> None:
        """Make the pinned lake the view `events`: its sealed files, read by Spark, and its tail's rows."""
        with _telling("Spark can not read the lake"):
            # The tail's file may be replaced at any time; its rows are pinned already.
            events = self._frame(SCHEMA.empty_table() if pinned.tail is None else pinned.tail)
            if pinned.sealed:
                folder = f"file://{pinned.root}/" if lake is None else lake.rstrip("/") + "/"
                files = [info.path.relative_to(pinned.root).as_posix() for info in pinned.sealed]
                paths = [_literally(folder + file) for file in files]
                reader = self._session.read.schema(events.schema).options(**_READ)
                events = reader.parquet(*paths).unionAll(events)
            events = events.where(f"position <= {pinned.position}")
            events.createOrReplaceTempView("events")
            self._views.add("events")
        if lake is not None:
            self._check_same_lake(pinned, lake)

    def _check_same_lake(self, pinned: PinnedLake, lake: str) -> None:
        found = self.sql(
            "SELECT COUNT(*) AS events, MAX(event_id) FILTER (WHERE position = $position) AS last"
            " FROM events",
            params={"position": pinned.position},
        ).to_arrow_table()
        if found.to_pylist() != [{"events": pinned.position, "last": pinned.last_event_id or None}]:
            raise EngineError(
                f"What lies at {lake} is not this lake up to position {pinned.position}.",
                "Copy the sealed segments there again (docs/engines.md).",
            )

    def sql(self, query: str, /, *, params: object = None) -> SparkAnswer:
        from ledgerlake.lake.engines.translate import to_spark

        given = params if isinstance(params, Mapping) else {}
        text, names = to_spark(query)
        for name in names:
            value = given[name]
            if isinstance(value, datetime) and value.tzinfo is None:
                raise ValueError(f"${name} is a datetime without a zone: {value}.")
        with _telling("Spark does not take the query"):
            return SparkAnswer(self._session.sql(text, args={name: given[name] for name in names}))

    def execute(self, query: str, /) -> None:
        self.sql(query)

    def register(self, name: str, table: pa.Table, /) -> None:
        with _telling(f"Spark does not take the table {name}"):
            self._frame(table).createOrReplaceTempView(name)
            self._views.add(name)

    def _frame(self, table: pa.Table) -> Any:
        from pyspark.sql.types import StructType

        # With its schema, which Spark Connect does not infer from a table without rows.
        return self._session.createDataFrame(table, StructType.fromJson(_struct(table.schema)))

    def close(self) -> None:
        with _telling("Spark can not end the session"):
            for name in self._views:
                self._session.catalog.dropTempView(name)
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class SparkAnswer:
    """What a query yields. It is computed when it is asked for, and comes as a whole; see `Answer`."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def to_arrow_table(self) -> pa.Table:
        with _telling("Spark can not answer", kind=UnansweredError):
            return self._frame.toArrow()

    def to_arrow_reader(self, batch_size: int, /) -> pa.RecordBatchReader:
        table = self.to_arrow_table()
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(batch_size))


def _struct(schema: pa.Schema) -> dict[str, Any]:
    """An Arrow schema as Spark writes its own."""
    fields = [
        {"name": each.name, "type": _type(each.type), "nullable": True, "metadata": {}} for each in schema
    ]
    return {"type": "struct", "fields": fields}


def _type(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "timestamp_ntz" if kind.tz is None else "timestamp"
    return _TYPES[kind]


def _literally(path: str) -> str:
    """The path where Spark expects a pattern."""
    return "".join(f"\\{sign}" if sign in "\\*?[]{}" else sign for sign in path)


@contextmanager
def _telling(what: str, remedy: str | None = None, kind: type[EngineError] = EngineError) -> Iterator[None]:
    """Turn any failure of Spark into an EngineError."""
    from grpc import RpcError
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError, RpcError, pa.ArrowException, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise kind(f"{what} ({said[0][:500]}).", remedy) from error
