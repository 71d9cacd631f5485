"""The lake as of one position, for Polars and DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from ledgerlake.eventstore.columnar import SCHEMA
from ledgerlake.lake.errors import LakeError, UnansweredError
from ledgerlake.lake.segments import SegmentInfo, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb
    import polars as pl

# Texts of few values: DuckDB takes them from the files' dictionaries in half the time, as VARCHAR.
_REPEATED: Final = frozenset({"event_type", "currency", "organization_id"})


def connect(config: Mapping[str, str] | None = None) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory. It shows no progress: its bar would go where our JSON goes."""
    import duckdb

    connection = duckdb.connect(config=dict(config or {}))
    connection.execute("SET enable_progress_bar = false")
    return connection


@dataclass(frozen=True, slots=True)
class PinnedLake:
    """Events 1 to `position`: sealed segment files, which never change, and the tail's rows in memory.

    Both engines read the files through Arrow, because it verifies page checksums: read by themselves,
    they answer a flipped bit with a wrong figure.
    """

    root: Path
    position: int
    sealed: tuple[SegmentInfo, ...]
    tail: pa.Table | None = field(repr=False)

    @property
    def last_event_id(self) -> str:
        """Id of the event at `position`, which tells this log from any other; empty if there is none."""
        if self.position == 0:
            return ""
        if self.tail is None and self.sealed[-1].to == self.position:
            return self.sealed[-1].last_event_id
        here = ds.field("position") == self.position
        rows = self._source(self.sealed[-1:] if self.tail is None else ()).to_table(["event_id"], filter=here)
        return str(rows["event_id"][0])

    def at(self, position: int) -> PinnedLake:
        """The same lake as of an earlier position, or of this one."""
        if not 0 <= position <= self.position:
            raise LakeError(
                f"This view of the lake {self.root} has positions up to {self.position:,}, not {position:,}."
            )
        sealed = tuple(info for info in self.sealed if info.segment.first <= position)
        tail = self.tail
        if tail is not None and tail["position"][0].as_py() > position:
            tail = None
        return PinnedLake(self.root, position, sealed, tail)

    def scan(self) -> pl.LazyFrame:
        """The events as a Polars LazyFrame, in position order."""
        import polars as pl

        frames = [pl.scan_pyarrow_dataset(source) for source in self._sources()]
        return pl.concat(frames).filter(pl.col("position") <= self.position)

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A connection with the view `events`; the session's time zone is UTC. Close it after use."""
        connection = connect(
            {
                # Spill beside the lake, not into whatever folder the process was started in.
                "temp_directory": str(self.root / ".spill"),
                # All that is needed is built in: never reach for the network.
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        # As a statement: in the config it would be read before the built-in ICU is there.
        connection.execute("SET TimeZone = 'UTC'")
        parts = []
        for number, source in enumerate(self._sources(_REPEATED)):
            connection.register(f"part_{number}", source)
            parts.append(f"SELECT * FROM part_{number}")
        events = f"SELECT * FROM ({' UNION ALL '.join(parts)})"
        if self._goes_on:
            events += f" WHERE position <= {self.position}"
        connection.execute(f"CREATE VIEW events AS {events}")
        return connection

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Let an engine's failure that comes from a damaged segment name the file.

        Raises:
            CorruptFileError: instead of the engine's own error, which does not say where.
        """
        import duckdb

        try:
            yield
        except (duckdb.Error, UnansweredError, pa.ArrowException, OSError):
            for info in self.sealed:
                read_rows(info)
            raise

    @property
    def _goes_on(self) -> bool:
        """Whether the files or the tail hold events after `position`: a filter reads one more column."""
        ends = [info.to for info in self.sealed[-1:]]
        if self.tail is not None and self.tail.num_rows:
            ends.append(self.tail["position"][-1].as_py())
        return any(end > self.position for end in ends)

    def _sources(self, repeated: frozenset[str] = frozenset()) -> list[Any]:
        sources = [self._source(self.sealed, repeated)] if self.sealed else []
        if self.tail is not None or not sources:
            sources.append(self._source(()))
        return sources

    def _source(self, segments: tuple[SegmentInfo, ...], repeated: frozenset[str] = frozenset()) -> Any:
        """The segments' files as an Arrow dataset; without segments, the tail.

        Columns named in `repeated` come as dictionaries.
        """
        if not segments:
            return ds.dataset(SCHEMA.empty_table() if self.tail is None else self.tail)
        fields = [
            field.with_type(pa.dictionary(pa.int32(), field.type)) if field.name in repeated else field
            for field in SCHEMA
        ]
        return ds.dataset(
            [str(info.path) for info in segments],
            schema=pa.schema(fields),
            format=ds.ParquetFileFormat(
                read_options=ds.ParquetReadOptions(dictionary_columns=repeated),
                default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
            ),
        )
