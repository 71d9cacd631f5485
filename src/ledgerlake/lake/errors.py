"""What can be wrong with a lake."""

from __future__ import annotations

from ledgerlake.errors import LedgerLakeError


class LakeError(LedgerLakeError):
    """The lake can not be read or refreshed as it lies there."""


class CorruptFileError(LakeError):
    """A Parquet file whose bytes, checksums or own metadata do not hold together."""

    fit_for_logs = True
