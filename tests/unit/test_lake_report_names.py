"""Periods are half-open intervals of a zone; folder names are safe and never shared by two organizations."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.reports.clock import Clock, milliseconds
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.slug import slug

HOSTILE = [
    "",
    ".",
    "..",
    "../..",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a:b",
    "a b",
    " a",
    "a ",
    "A",
    "Acme",
    "ACME",
    "acme.",
    "acme..",
    "con",
    "CON",
    "nul",
    "com1",
    "lpt9",
    "aux.txt",
    "a\x00b",
    "a\nb",
    "-",
    "--",
    "_",
    "~",
    "*",
    "?",
    "é",
    "e\u0301",
    "É",
    "ｅ",
    "ß",
    "ss",
    "ﬁ",
    "日本",
    "日本語",
    "💰",
    "\u202eacme",
    "\ud800",
    "a" * 48,
    "a" * 49,
    "a" * 300,
    "a" * 300 + "b",
    "org-1",
    "org_1",
    "org.1",
    "org|1",
    "checkpoint.json",
    ".reports.lock",
    "İ",
    "i",
    "I",
    "ı",
]


def test_ordinary_names_stay_readable() -> None:
    for name in ("acme", "org-1", "united-kingdom", "shop_12", "a" * 48):
        assert slug(name) == name
    assert slug("Department for Transport").startswith("department-for-transport-")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_slug_is_one_plain_folder_name_everywhere(name: str) -> None:
    found = slug(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*[a-z0-9]|[a-z0-9]", found)
    assert len(found) <= 65
    assert found not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


def test_hostile_names_never_share_a_folder() -> None:
    names = set(HOSTILE) | {slug(name) for name in HOSTILE} | {slug(slug(name)) for name in HOSTILE}
    folded = {unicodedata.normalize("NFKC", slug(name)).casefold() for name in names}
    assert len(folded) == len(names)


@given(st.text(), st.text())
def test_different_names_have_different_slugs(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)


@given(st.text(max_size=30))
def test_nobody_can_take_the_slug_that_another_name_was_given(name: str) -> None:
    taken = slug(name)
    assert taken == name or slug(taken) != taken


ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
INSTANTS = st.datetimes(datetime(1, 2, 1), datetime(9999, 10, 30), timezones=st.just(UTC)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1_000 * 1_000)
)


@given(INSTANTS, st.sampled_from(ZONES))
def test_every_instant_lies_in_exactly_one_month(instant: datetime, zone: str) -> None:
    [found] = Clock(zone).months(np.array([milliseconds(instant)])).to_pylist()
    assert Clock(zone).months(np.array([], np.int64)).to_pylist() == []
    month = Interval.parse(found, zone)
    assert month.start <= instant < month.end
    assert month.next().start == month.end
    assert month.next().previous() == month


@given(INSTANTS, st.sampled_from(ZONES))
def test_local_time_is_what_the_clocks_show(instant: datetime, zone: str) -> None:
    around = [instant + timedelta(hours=hours) for hours in range(-30, 30, 5)]
    shown = Clock(zone).local(np.array([milliseconds(at) for at in around]))
    expected = [at.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC) for at in around]
    assert shown.tolist() == [milliseconds(at) for at in expected]


@pytest.mark.parametrize(
    ("text", "zone", "start", "end", "folder"),
    [
        ("2011-11", "UTC", "2011-11-01T00:00+00:00", "2011-12-01T00:00+00:00", "2011-11"),
        ("2011-12", "UTC", "2011-12-01T00:00+00:00", "2012-01-01T00:00+00:00", "2011-12"),
        ("2011-Q4", "UTC", "2011-10-01T00:00+00:00", "2012-01-01T00:00+00:00", "2011-Q4"),
        ("2011-11", "Europe/Berlin", "2011-10-31T23:00+00:00", "2011-11-30T23:00+00:00", "2011-11"),
        ("2011-03", "Europe/Berlin", "2011-02-28T23:00+00:00", "2011-03-31T22:00+00:00", "2011-03"),
        ("2024-02-29", "UTC", "2024-02-29T00:00+00:00", "2024-03-01T00:00+00:00", "2024-02-29"),
        (
            "2011-11-03..2011-11-20",
            "Asia/Kathmandu",
            "2011-11-02T18:15+00:00",
            "2011-11-20T18:15+00:00",
            "2011-11-03..2011-11-20",
        ),
        (
            "2011-11-03T01:00+01:00/2011-11-03T12:30",
            "America/New_York",
            "2011-11-03T00:00+00:00",
            "2011-11-03T16:30+00:00",
            "2011-11-03T000000Z--2011-11-03T163000Z",
        ),
        # No midnight there on that day: clocks went from 23:59:59 to 01:00.
        ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00+00:00", "2018-11-05T02:00+00:00", "2018-11-04"),
        # Two midnights: at 00:01 clocks went back to 23:01 of the month before.
        ("2009-11", "America/St_Johns", "2009-11-01T02:30+00:00", "2009-12-01T03:30+00:00", "2009-11"),
        ("0001-02", "Pacific/Auckland", None, None, "0001-02"),
        ("9999-11", "America/Los_Angeles", None, None, "9999-11"),
    ],
)
def test_a_period_is_read_in_its_zone(
    text: str, zone: str, start: str | None, end: str | None, folder: str
) -> None:
    found = Interval.parse(text, zone)
    if start is not None and end is not None:
        assert (found.start, found.end) == (datetime.fromisoformat(start), datetime.fromisoformat(end))
    assert found.folder == folder
    assert Interval.parse(found.label, zone) == found


@pytest.mark.parametrize(
    "text",
    [
        "2011-13",
        "2011-00",
        "2011-1",
        "201-11",
        "11-2011",
        "2011/11",
        "2011-Q5",
        "2011-Q0",
        "2011-02-30",
        "2011-11-03..",
        "..2011-11-03",
        "2011-11..2011-12",
        "2011-11-20..2011-11-03",
        "2011-11-03T00:00Z",
        "2011-11-03T00:00Z/",
        "2011-11-03T00:00Z/2011-11-03T00:00Z",
        "2011-11-04T00:00Z/2011-11-03T00:00Z",
        "2011-11-03T00:00:00.0001Z/2011-11-04T00:00Z",
        "2011-11-03/2011-11-04",
        " 2011-11",
        "2011-11\n",
        "",
        "0000-01",
        "9999-12",
        "9999-Q4",
        "9999-12-31",
        "٢٠١١-١١",
        "-2011-11",
    ],
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ReportError, match="no period|no month|Nothing lies"):
        Interval.parse(text)


@pytest.mark.parametrize("zone", ["Mars/Base", "", "localtime", "../UTC", "/etc/passwd", "a\x00b"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(ReportError, match="no IANA time zone"):
        Interval.parse("2011-11", zone)


def test_only_months_have_neighbours() -> None:
    with pytest.raises(ReportError, match="no month"):
        Interval.parse("2011-Q4").next()
