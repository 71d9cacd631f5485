"""What all charts have in common: colours, texts, panels, and what becomes of an empty or a wrong frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.charts import theme
from tests.charting import at, events_frame, headings, message, note, payments_frame, trends_frame

Rgb = tuple[float, ...]

CURRENCIES = ("EUR", "GBP", "JPY", "BHD", "USD")
TRENDS = trends_frame(
    *(
        (day, organization, currency, status, 50 - number, 1000 + day)
        for number, currency in enumerate(CURRENCIES)
        for organization, status in (
            ("a", "completed"),
            ("b", "completed"),
            ("a", "failed"),
            ("a", "refunded"),
        )
        for day in range(30)
    )
)
PAYMENTS = payments_frame(
    *(
        {
            "currency": currency,
            "failures_before": number % 3,
            "refunded_minor": 1,
            "first_refund_at": at(number),
        }
        for index, currency in enumerate(CURRENCIES)
        for number in range(20 - index)
    )
)
EVENTS = events_frame(*(("PaymentFailed", currency, "reason", 1) for currency in CURRENCIES))
CHANGED = TRENDS.with_columns(pl.col("total_minor") + 5)


def restated(frame: Any) -> Any:
    return charts.restatement(frame, CHANGED, "day")


Chart = Callable[..., Any]
OF_TRENDS: tuple[Chart, ...] = (
    charts.volume, charts.success_rate, charts.refund_rate, charts.top_organizations, charts.waterfall,
    charts.concentration, charts.calendar, charts.anomalies,
    restated,
)  # fmt: skip
OF_PAYMENTS: tuple[Chart, ...] = (
    charts.success_by_payment, charts.retry_funnel, charts.refund_cohorts, charts.refund_latency,
    charts.retention,
)  # fmt: skip
ALL: list[tuple[Chart, pl.DataFrame]] = [
    *((chart, TRENDS) for chart in OF_TRENDS), *((chart, PAYMENTS) for chart in OF_PAYMENTS),
    (charts.failure_pareto, EVENTS),
]  # fmt: skip


@pytest.fixture(scope="module")
def figures() -> list[Any]:
    """Every chart of five currencies; the frames are given lazily, and are as they were afterwards."""
    before = [frame.clone() for _, frame in ALL]
    found = [chart(frame.lazy()) for chart, frame in ALL]
    assert all(frame.equals(old) for (_, frame), old in zip(ALL, before, strict=True))
    return found


def test_every_chart_has_a_panel_with_a_heading_for_each_currency(figures: list[Any]) -> None:
    for figure in figures:
        assert set(headings(figure)) == set(CURRENCIES), figure.layout.title.text
        assert all(headings(figure).values())
        assert len(list(figure.select_yaxes())) == len(CURRENCIES)


def test_an_axis_of_money_is_in_units_of_its_currency(figures: list[Any]) -> None:
    money = [figure for figure in figures if _axis_titles(figure) & set(CURRENCIES)]
    assert len(money) == 5  # volume, top organizations, waterfall, anomalies, restatement
    for figure in money:
        assert _axis_titles(figure) >= set(CURRENCIES)


def test_a_text_holds_no_markup_and_no_minor_units(figures: list[Any]) -> None:
    """Bold or styled text is an inline style to plotly, which a strict content security policy refuses."""
    for figure in figures:
        texts = list(_texts(figure.to_plotly_json()))
        assert len(texts) > 10
        for text in texts:
            assert "<" not in text.replace("<br>", "").replace("<extra></extra>", ""), text


def test_an_empty_frame_gives_a_chart_that_says_so() -> None:
    for chart, frame in ALL:
        assert message(chart(frame.clear())).startswith(("There are no", "No payment failed")), chart


def test_a_frame_without_its_columns_is_refused_by_name_and_source() -> None:
    for chart, frame in ALL:
        with pytest.raises(charts.ChartError, match="has no column currency") as refused:
            chart(frame.drop("currency"))
        assert "Lake." in (refused.value.remedy or "")


def test_a_figure_is_handed_over_as_json_that_a_script_element_can_hold() -> None:
    name = "</script><b>&"
    figure = charts.top_organizations(trends_frame((0, name, "EUR", "completed", 1, 5)))
    text = charts.to_json(figure)
    assert not set("<>") & set(text)
    assert set(json.loads(text)) == {"data", "layout"}
    assert json.loads(text)["layout"]["yaxis"]["tickvals"] == [name]


def test_a_narrow_chart_has_short_lines_and_leaves_the_wide_one_alone(figures: list[Any]) -> None:
    for figure in figures:
        wide = json.loads(figure.to_json())
        slim = charts.narrow(figure)
        assert json.loads(figure.to_json()) == wide
        assert len(slim.data) == len(figure.data)
        lines = [line for text in headings(slim).values() for line in text.split("<br>")]
        assert max(map(len, lines)) <= 42
        assert " ".join(" ".join(lines).split()) == " ".join(" ".join(headings(figure).values()).split())
        drawn = figure.layout.height - figure.layout.margin.t
        assert slim.layout.height - slim.layout.margin.t == drawn
    charts.narrow(charts.volume(TRENDS.clear()))


def test_currencies_beyond_those_shown_are_named_beside_what_is_unfinished() -> None:
    codes = ("EUR", "USD", "GBP", "JPY", "BHD", "CHF", "SEK", "NOK", "DKK")
    many = trends_frame(*((0, "a", code, "completed", 20 - n, 1) for n, code in enumerate(codes)))
    assert note(charts.volume(many, known_until=at(0.5))) == (
        "Shaded: unfinished, known until 1 Mar 2026 12:00 UTC. not shown, with fewer movements: DKK"
    )


def test_every_colour_stands_out_from_the_page() -> None:
    drawn = (theme.GROSS, theme.REFUNDS, theme.NET, theme.SUCCESS, theme.UNUSUAL, theme.QUIET)
    assert all(_contrast(colour, "#FFFFFF") >= 3 for colour in drawn)
    written = (theme.NET, theme.QUIET, theme.NAMED)
    assert all(_contrast(colour, "#FFFFFF") >= 4.5 for colour in written)
    assert _contrast("#56B4E9", "#FFFFFF") < 3  # the palette's own light blue would not do


def test_colours_of_one_chart_are_told_apart_with_any_colour_blindness() -> None:
    together = (
        (theme.GROSS, theme.REFUNDS, theme.NET),
        (theme.SUCCESS, theme.QUIET, theme.REFUNDS),
        (theme.GROSS, theme.UNUSUAL),
    )
    for colours in together:
        for one, other in combinations(colours, 2):
            assert all(_difference(one, other, seen) > 20 for seen in _SEEN.values()), (one, other)
    # A red and a green of equal lightness, which everybody else tells apart, are the same to a deuteranope.
    assert (
        _difference("#B8660A", "#7C8500", _SEEN["nobody"])
        > 40
        > 20
        > _difference("#B8660A", "#7C8500", _SEEN["deuteranopia"])
    )


def test_a_heat_map_reads_without_colours() -> None:
    shades = [sum(w * c for w, c in zip(_LIGHT, _linear(colour), strict=True)) for _, colour in theme.SCALE]
    assert shades == sorted(shades, reverse=True)


_LIGHT = (0.2126, 0.7152, 0.0722)
# What is left of linear RGB, after Machado, Oliveira and Fernandes (2009), full severity.
_SEEN = {
    "nobody": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
                   (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
                     (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
                   (0.004733, 0.691367, 0.303900)),
}  # fmt: skip


def _linear(colour: str) -> Rgb:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def _dot(left: Any, right: Any) -> float:
    return float(sum(a * b for a, b in zip(left, right, strict=True)))


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    dark, light = sorted(_dot(_LIGHT, _linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _difference(one: str, other: str, seen: Any) -> float:
    """The distance in CIE L*a*b* (1976) of two colours as somebody sees them."""

    def lab(colour: str) -> Rgb:
        rgb = [min(1.0, max(0.0, _dot(row, _linear(colour)))) for row in seen]
        rows = (((0.4124, 0.3576, 0.1805), 0.95047), (_LIGHT, 1.0), ((0.0193, 0.1192, 0.9505), 1.08883))
        x, y, z = (_dot(row, rgb) / white for row, white in rows)
        x, y, z = (each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in (x, y, z))
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5


def _axis_titles(figure: Any) -> set[str]:
    return {axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())}


def _texts(node: Any) -> Iterator[str]:
    """Every text that a figure shows: titles, headings, ticks and hovers."""
    shown = ("text", "ticktext", "customdata", "hovertemplate", "name")
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value) if key in shown else _texts(value)
    elif isinstance(node, list | tuple):
        for each in node:
            yield from _texts(each)


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield from _texts(value)
