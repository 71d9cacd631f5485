"""A calendar month in UTC, as the half-open interval that a report covers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from ledgerlake.reports.errors import ReportError

_TEXT: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """The month that begins at `start` and ends right before `end`, both midnight UTC."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """The month that a text such as "2011-11" names.

        Raises:
            ReportError: the text is no month from 0001-01 to 9999-11.
        """
        if not _TEXT.fullmatch(text) or not "0001-01" <= text <= "9999-11":
            raise ReportError(f"{text!r} is no month.", "Write year and month, such as 2011-11.")
        return cls(int(text[:4]), int(text[5:]))

    @classmethod
    def of(cls, day: date) -> Month:
        """The month that a day lies in."""
        return cls(day.year, day.month)

    @property
    def start(self) -> datetime:
        """The first instant of the month."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first instant after the month."""
        return datetime(self.year + self.number // 12, self.number % 12 + 1, 1, tzinfo=UTC)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"
