"""Charts show exactly what the trends say, each currency by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.charts.measures import exact, percent, period_after, series_by_currency
from ledgerlake.charts.success import unusual_periods, wilson
from ledgerlake.charts.volume import trailing_means
from tests.charting import START, Row, headings, message, note, traces, trends_frame


@pytest.fixture
def trends() -> pl.DataFrame:
    rows: list[Row] = []
    for day in range(20):
        for currency, minor in (("EUR", 1234567), ("JPY", 980), ("BHD", 1999)):
            rows.append((day, "alpine", currency, "completed", 40, minor * (day + 1)))
            rows.append((day, "bluebird", currency, "completed", 10, minor))
            rows.append((day, "alpine", currency, "failed", 3 if day != 12 else 60, 5 * minor))
        rows.append((day, "alpine", "EUR", "refunded", 1, 4321))
    return trends_frame(*rows)


def test_hovers_give_every_amount_to_the_last_minor_unit_of_its_currency(trends: pl.DataFrame) -> None:
    gross = traces(charts.volume(trends), "gross")
    first = [trace.customdata[0] for trace in gross]
    assert sorted(first) == [
        "1,960 JPY in 50 payments",
        "24,691.34 EUR in 50 payments",
        "3.998 BHD in 50 payments",
    ]


def test_axes_are_in_units_of_the_currency(trends: pl.DataFrame) -> None:
    figure = charts.volume(trends)
    gross = {trace.customdata[0].split()[1]: trace.y[0] for trace in traces(figure, "gross")}
    assert gross == {"EUR": 24_691.34, "JPY": 1_960.0, "BHD": 3.998}
    assert {axis.title.text for axis in figure.select_yaxes()} == {"EUR", "JPY", "BHD"}


def test_no_figure_adds_one_currency_to_another(trends: pl.DataFrame) -> None:
    for currency in ("EUR", "JPY", "BHD"):
        alone = trends.filter(pl.col("currency") == currency)
        expected = [trace.customdata for trace in charts.volume(alone).data]
        together = [
            trace.customdata
            for trace in charts.volume(trends).data
            if currency in trace.customdata[0] or currency in trace.customdata[-1]
        ]
        assert together == expected


def test_net_is_gross_less_refunds_and_refunds_point_down(trends: pl.DataFrame) -> None:
    figure = charts.volume(trends.filter(pl.col("currency") == "EUR"))
    gross, refunds, net = (traces(figure, name)[0] for name in ("gross", "refunds", "net"))
    assert refunds.y[3] == -43.21
    assert refunds.customdata[3] == "43.21 EUR in 1 refund"
    assert net.customdata[3] == "61,685.14 EUR"
    assert gross.customdata[3] == "61,728.35 EUR in 50 payments"


def test_sums_beyond_64_bits_stay_exact() -> None:
    most = 2**63 - 1
    [series] = series_by_currency(
        trends_frame((0, "a", "EUR", "completed", 1, most), (0, "b", "EUR", "completed", 1, most))
    )
    assert series.gross == (2 * most,)
    assert charts.summary(
        trends_frame((0, "a", "EUR", "completed", 1, most), (0, "b", "EUR", "completed", 1, most))
    )["gross"].to_list() == ["184,467,440,737,095,516.14"]


def test_an_axis_of_time_has_a_label_to_a_period_and_no_hours() -> None:
    def axis(days: list[int], every: charts.Granularity) -> Any:
        figure = charts.volume(trends_frame(*((day, "a", "EUR", "completed", 1, 1) for day in days)), every)
        return figure.layout.xaxis

    assert axis([0], "day").dtick == 24 * 3_600_000
    assert axis([1, 8], "week").dtick == 7 * 24 * 3_600_000
    assert axis([0, 31], "month").dtick == "M1"
    assert axis([0, 365], "month").dtick == "M2"
    assert axis([0, 20], "day").dtick is None
    alone = axis([0], "month")  # a single bar, on an axis of a month
    assert 30 <= (alone.range[1] - alone.range[0]).days <= 40


def test_a_day_without_movements_is_a_zero_not_a_hole() -> None:
    [series] = series_by_currency(
        trends_frame((0, "a", "GBP", "completed", 1, 100), (5, "a", "GBP", "completed", 1, 200))
    )
    assert series.periods == tuple(START + timedelta(days=day) for day in range(6))
    assert series.gross == (100, 0, 0, 0, 0, 200)


def test_months_and_weeks_follow_the_calendar() -> None:
    assert period_after(date(2026, 1, 1), "month") == date(2026, 2, 1)
    assert period_after(date(2026, 12, 1), "month") == date(2027, 1, 1)
    assert period_after(date(2026, 6, 29), "week") == date(2026, 7, 6)


def test_the_mean_is_rounded_half_to_even_and_starts_with_a_full_window() -> None:
    finished = [True] * 4
    assert trailing_means([1, 2, 2, 4], 2, finished) == [None, 2, 2, 3]  # 1.5 -> 2, 2, 3
    assert trailing_means([0, 5], 2, [True, True]) == [None, 2]  # 2.5 -> 2


def test_an_unfinished_last_day_is_shaded_and_left_out_of_the_mean(trends: pl.DataFrame) -> None:
    last = START + timedelta(days=19)
    noon = datetime(last.year, last.month, last.day, 12, tzinfo=UTC)
    figure = charts.volume(trends, known_until=noon)
    assert len(figure.layout.shapes) == 3  # one in each panel
    assert all(
        mean.y[-1] is None and mean.y[-2] is not None for mean in traces(figure, "net, mean of 7 days")
    )
    assert note(figure) == "Shaded: unfinished, known until 20 Mar 2026 12:00 UTC"

    finished = charts.volume(trends, known_until=noon + timedelta(hours=12))
    assert not finished.layout.shapes
    assert not note(finished)
    assert all(mean.y[-1] is not None for mean in traces(finished, "net, mean of 7 days"))


def test_the_success_rate_is_completed_of_all_attempts(trends: pl.DataFrame) -> None:
    rate = traces(charts.success_rate(trends), "day")[0]
    assert rate.y[0] == 50 / 53
    assert rate.customdata[0] == "94.33 %, 50 of 53 attempts (95 %: 84.6 to 98.1 %)"


def test_an_incident_is_marked_and_named_in_every_currency(trends: pl.DataFrame) -> None:
    figure = charts.success_rate(trends)
    named = [each.text for each in figure.layout.annotations if "13 Mar 2026" in each.text]
    assert named == ["Fri 13 Mar 2026: 45.45 %, 50 of 110 attempts"] * 3
    assert all(
        unusual_periods(series.completed, series.attempts) == [12] for series in series_by_currency(trends)
    )


def test_without_failures_nothing_is_marked() -> None:
    days = [(day, "a", "GBP", "completed", day % 7 + 1, 100) for day in range(200)]
    [series] = series_by_currency(trends_frame(*days))
    assert unusual_periods(series.completed, series.attempts) == []
    figure = charts.success_rate(trends_frame(*days))
    assert headings(figure) == {"GBP": "no failed attempt among 794"}
    assert not traces(figure, "lower than chance explains")  # nor in the legend


def test_a_period_that_is_not_over_is_not_judged() -> None:
    """Retries are still to come: it would be marked in every page that is made before its end."""
    good, tried = [950] * 10 + [300], [1_000] * 10 + [400]
    assert unusual_periods(good, tried) == [10]
    assert unusual_periods(good, tried, [True] * 10 + [False]) == []


def test_the_wilson_interval_agrees_with_the_published_figures() -> None:
    # Newcombe 1998, method 3, 95 %: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for good, tried, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        assert wilson(good, tried) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


def test_the_band_is_the_interval_of_the_last_seven_days(trends: pl.DataFrame) -> None:
    figure = charts.success_rate(trends.filter(pl.col("currency") == "EUR"))
    lower, upper = traces(figure, "95 % of the last 7 days")
    assert lower.y[5] is None
    assert upper.y[5] is None
    assert (lower.y[6], upper.y[6]) == wilson(7 * 50, 7 * 53)
    [smooth] = traces(figure, "last 7 days")
    assert smooth.y[6] == 350 / 371
    assert smooth.customdata[6].startswith("94.33 %, 350 of 371 attempts")


def test_organizations_are_ranked_by_gross_within_each_currency() -> None:
    rows: list[Row] = [
        (0, f"org {number:02d}", currency, "completed", 1, amount)
        for currency, sign in (("EUR", 1), ("USD", -1))
        for number, amount in enumerate(range(100, 112)[::sign])
    ]
    figure = charts.top_organizations(trends_frame(*rows, (0, "org 11", "EUR", "refunded", 2, 50)), top=3)
    eur, usd = traces(figure, "gross")
    assert list(eur.y) == ["org 11", "org 10", "org 09"]
    assert list(usd.y) == ["org 00", "org 01", "org 02"]
    assert "refunds 0.50 EUR in 2 refunds" in eur.hovertemplate[0]
    assert "net 0.61 EUR" in eur.hovertemplate[0]
    assert headings(figure)["EUR"].startswith("3 of 12 organizations make 26.06 %")


def test_an_organization_cannot_put_markup_into_a_chart() -> None:
    figure = charts.top_organizations(trends_frame((0, "<b>a</b>", "EUR", "completed", 1, 100)))
    [bar, _] = figure.data
    assert "&lt;b&gt;a&lt;/b&gt;" in bar.hovertemplate[0]
    assert figure.layout.yaxis.ticktext == ("&lt;b&gt;a&lt;/b&gt;",)


def test_the_refund_rate_is_of_the_gross_amount_of_the_same_week() -> None:
    figure = charts.refund_rate(
        trends_frame((1, "a", "EUR", "completed", 4, 80_000), (1, "a", "EUR", "refunded", 1, 2_000),
              (8, "a", "EUR", "refunded", 1, 500)),
        "week",
    )  # fmt: skip
    [week] = traces(figure, "week")
    assert list(week.y) == [0.025, None]
    assert list(week.customdata) == ["2.50 %: 20.00 of 800.00 EUR", "5.00 of 0.00 EUR"]


def test_the_summary_is_exact_per_currency(trends: pl.DataFrame) -> None:
    rows = {row["currency"]: row for row in charts.summary(trends).iter_rows(named=True)}
    assert rows["EUR"] == {
        "currency": "EUR",
        "completed": 1_000,
        "gross": "2,839,504.10",
        "refunds": "864.20",
        "net": "2,838,639.90",
        "failed_attempts": 117,
        "success_rate": "89.52 %",
        "refund_rate": "0.03 %",
    }
    assert rows["JPY"]["net"] == "225,400"
    assert rows["BHD"]["net"] == "459.770"


def test_100_percent_means_all_of_it() -> None:
    assert percent(99_999, 100_000) == "99.99 %"
    assert percent(7, 7) == "100.00 %"
    assert percent(0, 0) == "–"


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(-5, "EUR", "-0.05"), (0, "JPY", "0"), (-1_234_567, "BHD", "-1,234.567"), (100, "CLF", "0.0100")],
)
def test_amounts_have_exactly_the_decimals_of_their_currency(minor: int, currency: str, text: str) -> None:
    assert exact(minor, currency) == text


@pytest.mark.parametrize(
    "chart", [charts.volume, charts.success_rate, charts.top_organizations, charts.refund_rate]
)
def test_an_empty_frame_gives_a_chart_that_says_so(chart: Any) -> None:
    figure = chart(trends_frame())
    assert message(figure) == "There are no payments to show yet."


def test_more_currencies_than_fit_are_named(trends: pl.DataFrame) -> None:
    codes = ["EUR", "USD", "GBP", "JPY", "BHD", "CHF", "SEK", "NOK", "DKK", "PLN"]
    many = trends_frame(*((0, "a", code, "completed", 20 - number, 100) for number, code in enumerate(codes)))
    figure = charts.volume(many)
    assert len(traces(figure, "gross")) == 8
    assert note(figure) == "not shown, with fewer movements: DKK, PLN"


def test_a_frame_without_its_columns_is_refused_by_name(trends: pl.DataFrame) -> None:
    with pytest.raises(charts.ChartError, match="no column total_minor"):
        charts.volume(trends.drop("total_minor"))
