"""Running balances of movements, per organization and currency."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ledgerlake.eventstore.columnar import scale
from ledgerlake.reports.billing_definition import BALANCE
from ledgerlake.reports.errors import ReportError

_Account: TypeAlias = tuple[str, str]
_Int64: TypeAlias = npt.NDArray[np.int64]
# Sums of 64-bit integers wrap silently: halves of 32 bits are added up instead, which can not.
_HALF: Final = 32
_LOW: Final = (1 << _HALF) - 1


def running(movements: Iterable[pa.Table]) -> Generator[pa.Table, None, None]:
    """Tables of ITEMISED in its order, with balance_minor and balance in place of opening_minor.

    An account is an organization's currency: its balance begins at its opening, and goes on over the borders
    of tables.

    Raises:
        ReportError: a balance does not fit 64 bits; names the account.
    """
    reached: dict[_Account, int] = {}
    for table in movements:
        if not table.num_rows:
            continue
        balances = _balances(table, reached)
        # Organizations come one after the other.
        last = table["organization_id"][-1].as_py()
        reached = {account: minor for account, minor in reached.items() if account[0] == last}
        minor = pa.chunked_array([pa.array(balances)])
        found = table.drop_columns(["opening_minor"])
        for field, column in zip(BALANCE, (minor, scale(minor, table["exponent"])), strict=True):
            found = found.append_column(field, column)
        yield found


def _balances(table: pa.Table, reached: dict[_Account, int]) -> _Int64:
    """The balance with each row; `reached` holds those before, and afterwards those at the end."""
    names, currencies = (
        table[name].combine_chunks().dictionary_encode() for name in ("organization_id", "currency")
    )
    accounts = names.indices.to_numpy().astype(np.int64) * len(currencies.dictionary)
    accounts += currencies.indices.to_numpy()
    order = np.argsort(accounts, kind="stable")
    sorted_accounts = accounts[order]
    starts = np.flatnonzero(np.diff(sorted_accounts, prepend=-1))
    sizes = np.diff(starts, append=len(order))
    change, opening = (
        table[name].combine_chunks().to_numpy()[order] for name in ("amount_minor", "opening_minor")
    )
    keys = [
        (
            names.dictionary[code // len(currencies.dictionary)].as_py(),
            currencies.dictionary[code % len(currencies.dictionary)].as_py(),
        )
        for code in sorted_accounts[starts].tolist()
    ]
    begin = [reached.get(key, int(opening[start])) for key, start in zip(keys, starts.tolist(), strict=True)]
    high, low = (
        _sums(halves, starts, sizes) + np.repeat(np.array(before, np.int64), sizes)
        for halves, before in (
            (change >> _HALF, [minor >> _HALF for minor in begin]),
            (change & _LOW, [minor & _LOW for minor in begin]),
        )
    )
    high += low >> _HALF
    wrong = np.flatnonzero((high < -(1 << 31)) | (high >= 1 << 31))
    if len(wrong):
        organization, currency = keys[int(np.searchsorted(starts, wrong[0], "right")) - 1]
        raise ReportError(
            f"The balance of {organization!r} in {currency} does not fit 64 bits at position"
            f" {table['position'][int(order[wrong[0]])].as_py()}."
        )
    balances = np.empty(len(order), np.int64)
    balances[order] = (high << _HALF) | (low & _LOW)
    reached |= dict(zip(keys, balances[order][starts + sizes - 1].tolist(), strict=True))
    return balances


def _sums(values: _Int64, starts: _Int64, sizes: _Int64) -> _Int64:
    """Running sums that begin anew at each start."""
    sums = np.cumsum(values)
    return sums - np.repeat((sums - values)[starts], sizes)
