"""What a billing report is asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledgerlake.reports.books import EMPTY_BOOKS, Books
from ledgerlake.reports.interval import Interval

if TYPE_CHECKING:
    from ledgerlake.reports.rates import Rates


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """One interval, for one organization or (None) for everybody with a movement or a balance.

    `books` are those as of the report's position. With `currency`, each line is converted at `rates`;
    a line without a rate is an error, or with `unconverted` stays as it is and is counted.
    """

    interval: Interval
    organization: str | None = None
    books: Books = EMPTY_BOOKS
    currency: str | None = None
    rates: Rates | None = None
    unconverted: bool = False
