"""Money is exact, of one currency, and never a float."""

from __future__ import annotations

from decimal import Decimal

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.domain.money import MAX_MINOR, WITHDRAWN, Money, MoneyError, Rounding, exponent

CODES = sorted(c.code for c in iso4217.Currency if c.exponent is not None) + sorted(WITHDRAWN)
minors = st.integers(-(10**15), 10**15)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("139.12", "GBP", 13912),
        ("5", "EUR", 500),
        ("5.1", "EUR", 510),
        ("12.500", "EUR", 1250),
        ("-1.5", "BHD", -1500),
        ("+2", "USD", 200),
        (" 7.00 ", "USD", 700),
        (".50", "USD", 50),
        ("1000", "JPY", 1000),
        ("1000.00", "JPY", 1000),
        ("0.0001", "CLF", 1),
        ("92233720368547758.07", "EUR", MAX_MINOR),
        (Decimal("1.23"), "EUR", 123),
        (12, "BHD", 12000),
    ],
)
def test_an_amount_is_read_exactly(text: str | Decimal | int, currency: str, minor: int) -> None:
    assert Money.parse(text, currency) == Money(minor, currency)


@pytest.mark.parametrize(
    "amount",
    ["", "abc", "1,000", "1_000", "NaN", "Infinity", "1.234", "1e-3", "1e40", "٣", "12.3.4", "--1", "0x10"],
)
def test_text_that_is_no_exact_amount_is_refused(amount: str) -> None:
    with pytest.raises(MoneyError) as refused:
        Money.parse(amount, "EUR")
    assert refused.value.code == "bad_amount"


@pytest.mark.parametrize("amount", [1.5, 2.0, True, None, b"1"])
def test_what_can_not_hold_cents_is_refused(amount: object) -> None:
    with pytest.raises(MoneyError, match="not exact money"):
        Money.parse(amount, "EUR")  # type: ignore[arg-type]
    with pytest.raises(MoneyError):
        Money(amount, "EUR")  # type: ignore[arg-type]


def test_what_does_not_fit_64_bits_is_refused() -> None:
    with pytest.raises(MoneyError, match="64 bits"):
        Money.parse("92233720368547758.08", "EUR")
    with pytest.raises(MoneyError, match="64 bits"):
        Money(MAX_MINOR, "EUR") + Money(1, "EUR")


@pytest.mark.parametrize("currency", ["EU", "eur", "XXX", "XAU", "EURO", "", "ZZZ"])
def test_a_code_without_a_minor_unit_is_refused(currency: str) -> None:
    with pytest.raises(MoneyError) as refused:
        Money.parse("1", currency)
    assert refused.value.code == "unknown_currency"


def test_exponents_are_those_of_iso_4217() -> None:
    assert {c: exponent(c) for c in ("JPY", "EUR", "USD", "GBP", "BHD", "CLF", "HRK", "BGN")} == {
        "JPY": 0,
        "EUR": 2,
        "USD": 2,
        "GBP": 2,
        "BHD": 3,
        "CLF": 4,
        "HRK": 2,
        "BGN": 2,
    }


@given(minors, st.sampled_from(CODES))
def test_amount_and_text_lead_back_to_the_same_money(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    assert Money.parse(money.amount, currency) == money
    assert Money.parse(format(money.amount, "f"), currency) == money
    assert -money.amount.as_tuple().exponent == exponent(currency)  # type: ignore[operator]


@given(minors, minors)
def test_arithmetic_is_that_of_the_minor_units(a: int, b: int) -> None:
    x, y = Money(a, "EUR"), Money(b, "EUR")
    assert (x + y).minor == a + b
    assert (x - y).minor == a - b
    assert (-x).minor == -a
    assert ((x < y), (x <= y), (x > y), (x >= y)) == ((a < b), (a <= b), (a > b), (a >= b))


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__lt__", "__le__", "__gt__", "__ge__"])
def test_currencies_do_not_mix(operation: str) -> None:
    with pytest.raises(MoneyError) as refused:
        getattr(Money(1, "EUR"), operation)(Money(1, "USD"))
    assert refused.value.code == "currency_mismatch"
    with pytest.raises(MoneyError):
        getattr(Money(1, "EUR"), operation)(1)


@pytest.mark.parametrize(
    ("rounding", "amount", "minor"),
    [
        (Rounding.HALF_EVEN, "0.125", 12),
        (Rounding.HALF_EVEN, "0.135", 14),
        (Rounding.HALF_UP, "0.125", 13),
        (Rounding.HALF_UP, "-0.125", -13),
        (Rounding.DOWN, "0.129", 12),
        (Rounding.UP, "0.121", 13),
    ],
)
def test_rounding_is_by_a_named_mode(rounding: Rounding, amount: str, minor: int) -> None:
    assert Money.rounded(Decimal(amount), "EUR", rounding).minor == minor


def test_what_is_not_finite_is_not_rounded() -> None:
    with pytest.raises(MoneyError):
        Money.rounded(Decimal("NaN"), "EUR", Rounding.UP)
