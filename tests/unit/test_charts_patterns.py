"""Charts of trends that show a pattern: waterfall, concentration, calendar, unusual days, restatement."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.charts.anomalies import middle, robust_residuals
from ledgerlake.charts.calendar import darkest
from ledgerlake.charts.concentration import gini
from tests.charting import Row, at, headings, message, note, traces, trends_frame

MAR, APR, MAY = 0, 31, 61  # first days of months, from START


def test_the_waterfall_falls_from_gross_to_net() -> None:
    figure = charts.waterfall(
        trends_frame(
            (0, "a", "EUR", "completed", 3, 100_000), (5, "b", "EUR", "completed", 1, 23_456),
            (9, "a", "EUR", "refunded", 2, 23_456), (9, "a", "EUR", "failed", 7, 99_999),
            (0, "a", "JPY", "completed", 1, 500), (1, "a", "JPY", "refunded", 1, 800),
            (0, "a", "CHF", "failed", 1, 800),
        )
    )  # fmt: skip
    euro, yen = figure.data
    assert list(euro.x) == [1234.56, -234.56, 1000.0]
    assert list(euro.text) == ["1,234.56", "-234.56", "1,000.00"]
    assert euro.customdata[0] == "gross 1,234.56 EUR<br>in 4 payments"
    assert list(yen.text) == ["500", "-800", "-300"]
    assert headings(figure) == {"EUR": "81.00 % of gross is left", "JPY": "nothing of gross is left"}


def test_gini_is_none_when_all_are_equal_and_most_when_one_has_all() -> None:
    assert gini([5, 5, 5, 5]) == 0
    assert gini([0, 0, 0, 1]) == 0.75
    assert gini([4, 1, 3, 2]) == 0.25  # 2·(1·1 + 2·2 + 3·3 + 4·4) / (4·10) − 5/4
    assert gini([2**62, 2**62]) == 0


def test_the_curve_starts_with_the_smallest_organization() -> None:
    figure = charts.concentration(
        trends_frame(
            (0, "a", "EUR", "completed", 1, 400), (1, "b", "EUR", "completed", 1, 100),
            (2, "c", "EUR", "completed", 1, 300), (3, "d", "EUR", "completed", 1, 100),
            (3, "d", "EUR", "completed", 1, 100), (4, "e", "EUR", "refunded", 1, 900),
            (4, "e", "USD", "completed", 1, 5),
        )
    )  # fmt: skip
    curve, alone = traces(figure, "gross")
    assert list(curve.x) == [0, 0.25, 0.5, 0.75, 1]
    assert list(curve.y) == [0, 0.1, 0.3, 0.6, 1]
    assert curve.customdata[2] == (
        "the smallest 2 of 4 organizations<br>make 30.00 %: 3.00 of 10.00 EUR<br>the other 2 make 7.00"
    )
    assert headings(figure) == {
        "EUR": "Gini 0.25: 2 of 4 organizations make half of gross",
        "USD": "a single organization has all of 0.05",
    }
    assert list(alone.y) == [0, 1]


def test_a_curve_of_very_many_organizations_is_thinned_not_cut() -> None:
    many = trends_frame(*((0, f"o{number}", "EUR", "completed", 1, 7) for number in range(1001)))
    [curve] = traces(charts.concentration(many), "gross")
    assert len(curve.x) <= 402
    assert (curve.x[-1], curve.y[-1]) == (1, 1)


def test_a_calendar_has_a_column_for_every_week_from_monday() -> None:
    figure = charts.calendar(
        trends_frame((0, "a", "EUR", "completed", 1, 1234), (1, "a", "EUR", "completed", 2, 50),
                     (10, "a", "EUR", "completed", 1, 7)),
        known_until=at(10.5),
    )  # fmt: skip
    [cells] = figure.data
    assert list(cells.x) == [date(2026, 2, 16), date(2026, 2, 23), date(2026, 3, 2), date(2026, 3, 9)]
    assert cells.z[6] == [None, 12.34, 0.0, None]  # Sunday 1 March; nothing; not there yet
    assert cells.z[0] == [None, None, 0.5, 0.0]
    assert cells.customdata[6][1] == "Sun 1 Mar 2026<br>12.34 EUR"
    assert headings(figure) == {"EUR": "most on Sun 1 Mar 2026: 12.34 EUR"}
    [outline] = figure.layout.shapes  # Wednesday 11 March
    assert (outline.y0, outline.x0) == (1.5, datetime(2026, 3, 5, 12))
    assert note(figure).startswith("Outlined: unfinished")
    assert cells.zmin == 0


def test_one_day_does_not_fade_all_others() -> None:
    assert darkest(range(101)) == 98
    assert darkest([0, 0]) == 1
    days: list[Row] = [(day, "a", "EUR", "completed", 1, 100) for day in range(99)]
    [cells] = charts.calendar(trends_frame(*days, (99, "a", "EUR", "completed", 1, 10**9))).data
    assert cells.zmax == 1.0


def test_a_calendar_of_many_years_shows_the_last_two() -> None:
    long = trends_frame((0, "a", "EUR", "completed", 1, 1), (4000, "a", "EUR", "completed", 1, 2))
    [cells] = charts.calendar(long).data
    assert len(cells.x) == 106
    assert cells.customdata[2][-1] == "Wed 11 Feb 2037<br>0.02 EUR"
    assert cells.x[-1] == date(2037, 2, 9)


def test_the_usual_value_is_the_median_of_the_weekday_in_the_weeks_around() -> None:
    values = [week for week in (10, 12, 14, 16) for _ in range(7)]
    found = robust_residuals(values, [True] * 28)
    assert found.levels[::7] == (14, 14, 12, 12)
    assert found.residuals[::7] == (-4, -2, 2, 4)
    assert found.spread == 1.4826 * 3
    assert found.unusual() == []


def test_an_unusual_day_is_found_and_moves_nothing() -> None:
    values = [week + weekday for week in (10, 12, 14, 16, 14, 12) for weekday in range(7)]
    quiet = robust_residuals(values, [True] * 42)
    spike = [*values[:16], 1000, *values[17:]]
    found = robust_residuals(spike, [True] * 42)
    assert found.unusual() == [16]
    others = [index for index in range(42) if index % 7 != 2]
    assert [found.residuals[index] for index in others] == [quiet.residuals[index] for index in others]
    assert found.spread == pytest.approx(quiet.spread, rel=0.35)
    # What a mean and a standard deviation would say of it: the spike hides itself.
    mean = sum(spike) / 42
    deviation = (sum((each - mean) ** 2 for each in spike) / 42) ** 0.5
    assert (1000 - mean) / deviation < 7 < (1000 - (found.levels[16] or 0)) / found.spread


def test_where_most_days_are_just_as_usual_the_others_still_count() -> None:
    values = [5] * 56
    values[20] = 6
    values[30] = 500
    found = robust_residuals(values, [True] * 56)
    assert found.spread == 1.2533 * 496 / 56
    assert found.unusual() == [30]
    assert robust_residuals([5] * 56, [True] * 56).unusual() == []


@pytest.mark.parametrize(
    ("values", "median"), [([1, 2], 2), ([2, 3], 2), ([3, 1, 2], 2), ([-1, 2], 0), ([-3, -2], -2)]
)
def test_a_median_is_whole_minor_units_half_to_even(values: list[int], median: int) -> None:
    assert middle(values) == median


def test_an_unusual_day_is_named_and_an_unfinished_one_not_judged() -> None:
    def days(*, spike: int, last: int) -> pl.DataFrame:
        gross = [10_000 + 100 * (day % 3) for day in range(60)]
        gross[30], gross[59] = spike, last
        return trends_frame(*((day, "a", "EUR", "completed", 1, each) for day, each in enumerate(gross)))

    figure = charts.anomalies(days(spike=90_000, last=1), known_until=at(59.5))
    assert headings(figure)["EUR"] == "1 of 59 days unusual, furthest Tue 31 Mar 2026: +799.00 EUR"
    [off] = traces(figure, "off the usual")
    assert off.y[30] == 799.0
    assert off.customdata[30] == "900.00 EUR, usual 101.00 EUR: +799.00 EUR"
    assert off.y[59] is None
    assert note(figure) == "Shaded: unfinished, known until 29 Apr 2026 12:00 UTC"
    over = charts.anomalies(days(spike=90_000, last=1), known_until=at(60))
    assert headings(over)["EUR"].startswith("2 of 60 days unusual")
    calm = charts.anomalies(days(spike=10_000, last=10_000))
    assert headings(calm)["EUR"] == "none of 60 days unusual"
    assert not traces(calm, "unusual")
    young = charts.anomalies(
        trends_frame((0, "a", "EUR", "completed", 1, 1), (9, "a", "EUR", "completed", 1, 1))
    )
    assert headings(young)["EUR"] == "too few weeks to know what is usual"


def test_any_measure_can_be_looked_at() -> None:
    trends = trends_frame(*((day, "a", "EUR", "failed", 40 if day == 30 else 2, 1) for day in range(60)))
    assert headings(charts.anomalies(trends, "failed"))["EUR"].endswith("Tue 31 Mar 2026: +38 failed")
    figure = charts.calendar(trends, "failed")
    assert headings(figure) == {"EUR": "most on Tue 31 Mar 2026: 40 failed"}
    assert figure.layout.title.text == "Calendar: failed attempts per day (UTC)"
    wrong: Any = "nett"
    for chart in (charts.anomalies, charts.calendar):
        with pytest.raises(charts.ChartError, match="no measure 'nett'"):
            chart(trends, wrong)


def test_a_restatement_is_what_came_later_to_periods_that_were_reported() -> None:
    first = trends_frame(
        (MAR, "a", "EUR", "completed", 1, 10_000), (MAR, "a", "EUR", "refunded", 1, 1_000),
        (APR, "a", "EUR", "completed", 1, 10_000), (MAR, "a", "CHF", "completed", 1, 3),
    )  # fmt: skip
    now = trends_frame(
        (MAR, "a", "EUR", "completed", 2, 12_000), (MAR, "a", "EUR", "refunded", 2, 1_500),
        (APR, "a", "EUR", "completed", 1, 10_000), (MAY, "a", "EUR", "completed", 9, 77_777),
        (MAR, "a", "CHF", "completed", 1, 3), (APR, "a", "JPY", "completed", 1, 70),
    )  # fmt: skip
    figure = charts.restatement(first, now)
    gross, yen = traces(figure, "gross")
    refunds, net = traces(figure, "refunds")[0], traces(figure, "net")[0]
    assert list(gross.x) == [date(2026, 3, 1), date(2026, 4, 1)]  # May had not been reported
    assert (list(gross.y), list(refunds.y), list(net.y)) == ([20.0, 0.0], [-5.0, 0.0], [15.0, 0.0])
    assert gross.customdata[0] == "+20.00 EUR: 100.00 then, 120.00 now"
    assert refunds.customdata[0] == "+5.00 EUR: 10.00 then, 15.00 now"
    assert list(yen.y) == [0.0, 70.0]  # a currency that came later
    assert headings(figure) == {
        "EUR": "net 190.00 is now 205.00: +15.00",
        "JPY": "net 0 is now 70: +70",
    }
    assert note(figure) == "Unchanged: CHF"


def test_a_period_that_was_not_over_is_not_restated() -> None:
    first = trends_frame((MAR, "a", "EUR", "completed", 1, 100), (APR, "a", "EUR", "completed", 1, 100))
    now = trends_frame((MAR, "a", "EUR", "completed", 1, 150), (APR, "a", "EUR", "completed", 9, 999))
    figure = charts.restatement(first, now, first_known_until=at(40))
    [gross] = traces(figure, "gross")
    assert list(gross.y) == [0.5]
    assert note(figure) == "Left out: periods that were not over when first reported"
    assert message(charts.restatement(first, now, first_known_until=at(20))) == (
        "No period was over when it was first reported."
    )
    assert message(charts.restatement(now, now)) == "Nothing has changed since it was first reported."
