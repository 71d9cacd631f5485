"""What can be wrong with a report that someone asks for."""

from __future__ import annotations

from ledgerlake.errors import LedgerLakeError


class ReportError(LedgerLakeError):
    """A report that can not be made as asked, or a folder of reports that does not fit the lake."""
