"""Decimal128 straight from integer minor units, without a detour through Decimal and text."""

from __future__ import annotations

from bson import Decimal128

# IEEE 754-2008 decimal128, binary integer encoding: sign bit, 14 bits of biased exponent, coefficient.
_BIAS = 6176
_NEGATIVE = 1 << 63
_LOW = (1 << 64) - 1


def decimal128(minor: int, exponent: int) -> Decimal128:
    """The exact Decimal128 of `minor` / 10**exponent, with `exponent` decimals (1250, 2 is 12.50).

    Args:
        minor: any int64; at most 113 bits and a sign would fit.
    """
    sign, coefficient = (_NEGATIVE, -minor) if minor < 0 else (0, minor)
    # The two 64-bit halves, as Decimal128 keeps them: no bytes in between, they would cost twice as much.
    high = sign | (_BIAS - exponent) << 49 | coefficient >> 64
    return Decimal128((high, coefficient & _LOW))  # type: ignore[arg-type]  # documented, but not in the stubs
