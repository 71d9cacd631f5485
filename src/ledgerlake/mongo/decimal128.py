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
        minor: any int64; up to 113 bits and a sign would fit.
    """
    sign, coefficient = (_NEGATIVE, -minor) if minor < 0 else (0, minor)
    # The two 64-bit halves, as Decimal128 keeps them: bytes in between would cost three times as much.
    halves = (sign | exponent_bits(exponent) | coefficient >> 64, coefficient & _LOW)
    return Decimal128(halves)  # type: ignore[arg-type]  # documented, but missing in its annotation


def exponent_bits(exponent: int) -> int:
    """The high half of a positive Decimal128 with `exponent` decimals, but for a coefficient over 64 bits."""
    return (_BIAS - exponent) << 49
