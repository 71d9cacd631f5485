"""Charts show exactly what the trends say, each currency by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.charts.measures import exact, percent, period_after, series_by_currency
from ledgerlake.charts.success import unusual_periods, wilson_upper
from ledgerlake.charts.volume import trailing_means

START = date(2026, 3, 1)
Row = tuple[int, str, str, str, int, int]


def frame(*rows: Row) -> pl.DataFrame:
    """Rows of (day from START, organization, currency, status, count, total of minor units)."""
    return pl.DataFrame(
        [(START + timedelta(days=day), *rest) for day, *rest in rows],
        schema={
            "period": pl.Date,
            "organization_id": pl.String,
            "currency": pl.String,
            "status": pl.String,
            "count": pl.Int64,
            "total_minor": pl.Int64,
        },
        orient="row",
    )


@pytest.fixture
def trends() -> pl.DataFrame:
    rows: list[Row] = []
    for day in range(20):
        for currency, minor in (("EUR", 1234567), ("JPY", 980), ("BHD", 1999)):
            rows.append((day, "alpine", currency, "completed", 40, minor * (day + 1)))
            rows.append((day, "bluebird", currency, "completed", 10, minor))
            rows.append((day, "alpine", currency, "failed", 3 if day != 12 else 60, 5 * minor))
        rows.append((day, "alpine", "EUR", "refunded", 1, 4321))
    return frame(*rows)


def traces(figure: Any, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name]


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
    assert refunds.customdata[3] == "43.21 EUR in 1 refunds"
    assert net.customdata[3] == "61,685.14 EUR"
    assert gross.customdata[3] == "61,728.35 EUR in 50 payments"


def test_sums_beyond_64_bits_stay_exact() -> None:
    most = 2**63 - 1
    [series] = series_by_currency(
        frame((0, "a", "EUR", "completed", 1, most), (0, "b", "EUR", "completed", 1, most))
    )
    assert series.gross == (2 * most,)
    assert charts.summary(
        frame((0, "a", "EUR", "completed", 1, most), (0, "b", "EUR", "completed", 1, most))
    )["gross"].to_list() == ["184,467,440,737,095,516.14"]


def test_a_day_without_movements_is_a_zero_not_a_hole() -> None:
    [series] = series_by_currency(
        frame((0, "a", "GBP", "completed", 1, 100), (5, "a", "GBP", "completed", 1, 200))
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
    assert any("known until 20 Mar 12:00 UTC" in note.text for note in figure.layout.annotations)

    finished = charts.volume(trends, known_until=noon + timedelta(hours=12))
    assert not finished.layout.shapes
    assert all(mean.y[-1] is not None for mean in traces(finished, "net, mean of 7 days"))


def test_the_success_rate_is_completed_of_all_attempts(trends: pl.DataFrame) -> None:
    rate = traces(charts.success_rate(trends), "day")[0]
    assert rate.y[0] == 50 / 53
    assert rate.customdata[0] == "94.33 %, 50 of 53 attempts"


def test_an_incident_is_marked_and_named_in_every_currency(trends: pl.DataFrame) -> None:
    figure = charts.success_rate(trends)
    named = [note.text for note in figure.layout.annotations if "13 Mar 2026" in note.text]
    assert named == ["Fri 13 Mar 2026: 45.45 %, 50 of 110 attempts"] * 3
    assert all(unusual_periods(series) == [12] for series in series_by_currency(trends))


def test_without_failures_nothing_is_marked() -> None:
    days = [(day, "a", "GBP", "completed", day % 7 + 1, 100) for day in range(200)]
    [series] = series_by_currency(frame(*days))
    assert unusual_periods(series) == []
    headings = [note.text for note in charts.success_rate(frame(*days)).layout.annotations]
    assert headings == ["<b>GBP</b>  no failed attempt among 794"]


def test_the_wilson_bound_agrees_with_the_published_formula() -> None:
    # 95 %: 10 of 20 lies between 0.2993 and 0.7007 (Newcombe 1998, method 3).
    assert wilson_upper(10, 20, z=1.959964) == pytest.approx(0.7007, abs=5e-5)
    assert wilson_upper(20, 20) == pytest.approx(1.0)


def test_organizations_are_ranked_by_gross_within_each_currency() -> None:
    rows: list[Row] = [
        (0, f"org {number:02d}", currency, "completed", 1, amount)
        for currency, sign in (("EUR", 1), ("USD", -1))
        for number, amount in enumerate(range(100, 112)[::sign])
    ]
    figure = charts.top_organizations(frame(*rows, (0, "org 11", "EUR", "refunded", 2, 50)), top=3)
    eur, usd = traces(figure, "gross")
    assert list(eur.y) == ["org 11", "org 10", "org 09"]
    assert list(usd.y) == ["org 00", "org 01", "org 02"]
    assert "refunds 0.50 EUR in 2 refunds" in eur.hovertemplate[0]
    assert "net 0.61 EUR" in eur.hovertemplate[0]
    assert "3 of 12 organizations make 26.06 %" in figure.layout.annotations[0].text


def test_an_organization_cannot_put_markup_into_a_chart() -> None:
    figure = charts.top_organizations(frame((0, "<b>a</b>", "EUR", "completed", 1, 100)))
    [bar, _] = figure.data
    assert "&lt;b&gt;a&lt;/b&gt;" in bar.hovertemplate[0]
    assert figure.layout.yaxis.ticktext == ("&lt;b&gt;a&lt;/b&gt;",)


def test_the_refund_rate_is_of_the_gross_amount_of_the_same_week() -> None:
    figure = charts.refund_rate(
        frame((1, "a", "EUR", "completed", 4, 80_000), (1, "a", "EUR", "refunded", 1, 2_000),
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
    figure = chart(frame())
    assert [note.text for note in figure.layout.annotations] == ["There are no payments to show yet."]


def test_more_currencies_than_fit_are_named(trends: pl.DataFrame) -> None:
    codes = ["EUR", "USD", "GBP", "JPY", "BHD", "CHF", "SEK", "NOK", "DKK", "PLN"]
    many = frame(*((0, "a", code, "completed", 20 - number, 100) for number, code in enumerate(codes)))
    figure = charts.volume(many)
    assert len(traces(figure, "gross")) == 8
    assert "not shown, with fewer movements: DKK, PLN" in figure.layout.title.text


def test_a_frame_without_its_columns_is_refused_by_name(trends: pl.DataFrame) -> None:
    with pytest.raises(charts.ChartError, match="no column total_minor"):
        charts.volume(trends.drop("total_minor"))
