"""The Parquet file of the rows that an import refused, written beside its summary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from ledgerlake.commands.rejections import Rejection
from ledgerlake.lake.files import write_atomically

SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64()),
        pa.field("reason_code", pa.string()),
        pa.field("detail", pa.string()),
        *(
            pa.field(name, pa.string())
            for name in (
                "command",
                "command_id",
                "payment_id",
                "organization_id",
                "user_id",
                "amount",
                "currency",
                "occurred_at",
            )
        ),
    ]
)


class RejectionsFile:
    """Collects refused rows as the import goes; the file appears, whole, when it ends.

    A file without rows is a valid answer: nothing was refused. Amounts and dates are text, as given.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(write_atomically(self._path))
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd", write_page_checksum=True)
        )
        return self

    def write(self, rejections: Sequence[Rejection]) -> None:
        """Add rows."""
        if rejections:
            self._writer.write_table(
                pa.Table.from_pylist([asdict(rejection) for rejection in rejections], schema=SCHEMA)
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
