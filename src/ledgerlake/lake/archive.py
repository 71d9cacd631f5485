"""The archive: events that left MongoDB, in Parquet files that hold each as the BSON that it was.

`archive-000001.parquet` and so on, never changed once written. The BSON is kept whole, because the segments
hold an event's values and not its bytes: an archived event comes back byte for byte, and its digest still
fits the hash chain.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledgerlake.eventstore.archived import ArchiveError, Place
from ledgerlake.lake.files import publish_new, temporary

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# pyarrow is imported where a file is touched: a writer has this at hand, and starts without Arrow.

# A single event is brought back by reading its row group: some 600 KB.
_ROW_GROUP: Final = 1_000
_GROUPS_KEPT: Final = 32
_REMEDY: Final = "Restore the archive folder of the lake from a backup."


def archive_schema() -> pa.Schema:
    """The columns of an archive file."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("document", pa.binary(), nullable=False),
        ]
    )


class EventArchive:
    """The archive files in folder `root`/archive. Nothing is created before the first `write`.

    Safe for any number of threads and processes: a file is published whole, under a number of its own.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root.absolute() / "archive"
        self._lock = threading.Lock()
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)
        self._opened = lru_cache(_GROUPS_KEPT)(self._open)

    def files(self) -> list[int]:
        """The numbers of the archive files, ascending."""
        return sorted(
            int(path.stem.removeprefix("archive-")) for path in self.folder.glob("archive-*.parquet")
        )

    def path(self, file: int) -> Path:
        """Where the file of that number lies."""
        return self.folder / f"archive-{file:06d}.parquet"

    def write(self, events: Sequence[tuple[int, bytes]], above: int = 0) -> int:
        """Store (position, raw BSON) pairs, in position order, as a new file; returns its number.

        The number is above `above`, and above those of the files here. The file is on the disk, and was read
        back, when this returns.

        Raises:
            ArchiveError: it can not be read back as it was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = archive_schema()
        table = pa.table([[position for position, _ in events], [raw for _, raw in events]], schema=schema)
        while True:
            file = max(above, *self.files(), 0) + 1
            path = self.path(file)
            with temporary(path) as temp:
                pq.write_table(
                    table,
                    temp,
                    row_group_size=_ROW_GROUP,
                    compression="zstd",
                    compression_level=9,
                    use_dictionary=False,
                    write_page_checksum=True,
                )
                if publish_new(temp, path):  # else another process took the number
                    break
        if not pq.read_table(path, page_checksum_verification=True).equals(table):
            raise ArchiveError(f"{path} does not hold what was written to it.", "Look at the disk.")
        return file

    def fetch(self, places: Sequence[Place]) -> list[bytes]:
        """The raw BSON of the events at these places, in their order.

        Raises:
            ArchiveError: a file or an event is missing or damaged.
        """
        with self._lock:
            return [self._one(place) for place in places]

    def events(self, file: int) -> Iterator[tuple[list[int], list[bytes]]]:
        """All of a file's positions and raw events, a row group at a time.

        Raises:
            ArchiveError: the file is missing or damaged.
        """
        for group in range(len(self._opened(file)[1])):
            yield self._read_group(file, group)

    def _one(self, place: Place) -> bytes:
        _, last = self._opened(place.file)
        group = bisect_left(last, place.position)
        if group < len(last):
            positions, documents = self._group(place.file, group)
            at = bisect_left(positions, place.position)
            if at < len(positions) and positions[at] == place.position:
                return documents[at]
        raise ArchiveError(f"{self.path(place.file)} holds no event at position {place.position}.", _REMEDY)

    def _open(self, file: int) -> tuple[pq.ParquetFile, list[int]]:
        """The file, and the last position of each of its row groups."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(file)
        try:
            opened = pq.ParquetFile(path, page_checksum_verification=True)
            groups = range(opened.metadata.num_row_groups)
            last = [int(opened.metadata.row_group(group).column(0).statistics.max) for group in groups]
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{path} can not be read ({error}).", _REMEDY) from error
        return opened, last

    def _read_group(self, file: int, group: int) -> tuple[list[int], list[bytes]]:
        import pyarrow as pa

        opened, _ = self._opened(file)
        try:
            table = opened.read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{self.path(file)} is damaged ({error}).", _REMEDY) from error
        return table["position"].to_pylist(), table["document"].to_pylist()
