"""Months are half-open UTC intervals; folder names are safe and never shared by two organizations."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.month import Month
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


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 11, 30), timezones=st.just(UTC)))
def test_every_instant_lies_in_exactly_one_month(instant: datetime) -> None:
    month = Month.of(instant.date())
    assert month.start <= instant < month.end
    assert Month.of(month.end.date()) > month
    assert Month.of((month.end - timedelta(milliseconds=1)).date()) == month
    assert Month.parse(str(month)) == month


@pytest.mark.parametrize(
    "text",
    [
        "2011-13",
        "2011-00",
        "2011-1",
        "201-11",
        "11-2011",
        "2011/11",
        "2011-11-01",
        " 2011-11",
        "2011-11\n",
        "",
        "0000-01",
        "9999-12",
        "٢٠١١-١١",
        "-2011-11",
    ],
)
def test_what_is_no_month_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ReportError, match="such as 2011-11"):
        Month.parse(text)
