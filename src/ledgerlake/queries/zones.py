"""Days, weeks and months of a time zone, made of quarters of an hour.

Nearly every zone has been a whole number of quarters of an hour from UTC since 1972 (Asia/Kathmandu 5:45,
Australia/Lord_Howe 10:30 and 11:00), so a quarter of an hour belongs to one local day. Where it belongs to
two, nobody can say any more which of its movements are whose, and it is refused: at midnights of zones that
were minutes off (most before 1972, Pacific/Kiritimati until 1979), and on the autumn nights on which clocks
were set back at a minute past midnight (America/St_Johns, Goose_Bay and Moncton, until 2010).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from ledgerlake.domain.zone import iana_zone
from ledgerlake.queries.model import QueryError, text

QUARTER: Final = timedelta(minutes=15)
_LAST: Final = QUARTER - timedelta(milliseconds=1)
_MARGIN: Final = timedelta(days=2)  # more than any zone is from UTC


def zone_named(name: object) -> ZoneInfo:
    """The IANA zone of that name.

    Raises:
        QueryError: there is none.
    """
    wanted = text("zone", name)
    try:
        return iana_zone(wanted)
    except ValueError:
        raise QueryError(
            f"zone {wanted!r} is no IANA time zone.", "Give a name such as Europe/Berlin or Asia/Kathmandu."
        ) from None


def period_of(day: date, granularity: str) -> date:
    """The first day of the day, week (from Monday) or month that a day is in."""
    match granularity:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case _:
            return day


def periods(
    quarters: Iterable[datetime],
    zone: ZoneInfo,
    granularity: str,
    start: date | None = None,
    end: date | None = None,
) -> dict[datetime, date]:
    """For each quarter of an hour whose local day is in [start, end): the period that it is in.

    Args:
        quarters: the instants at which they begin, UTC, on a quarter of an hour.

    Raises:
        QueryError: a quarter belongs to two periods, or lies partly outside of the days asked for.
    """
    found: dict[datetime, date] = {}
    for quarter in quarters:
        first, last = quarter.astimezone(zone), (quarter + _LAST).astimezone(zone)
        places = {
            period_of(day, granularity) if _inside(day, start, end) else None
            for day in {first.date(), last.date()}
        }
        if len(places) > 1 or not _tell_all(first, last):
            raise QueryError(
                f"The quarter hour from {quarter:%Y-%m-%d %H:%M} UTC is part of two days of {zone.key}.",
                "Movements are kept by quarters of an hour: leave these days out, or ask in UTC.",
            )
        if (place := places.pop()) is not None:
            found[quarter] = place
    return found


def _inside(day: date, start: date | None, end: date | None) -> bool:
    return (start is None or day >= start) and (end is None or day < end)


def _tell_all(first: datetime, last: datetime) -> bool:
    """Whether the local day changes at most once in between, so that the two ends tell of all of it."""
    offsets = {first.utcoffset(), last.utcoffset()}
    return len(offsets) == 1 or not any(offset is None or offset % QUARTER for offset in offsets)


def reach(start: date | None, end: date | None) -> tuple[datetime, datetime | None]:
    """Instants (UTC) between which all of the local days [start, end) lie, whatever the zone."""
    return _shifted(start, -_MARGIN) or datetime.min.replace(tzinfo=UTC), _shifted(end, _MARGIN)


def _shifted(day: date | None, margin: timedelta) -> datetime | None:
    try:
        return None if day is None else datetime.combine(day, time(), UTC) + margin
    except OverflowError:
        return None  # at the end of the calendar: no bound
