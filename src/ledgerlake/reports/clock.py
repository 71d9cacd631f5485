"""Wall time and calendar months of a zone, for columns of instants.

From Python's table of zones rather than an engine's, so that every engine's report is the same.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval, zone_of

_DAY: Final = 86_400_000  # milliseconds
_NEVER: Final = 1 << 62
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)


class Clock:
    """The clocks of one zone. Instants are int64 milliseconds since 1970, UTC, in arrays of any length."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._info = zone_of(zone)
        # Of each day (UTC) that was met: the offset at its start, when it changes, and the one after.
        self._days: dict[int, tuple[int, int, int]] = {}
        # Of each month that was met, counted from 1970-01: its text, and the first instant after it.
        self._months: dict[int, tuple[str, int]] = {}

    def local(self, instants: np.ndarray) -> np.ndarray:
        """What the clocks showed, as milliseconds since 1970-01-01 00:00 on the same clocks."""
        if self.zone == "UTC" or not len(instants):
            return instants
        days, which = np.unique(instants // _DAY, return_inverse=True)
        first, change, then = (
            np.array(each, np.int64) for each in zip(*(self._day(int(day)) for day in days), strict=True)
        )
        return instants + np.where(instants < change[which], first[which], then[which])

    def months(self, instants: np.ndarray) -> pa.Array:
        """The calendar month of each, such as 2011-11: from its first midnight to right before the next's.

        Where clocks go back over midnight, that is not the month of the date that they show again.
        """
        local = self.local(instants).astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        numbers, which = np.unique(local, return_inverse=True)
        ends = np.array([self._month(int(number))[1] for number in numbers], np.int64)[which]
        numbers, which = np.unique(local + (instants >= ends), return_inverse=True)
        texts = pa.array([self._month(int(number))[0] for number in numbers], pa.string())
        return texts.take(pa.array(which))

    def _day(self, day: int) -> tuple[int, int, int]:
        if day not in self._days:
            low, high = day * _DAY, (day + 1) * _DAY
            first, last = self._offset(low), self._offset(high)
            # No zone has ever changed twice within a day.
            while first != last and high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self._offset(middle) == first else (low, middle)
            self._days[day] = (first, high, last)
        return self._days[day]

    def _offset(self, instant: int) -> int:
        at = _EPOCH + timedelta(milliseconds=instant)
        offset = min(max(at, _FIRST), _LAST).astimezone(self._info).utcoffset()
        assert offset is not None
        return offset // timedelta(milliseconds=1)

    def _month(self, number: int) -> tuple[str, int]:
        if number not in self._months:
            year, month = 1970 + number // 12, number % 12 + 1
            try:
                end = milliseconds(Interval.month(year, month, self.zone).end)
            except ReportError:  # at the ends of the calendar
                end = _NEVER
            self._months[number] = (f"{year:04d}-{month:02d}", end)
        return self._months[number]


def milliseconds(instant: datetime) -> int:
    """Milliseconds since 1970, UTC."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)
