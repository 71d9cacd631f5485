"""What can be wrong with a lake."""

from __future__ import annotations

from ledgerlake.errors import LedgerLakeError


class LakeError(LedgerLakeError):
    """The lake can not be read or refreshed as it lies there."""


class CorruptFileError(LakeError):
    """A Parquet file whose bytes, checksums or own metadata do not hold together."""

    fit_for_logs = True


class EngineError(LakeError):
    """What runs the SQL texts is missing, can not be reached, or can not answer."""


class UnansweredError(EngineError):
    """An engine took a query and could not answer it: perhaps because of what it read."""


class OutdatedFileError(LakeError):
    """A Parquet file that an earlier version of this program wrote: it lacks columns."""

    fit_for_logs = True
