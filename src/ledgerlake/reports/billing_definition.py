"""What a billing report consists of: the columns of its two tables, and its control totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.columnar import AMOUNT
from ledgerlake.lake.definitions import Definition

_TIME: Final = pa.timestamp("ms", tz="UTC")
_LOCAL: Final = pa.timestamp("ms")
RATE: Final = pa.decimal128(38, 18)

# What a movement is. One whose period was closed when it came is a correction, whatever its movement.
MOVEMENTS: Final = ("charge", "refund", "unreferenced_credit", "failure")
CATEGORIES: Final = (*MOVEMENTS, "correction")


def _fields(nullable: bool, *columns: tuple[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=nullable) for name, kind in columns]


# One row a movement, in the order of the report: organization, booked_at, position. amount is what the
# movement does to the balance: a charge is positive, a refund and a credit negative, a failure zero; failed
# is what a failed attempt tried to charge. opening is what all movements of the organization in the currency
# came to before the interval.
ITEMISED: Final = Definition(
    "billing_itemised",
    "billing_itemised.sql",
    pa.schema(
        [
            *_fields(
                False,
                ("organization_id", pa.string()),
                ("event_id", pa.string()),
                ("position", pa.int64()),
                ("payment_id", pa.string()),
            ),
            pa.field("attempt", pa.int32()),
            *_fields(
                False,
                ("category", pa.string()),
                ("movement", pa.string()),
                ("occurred_at", _TIME),
                ("booked_at", _TIME),
                ("currency", pa.string()),
                ("exponent", pa.int8()),
                ("amount_minor", pa.int64()),
                ("amount", AMOUNT),
            ),
            *_fields(True, ("failed_minor", pa.int64()), ("failed", AMOUNT)),
            pa.field("opening_minor", pa.int64(), nullable=False),
            *_fields(
                True,
                ("reason", pa.string()),
                ("original_at", _TIME),
                ("original_event_id", pa.string()),
                ("user_id", pa.string()),
            ),
            pa.field("correlation_id", pa.string(), nullable=False),
            pa.field("command_id", pa.string()),
        ]
    ),
    version=2,
)

# Null but where a reporting currency is asked for; of a line without a rate, all but fx_currency are.
LINE_FX: Final = _fields(
    True,
    ("fx_currency", pa.string()),
    ("fx_rate", RATE),
    ("fx_rate_date", pa.date32()),
    ("fx_source", pa.string()),
    ("fx_amount_minor", pa.int64()),
    ("fx_amount", AMOUNT),
)
# What a file has beside the columns of the definition, and before which of them: `lines.py` makes them.
_ADDED: Final = {
    "organization_id": _fields(False, ("line", pa.int64()), ("line_id", pa.string())),
    "booked_at": _fields(False, ("occurred_local", _LOCAL), ("day", pa.date32())),
    "currency": _fields(False, ("period", pa.string()), ("occurred_period", pa.string())),
}
# What a file has in place of the opening balance: the running one, with this line (`balances.py`).
BALANCE: Final = _fields(False, ("balance_minor", pa.int64()), ("balance", AMOUNT))
ITEMISED_FILE: Final = pa.schema(
    [
        *(
            each
            for field in ITEMISED.schema
            for each in (BALANCE if field.name == "opening_minor" else (*_ADDED.get(field.name, ()), field))
        ),
        *LINE_FX,
    ]
)

# One row a currency and category, all categories for each currency that has a movement in the interval or a
# balance before it. Amounts are positive but for net = gross - refunded and balances; refunds include the
# credits that name no payment. opening and closing are the currency's, the same in all of its rows.
SUMMARY: Final = Definition(
    "billing_summary",
    "billing_summary.sql",
    pa.schema(
        _fields(
            False,
            ("number", pa.int32()),
            ("organization_id", pa.string()),
            ("currency", pa.string()),
            ("exponent", pa.int8()),
            ("category", pa.string()),
            ("count", pa.int64()),
            ("gross_minor", pa.int64()),
            ("gross", AMOUNT),
            ("refunds", pa.int64()),
            ("refunded_minor", pa.int64()),
            ("refunded", AMOUNT),
            ("net_minor", pa.int64()),
            ("net", AMOUNT),
            ("failures", pa.int64()),
            ("failed_minor", pa.int64()),
            ("failed", AMOUNT),
            ("opening_minor", pa.int64()),
            ("opening", AMOUNT),
            ("closing_minor", pa.int64()),
            ("closing", AMOUNT),
        )
    ),
    version=2,
)
SUMMARY_FX: Final = _fields(
    True,
    ("fx_currency", pa.string()),
    ("fx_gross_minor", pa.int64()),
    ("fx_gross", AMOUNT),
    ("fx_refunded_minor", pa.int64()),
    ("fx_refunded", AMOUNT),
    ("fx_net_minor", pa.int64()),
    ("fx_net", AMOUNT),
    ("unconverted", pa.int64()),
    ("fx_oldest_rate_date", pa.date32()),
)
SUMMARY_FILE: Final = pa.schema([*(each for each in SUMMARY.schema if each.name != "number"), *SUMMARY_FX])


@dataclass(frozen=True, slots=True)
class BillingTotals:
    """Counts and sums (minor units) of one currency; refunds include credits that name no payment."""

    currency: str
    charges: int = 0
    gross_minor: int = 0
    refunds: int = 0
    refunded_minor: int = 0
    failures: int = 0
    failed_minor: int = 0

    @property
    def net_minor(self) -> int:
        """What is left of the gross after refunds."""
        return self.gross_minor - self.refunded_minor

    @property
    def gross(self) -> Decimal:
        """Gross in units of the currency."""
        return self._units(self.gross_minor)

    @property
    def refunded(self) -> Decimal:
        """Refunds in units of the currency, as a positive number."""
        return self._units(self.refunded_minor)

    @property
    def net(self) -> Decimal:
        """Net in units of the currency."""
        return self._units(self.net_minor)

    @property
    def failed(self) -> Decimal:
        """What failed attempts tried to charge, in units of the currency."""
        return self._units(self.failed_minor)

    def __add__(self, other: BillingTotals) -> BillingTotals:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} can not be added.")
        return BillingTotals(
            self.currency,
            self.charges + other.charges,
            self.gross_minor + other.gross_minor,
            self.refunds + other.refunds,
            self.refunded_minor + other.refunded_minor,
            self.failures + other.failures,
            self.failed_minor + other.failed_minor,
        )

    def _units(self, minor: int) -> Decimal:
        return Decimal(minor).scaleb(-exponent(self.currency))


@dataclass(frozen=True, slots=True)
class ConvertedTotals:
    """Sums of converted lines (minor units of the reporting currency), and how many were left unconverted."""

    currency: str
    gross_minor: int = 0
    refunded_minor: int = 0
    unconverted: int = 0

    @property
    def gross(self) -> Decimal:
        """Gross in units of the reporting currency."""
        return Decimal(self.gross_minor).scaleb(-exponent(self.currency))

    @property
    def refunded(self) -> Decimal:
        """Refunds in units of the reporting currency, as a positive number."""
        return Decimal(self.refunded_minor).scaleb(-exponent(self.currency))

    @property
    def net(self) -> Decimal:
        """What is left of the gross after refunds."""
        return self.gross - self.refunded

    def with_rows(self, rows: Iterable[Mapping[str, Any]]) -> ConvertedTotals:
        """These and what the rows of a summary file add to them."""
        found = self
        for row in rows:
            found = ConvertedTotals(
                self.currency,
                found.gross_minor + row["fx_gross_minor"],
                found.refunded_minor + row["fx_refunded_minor"],
                found.unconverted + row["unconverted"],
            )
        return found


def totals_of_summary(rows: Iterable[Mapping[str, Any]]) -> tuple[BillingTotals, ...]:
    """Totals per currency of summary rows, also of several organizations; sorted by currency."""
    found: dict[str, BillingTotals] = {}
    for row in rows:
        currency = row["currency"]
        one = BillingTotals(
            currency,
            row["count"] - row["refunds"] - row["failures"],
            row["gross_minor"],
            row["refunds"],
            row["refunded_minor"],
            row["failures"],
            row["failed_minor"],
        )
        found[currency] = found.get(currency, BillingTotals(currency)) + one
    return tuple(found[currency] for currency in sorted(found))
