"""Local days from quarters of an hour: what a quarter's instants have as their date, or refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.queries.model import QueryError
from ledgerlake.queries.zones import QUARTER, period_of, periods, reach, zone_named

ZONES = sorted(available_timezones() - {"localtime", "Factory"})


def quarter_of(at: datetime) -> datetime:
    return at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % QUARTER


@given(
    st.sampled_from(ZONES),
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["day", "week", "month"]),
)
def test_an_instant_has_the_local_day_of_its_quarter_in_every_zone(
    name: str, at: datetime, granularity: str
) -> None:
    zone = ZoneInfo(name)
    quarter = quarter_of(at)
    try:
        [found] = periods([quarter], zone, granularity).values()
    except QueryError:
        assert name in {"America/St_Johns", "Canada/Newfoundland", "America/Goose_Bay", "America/Moncton"}
        assert at.year < 2011
        assert len({(quarter + timedelta(minutes=m)).astimezone(zone).date() for m in range(15)}) == 2
    else:
        assert found == period_of(at.astimezone(zone).date(), granularity)


@pytest.mark.parametrize(
    ("name", "day", "quarters"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 92),  # 23 hours
        ("Europe/Berlin", date(2026, 10, 25), 100),  # 25 hours
        ("Australia/Lord_Howe", date(2026, 4, 5), 98),  # half an hour back
        ("Australia/Lord_Howe", date(2026, 10, 4), 94),
        ("Asia/Kathmandu", date(2026, 6, 1), 96),
        ("America/Havana", date(2026, 11, 1), 100),  # back at 1:00 to midnight: the same day again
        ("America/Asuncion", date(2023, 3, 25), 100),  # back at midnight to 23:00 of the day before
        ("Africa/Cairo", date(2023, 4, 28), 92),  # midnight itself was left out
        ("Pacific/Apia", date(2011, 12, 30), 0),  # the day that Samoa left out
        ("America/St_Johns", date(2026, 11, 1), 100),
    ],
)
def test_a_day_has_as_many_quarters_as_its_clocks_say(name: str, day: date, quarters: int) -> None:
    first, last = reach(day, day + timedelta(days=1))
    assert last is not None
    asked = [first + QUARTER * i for i in range(int((last - first) / QUARTER))]
    found = periods(asked, ZoneInfo(name), "day", day, day + timedelta(days=1))
    assert set(found.values()) <= {day}
    assert len(found) == quarters


@pytest.mark.parametrize(
    ("name", "quarter", "granularity"),
    [
        ("America/St_Johns", datetime(2008, 11, 2, 2, 30, tzinfo=UTC), "month"),  # at 0:01 back to 23:01
        ("Africa/Monrovia", datetime(1971, 6, 3, 0, 30, tzinfo=UTC), "week"),  # 44:30 behind
        ("Pacific/Kiritimati", datetime(1979, 6, 6, 10, 30, tzinfo=UTC), "week"),  # 10:40 behind
        ("Europe/Berlin", datetime(1890, 6, 30, 23, 0, tzinfo=UTC), None),  # 53:28 ahead: also of two months
    ],
)
def test_a_quarter_of_two_days_is_refused_and_its_neighbours_are_not(
    name: str, quarter: datetime, granularity: str | None
) -> None:
    zone = ZoneInfo(name)
    with pytest.raises(QueryError, match=rf"{quarter:%Y-%m-%d %H:%M} UTC is part of two days of {name}"):
        periods([quarter], zone, "day")
    both = periods([quarter - QUARTER, quarter + QUARTER], zone, "day")
    assert len(both) == 2
    # Nothing hangs on it where both days are asked for, or neither.
    day = (quarter - QUARTER).astimezone(zone).date()
    assert periods([quarter], zone, "day", end=day - timedelta(days=5)) == {}
    if granularity is not None:
        assert periods([quarter], zone, granularity) == {quarter: period_of(day, granularity)}


@pytest.mark.parametrize(
    "name", ["Europe", "localtime", "../UTC", "", "Europe/Nowhere", "/etc/passwd", "CET+1"]
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(QueryError, match="no IANA time zone"):
        zone_named(name)
    with pytest.raises(QueryError, match="zone is a text"):
        zone_named(None)


def test_the_ends_of_the_calendar_bound_nothing() -> None:
    assert reach(date.min, date.max) == (datetime.min.replace(tzinfo=UTC), None)
