"""Running balances: what Python's integers say, wherever the tables are cut, and never a wrapped sum."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerlake.reports.balances import running
from ledgerlake.reports.errors import ReportError

CONTEXT = Context(prec=40)
LARGEST = 2**63 - 1
ORGANIZATIONS, CURRENCIES = ("a", "b", "c"), {"EUR": 2, "JPY": 0, "BHD": 3}

Row = tuple[str, str, int]
rows = st.lists(
    st.tuples(
        st.sampled_from(ORGANIZATIONS),
        st.sampled_from(tuple(CURRENCIES)),
        st.integers(-(2**62), 2**62) | st.integers(-100, 100),
    ),
    max_size=40,
).map(lambda found: sorted(found, key=lambda row: row[0]))
openings = st.fixed_dictionaries(
    {(name, currency): st.integers(-(2**61), 2**61) for name in ORGANIZATIONS for currency in CURRENCIES}
)


def table(found: list[Row], opening: dict[tuple[str, str], int], first: int = 1) -> pa.Table:
    names, currencies, changes = ([row[at] for row in found] for at in range(3))
    return pa.table(
        {
            "organization_id": pa.array(names, pa.string()),
            "position": pa.array(range(first, first + len(found)), pa.int64()),
            "currency": pa.array(currencies, pa.string()),
            "exponent": pa.array([CURRENCIES[each] for each in currencies], pa.int8()),
            "amount_minor": pa.array(changes, pa.int64()),
            "opening_minor": pa.array([opening[row[:2]] for row in found], pa.int64()),
        }
    )


def cut(whole: pa.Table, places: list[int]) -> Iterator[pa.Table]:
    edges = sorted({0, whole.num_rows, *(place % (whole.num_rows + 1) for place in places)})
    for start, end in pairwise(edges):
        yield whole.slice(start, end - start)


@settings(max_examples=200)
@given(rows, openings, st.lists(st.integers(0, 100), max_size=4))
def test_balances_are_those_of_whole_numbers_or_an_error(
    found: list[Row], opening: dict[tuple[str, str], int], places: list[int]
) -> None:
    reached, expected = dict(opening), []
    for name, currency, change in found:
        reached[name, currency] += change
        expected.append(reached[name, currency])
    tables = running(cut(table(found, opening), places))

    if any(not -LARGEST - 1 <= each <= LARGEST for each in expected):
        with pytest.raises(ReportError, match="does not fit 64 bits at position"):
            list(tables)
        return
    given_back = list(tables)
    assert [minor for each in given_back for minor in each["balance_minor"].to_pylist()] == expected
    for each in given_back:
        assert "opening_minor" not in each.column_names
        for amount, minor, exponent in zip(
            *(each[name].to_pylist() for name in ("balance", "balance_minor", "exponent")), strict=True
        ):
            assert amount == Decimal(minor).scaleb(-exponent, CONTEXT)


def test_a_balance_beyond_64_bits_is_named() -> None:
    rows: list[Row] = [("a", "EUR", LARGEST), ("a", "JPY", 5), ("a", "EUR", 1)]
    opening = {("a", "EUR"): 0, ("a", "JPY"): 0}
    with pytest.raises(ReportError, match="'a' in EUR does not fit 64 bits at position 3"):
        list(running([table(rows, opening)]))
