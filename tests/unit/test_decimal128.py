"""The short way to a Decimal128 leads to the same bytes as the long one."""

from __future__ import annotations

from decimal import Decimal

from bson import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.mongo.decimal128 import decimal128


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 6))
def test_minor_units_become_the_same_decimal128_as_through_decimal(minor: int, exponent: int) -> None:
    expected = Decimal128(Decimal(minor).scaleb(-exponent))
    assert decimal128(minor, exponent) == expected
    assert decimal128(minor, exponent).bid == expected.bid
    assert str(decimal128(minor, exponent)) == str(expected)
