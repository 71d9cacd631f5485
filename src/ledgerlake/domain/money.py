"""Exact money: int64 minor units of one ISO 4217 currency.

The number of minor units comes from ISO 4217 (the `iso4217` package, and a frozen table for codes
that the standard has withdrawn but that old payments still carry). There is no float anywhere:
the type refuses them, as it refuses arithmetic across currencies.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Final

import iso4217

from ledgerlake.errors import LedgerLakeError

MAX_MINOR: Final = 2**63 - 1

# Codes that ISO 4217 has moved to its list of withdrawn codes (List Three), with the exponent they
# had while in force. The package drops a code when the standard does; a ledger can not.
WITHDRAWN: Final[dict[str, int]] = {
    "BGN": 2,
    "CYP": 2,
    "EEK": 2,
    "HRK": 2,
    "LTL": 2,
    "LVL": 2,
    "MTL": 2,
    "ROL": 2,
    "SIT": 2,
    "SKK": 2,
    "TRL": 0,
}

# An exact value never needs rounding, so a context that would round must fail instead.
_EXACT: Final = decimal.Context(prec=60, traps=[decimal.Inexact, decimal.InvalidOperation])


class MoneyError(LedgerLakeError):
    """An amount that is not exact money, or arithmetic that money does not have.

    `code` is the reason code under which a refused command is kept.
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.code = code


class Rounding(StrEnum):
    """Named rounding modes for amounts that have more decimals than their currency."""

    HALF_EVEN = decimal.ROUND_HALF_EVEN
    HALF_UP = decimal.ROUND_HALF_UP
    DOWN = decimal.ROUND_DOWN
    UP = decimal.ROUND_UP


@cache
def exponent(currency: str) -> int:
    """Decimal places of the currency's minor unit (JPY 0, EUR 2, BHD 3).

    Raises:
        MoneyError: `unknown_currency` for a code that ISO 4217 does not list, or that has no
            minor unit (gold, test codes).
    """
    try:
        found: int | None = iso4217.Currency(currency).exponent
    except ValueError:
        found = WITHDRAWN.get(currency)
    if found is None:
        raise MoneyError(
            "unknown_currency",
            f"{currency!r} is not an ISO 4217 currency with a minor unit.",
            "Give the three capital letters of the code, for example EUR.",
        )
    return found


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in int64 minor units of one currency; may be zero or negative.

    Raises:
        MoneyError: `bad_amount` when `minor` is not an int or does not fit int64,
            `unknown_currency` when the code is none of ISO 4217.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int:
            raise MoneyError("bad_amount", f"Minor units are an int, not {self.minor!r}.")
        if not -MAX_MINOR <= self.minor <= MAX_MINOR:
            raise MoneyError("bad_amount", f"{self.minor} minor units do not fit 64 bits.")
        exponent(self.currency)

    @classmethod
    def parse(cls, amount: str | Decimal | int, currency: str) -> Money:
        """The exact value of `amount`, given in units of the currency ("12.30" EUR is 1230 minor).

        Raises:
            MoneyError: `bad_amount` for a float, text that is no plain decimal number, a value with
                more decimals than the currency has, or one that does not fit int64 minor units.
        """
        places = exponent(currency)
        if type(amount) is str:
            whole, _, fraction = amount.partition(".")
            # The common form, digits with at most as many decimals as the currency, needs no Decimal.
            digits = whole + fraction
            # Thirty digits are beyond int64 anyway; thousands would be beyond int() itself.
            if (
                whole
                and len(digits) < 30
                and len(fraction) <= places
                and digits.isdigit()
                and digits.isascii()
            ):
                return cls(int(digits) * 10 ** (places - len(fraction)), currency)
        return cls(_exact_minor(amount, currency, places), currency)

    @classmethod
    def rounded(cls, amount: Decimal, currency: str, rounding: Rounding) -> Money:
        """`amount` (units, any number of decimals) rounded once to the currency's minor unit."""
        if not amount.is_finite():
            raise MoneyError("bad_amount", f"{amount!r} is not a finite Decimal.")
        unit = Decimal(1).scaleb(-exponent(currency))
        with decimal.localcontext(prec=60):
            return cls.parse(amount.quantize(unit, rounding=rounding.value), currency)

    @property
    def exponent(self) -> int:
        """Decimal places of the currency."""
        return exponent(self.currency)

    @property
    def amount(self) -> Decimal:
        """The amount in units, with exactly as many decimals as the currency has."""
        return Decimal(self.minor).scaleb(-self.exponent, _EXACT)

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same(other), self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor < self._same(other)

    def __le__(self, other: Money) -> bool:
        return self.minor <= self._same(other)

    def __gt__(self, other: Money) -> bool:
        return self.minor > self._same(other)

    def __ge__(self, other: Money) -> bool:
        return self.minor >= self._same(other)

    def __str__(self) -> str:
        return f"{self.amount:,} {self.currency}"

    def _same(self, other: Money) -> int:
        if not isinstance(other, Money):
            raise MoneyError("bad_amount", f"Money and {type(other).__name__} do not mix.")
        if other.currency != self.currency:
            raise MoneyError("currency_mismatch", f"{self.currency} and {other.currency} do not mix.")
        return other.minor


def _exact_minor(amount: object, currency: str, places: int) -> int:
    if isinstance(amount, bool) or not isinstance(amount, str | Decimal | int):
        raise MoneyError(
            "bad_amount",
            f"{amount!r} ({type(amount).__name__}) is not exact money.",
            "Give text, a Decimal or an int: a float can not hold cents.",
        )
    text = amount.strip() if isinstance(amount, str) else amount
    # int() and Decimal() take underscores, and Decimal() takes other scripts' digits: money does not.
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise MoneyError("bad_amount", f"{amount!r} is not a plain decimal number.")
    try:
        value = Decimal(text)
        if not value.is_finite() or abs(value.adjusted()) > 30:
            raise decimal.InvalidOperation
        scaled = value.scaleb(places, _EXACT)
        minor = int(scaled)
    except (decimal.InvalidOperation, decimal.Inexact) as error:
        raise MoneyError("bad_amount", f"{amount!r} is not a plain decimal number.") from error
    if minor != scaled:
        raise MoneyError(
            "bad_amount",
            f"{amount} has more decimals than {currency} has ({places}).",
            "Round it first: an amount is kept as it is given.",
        )
    return minor
