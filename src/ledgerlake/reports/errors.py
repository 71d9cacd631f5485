"""What can be wrong with a report that someone asks for."""

from __future__ import annotations

from collections.abc import Iterable

from ledgerlake.errors import LedgerLakeError


class ReportError(LedgerLakeError):
    """A report that can not be made as asked, or a folder of reports that does not fit the lake."""


class PublicationBlocked(ReportError):
    """What would be published is not what the log says; `differences` name the payments and figures."""

    def __init__(self, what: str, differences: Iterable[str]) -> None:
        self.differences = tuple(differences)
        told = "".join(f"\n  {each}" for each in self.differences)
        super().__init__(
            f"{what} is not published, because it is not what the log says:{told}\n",
            "Run `ledgerlake verify`, mend what it names, then run this again.",
        )
