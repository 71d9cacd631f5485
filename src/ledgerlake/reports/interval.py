"""The time that a report covers: a half-open interval of instants, named in a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from ledgerlake.domain.zone import iana_zone
from ledgerlake.reports.errors import ReportError

_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_QUARTER: Final = re.compile(r"[0-9]{4}-Q[1-4]")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T.*")
_MILLISECOND: Final = 1_000  # microseconds; the log's instants are no finer


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """The instants t with start <= t < end.

    `start` and `end` are aware and in UTC; `zone` is the IANA zone whose midnights the label means, and
    in which a report shows local times.
    """

    start: datetime
    end: datetime
    zone: str
    label: str

    @classmethod
    def parse(cls, text: str, zone: str = "UTC") -> Interval:
        """The interval that a text names, in a zone: a month, a quarter, a day, days or instants.

        2011-11, 2011-Q4, 2011-11-03, 2011-11-03..2011-11-20 (both days included), and
        2011-11-03T00:00Z/2011-11-20T12:30+01:00 (an instant without offset is read in the zone).

        Raises:
            ReportError: it names none, nothing lies in it, or there is no such zone.
        """
        here = zone_of(zone)
        try:
            if _MONTH.fullmatch(text):
                return cls.month(int(text[:4]), int(text[5:]), zone)
            if _QUARTER.fullmatch(text):
                year, month = int(text[:4]), 3 * int(text[6]) - 2
                return cls(_month(year, month, here), _month(year, month + 3, here), zone, text)
            first_day, dots, last_day = text.partition("..")
            if all(_DAY.fullmatch(day) for day in (first_day, last_day if dots else first_day)):
                first, last = date.fromisoformat(first_day), date.fromisoformat(last_day or first_day)
                return cls(_midnight(first, here), _midnight(last + timedelta(days=1), here), zone, text)
            ends = text.split("/")
            if len(ends) == 2 and all(_INSTANT.fullmatch(each) for each in ends):
                start, end = (_instant(each, here) for each in ends)
                return cls(start, end, zone, f"{_text(start)}/{_text(end)}")
        except (ValueError, OverflowError):
            pass
        raise ReportError(
            f"{text!r} is no period.",
            "Write a month such as 2011-11, a quarter such as 2011-Q4, days such as 2011-11-03..2011-11-20,"
            " or instants such as 2011-11-03T00:00Z/2011-11-20T12:30Z.",
        )

    @classmethod
    def month(cls, year: int, month: int, zone: str = "UTC") -> Interval:
        """A calendar month of the zone.

        Raises:
            ReportError: it is not from 0001-01 to 9999-11, or there is no such zone.
        """
        here = zone_of(zone)
        label = f"{year:04d}-{month:02d}"
        try:
            return cls(_month(year, month, here), _month(year, month + 1, here), zone, label)
        except (ValueError, OverflowError):
            raise ReportError(f"{label} is no month.", "Write year and month, such as 2011-11.") from None

    @classmethod
    def month_of(cls, instant: datetime, zone: str = "UTC") -> Interval:
        """The calendar month of the zone in which an instant lies."""
        local = instant.astimezone(zone_of(zone))
        return cls.month(local.year, local.month, zone)

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ReportError(
                f"Nothing lies in {self.label!r}.", "A period ends after it begins: exchange its ends."
            )

    def next(self) -> Interval:
        """The month after this one, which is a month."""
        return self._shifted(1)

    def previous(self) -> Interval:
        """The month before this one, which is a month."""
        return self._shifted(-1)

    @property
    def is_month(self) -> bool:
        """Whether it is a calendar month of its zone."""
        return _MONTH.fullmatch(self.label) is not None

    @property
    def folder(self) -> str:
        """The label as the name of a folder, on any system."""
        return self.label.replace("/", "--").replace(":", "")

    def _shifted(self, by: int) -> Interval:
        if not self.is_month:
            raise ReportError(f"{self.label} is no month, so none is next to it.", "Name a month: 2011-11.")
        months = 12 * int(self.label[:4]) + int(self.label[5:]) - 1 + by
        return Interval.month(months // 12, months % 12 + 1, self.zone)

    def __str__(self) -> str:
        return self.label


def zone_of(name: str) -> ZoneInfo:
    """The IANA zone of that name.

    Raises:
        ReportError: there is none.
    """
    try:
        return iana_zone(name)
    except ValueError:
        raise ReportError(
            f"{name!r} is no IANA time zone.", "Give a name such as Europe/Berlin or Asia/Kathmandu."
        ) from None


def _month(year: int, month: int, zone: ZoneInfo) -> datetime:
    return _midnight(date(year + (month - 1) // 12, (month - 1) % 12 + 1, 1), zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The day's first instant. Where clocks skip midnight or show it twice, the first that is of the day."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _instant(text: str, zone: ZoneInfo) -> datetime:
    found = datetime.fromisoformat(text)
    if found.microsecond % _MILLISECOND:
        raise ValueError(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=zone)).astimezone(UTC)


def _text(instant: datetime) -> str:
    spec = "milliseconds" if instant.microsecond else "seconds"
    return instant.isoformat(timespec=spec).replace("+00:00", "Z")
