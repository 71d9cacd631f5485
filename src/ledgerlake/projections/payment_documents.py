"""Documents of payment_read_models as BSON, written column by column.

A document's numbers, dates and amounts have a fixed size and stand together at its end: numpy lays them
out for a whole batch at once. Texts, and what may be null, come before them and are joined document by
document. That costs a fifth of a dict for each payment and its encoding, which was most of an advance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import polars as pl
from bson.raw_bson import RawBSONDocument

from ledgerlake.domain.money import exponent
from ledgerlake.mongo.decimal128 import exponent_bits

# BSON type, and how numpy holds the value. A decimal is its low and its high 64 bits, as BSON has them.
_BOOL: Final = (b"\x08", "u1")
_INT: Final = (b"\x10", "<i4")
_LONG: Final = (b"\x12", "<i8")
_DATE: Final = (b"\x09", "<i8")
_DECIMAL: Final = (b"\x13", [("low", "<u8"), ("high", "<u8")])
_NEGATIVE: Final = np.uint64(1 << 63)

_FIXED: Final[dict[str, tuple[bytes, Any]]] = {
    "unreferenced": _BOOL,
    "amountMinor": _LONG,
    "amount": _DECIMAL,
    "refundedMinor": _LONG,
    "refunded": _DECIMAL,
    "netMinor": _LONG,
    "net": _DECIMAL,
    "attempts": _INT,
    "failures": _INT,
    "refunds": _INT,
    "failuresBefore": _INT,
    "openedAt": _DATE,
    "firstAt": _DATE,
    "lastAt": _DATE,
    "version": _LONG,
    "firstPosition": _LONG,
    "position": _LONG,
}


def _template() -> Any:
    """One document's fixed fields: each value, unset, behind its BSON type and name."""
    names = {field: kind + field.encode() + b"\0" for field, (kind, _) in _FIXED.items()}
    layout = [
        part
        for field, (_, held) in _FIXED.items()
        for part in ((f"{field} name", f"V{len(names[field])}"), (field, held))
    ]
    template = np.zeros((), np.dtype(layout))
    for field, name in names.items():
        template[f"{field} name"] = np.void(name)
    return template


_TEMPLATE: Final = _template()


def payment_documents(states: pl.DataFrame) -> list[RawBSONDocument]:
    """A document for each row, in the order of the rows.

    Args:
        states: columns named as the document's fields, `key` for its id; amounts as their minor units
            only, int64; dates as timestamps in milliseconds. No nulls but in userId, lastFailureReason,
            completedAt, firstRefundAt and firstFailedAt.
    """
    fixed = _fixed_fields(states)
    width = _TEMPLATE.itemsize
    documents: list[RawBSONDocument] = []
    texts = states.select(
        "key", "organizationId", "currency", "status", "userId", "lastFailureReason",
        pl.col("completedAt", "firstRefundAt", "firstFailedAt").cast(pl.Int64),
    )  # fmt: skip
    start = 0
    for key, organization, currency, status, user, reason, completed, refunded, failed in texts.iter_rows():
        name = _text(key)
        end = start + width
        content = b"".join(
            (
                b"\x02_id\0",
                name,
                b"\x02paymentId\0",
                name,
                _group(organization, currency, status),
                b"\x0auserId\0" if user is None else b"\x02userId\0" + _text(user),
                b"\x0alastFailureReason\0" if reason is None else b"\x02lastFailureReason\0" + _text(reason),
                b"\x0acompletedAt\0" if completed is None else b"\x09completedAt\0" + _date(completed),
                b"\x0afirstRefundAt\0" if refunded is None else b"\x09firstRefundAt\0" + _date(refunded),
                b"\x0afirstFailedAt\0" if failed is None else b"\x09firstFailedAt\0" + _date(failed),
                fixed[start:end],
                b"\0",
            )
        )
        documents.append(RawBSONDocument((len(content) + 4).to_bytes(4, "little") + content))
        start = end
    return documents


def _fixed_fields(states: pl.DataFrame) -> bytes:
    rows = np.full(states.height, _TEMPLATE)
    exponents = {currency: exponent_bits(exponent(currency)) for currency in states["currency"].unique()}
    high = states["currency"].replace_strict(exponents, return_dtype=pl.UInt64).to_numpy()
    for field, kind in _FIXED.items():
        if kind is _DECIMAL:
            minor = states[f"{field}Minor"].to_numpy()
            negative = minor < 0
            rows[field]["low"] = np.where(negative, -minor, minor).view(np.uint64)
            rows[field]["high"] = np.where(negative, high | _NEGATIVE, high)
        elif kind is _DATE:
            rows[field] = states[field].cast(pl.Int64).to_numpy()
        else:
            rows[field] = states[field].to_numpy()
    return rows.tobytes()


@lru_cache(maxsize=10_000)
def _group(organization: str, currency: str, status: str) -> bytes:
    """The fields that many payments have in common."""
    return b"".join(
        (
            b"\x02organizationId\0",
            _text(organization),
            b"\x02currency\0",
            _text(currency),
            b"\x02status\0",
            _text(status),
        )
    )


def _date(milliseconds: int) -> bytes:
    return milliseconds.to_bytes(8, "little", signed=True)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return (len(encoded) + 1).to_bytes(4, "little") + encoded + b"\0"
