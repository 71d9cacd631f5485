"""What a billing report consists of: the columns of its two tables, and its control totals."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from ledgerlake.domain.money import exponent
from ledgerlake.eventstore.columnar import AMOUNT
from ledgerlake.lake.definitions import Definition

_TIME: Final = pa.timestamp("ms", tz="UTC")

# One row a movement. amount_minor and amount are what the movement does to the balance: a charge is
# positive, a refund and a credit negative, a failure zero; failed_minor and failed are what a failed attempt
# tried to charge. So the sum of amount is the net of the month.
ITEMISED: Final = Definition(
    "billing_itemised",
    "billing_itemised.sql",
    pa.schema(
        [
            pa.field("organization_id", pa.string(), nullable=False),
            pa.field("event_id", pa.string(), nullable=False),
            pa.field("position", pa.int64(), nullable=False),
            pa.field("payment_id", pa.string(), nullable=False),
            pa.field("attempt", pa.int32()),
            pa.field("category", pa.string(), nullable=False),
            pa.field("occurred_at", _TIME, nullable=False),
            pa.field("day", pa.date32(), nullable=False),
            pa.field("currency", pa.string(), nullable=False),
            pa.field("exponent", pa.int8(), nullable=False),
            pa.field("amount_minor", pa.int64(), nullable=False),
            pa.field("amount", AMOUNT, nullable=False),
            pa.field("failed_minor", pa.int64()),
            pa.field("failed", AMOUNT),
            pa.field("user_id", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("correlation_id", pa.string(), nullable=False),
            pa.field("command_id", pa.string()),
        ]
    ),
)
CATEGORIES: Final = ("charge", "refund", "failure", "unreferenced_credit")

# The file has the line number (from 1, in the order of occurrence) as its first column.
LINE: Final = pa.field("line", pa.int64(), nullable=False)
ITEMISED_FILE: Final = pa.schema([LINE, *ITEMISED.schema])

# One row a currency; amounts are positive but for net = gross - refunded. `refunds` and `refunded` include
# the credits that name no payment, which `credits` and `credited` show by themselves.
SUMMARY: Final = Definition(
    "billing_summary",
    "billing_summary.sql",
    pa.schema(
        [
            pa.field(name, kind, nullable=False)
            for name, kind in (
                ("organization_id", pa.string()),
                ("currency", pa.string()),
                ("exponent", pa.int8()),
                ("charges", pa.int64()),
                ("gross_minor", pa.int64()),
                ("gross", AMOUNT),
                ("refunds", pa.int64()),
                ("refunded_minor", pa.int64()),
                ("refunded", AMOUNT),
                ("credits", pa.int64()),
                ("credited_minor", pa.int64()),
                ("credited", AMOUNT),
                ("net_minor", pa.int64()),
                ("net", AMOUNT),
                ("failures", pa.int64()),
                ("failed_minor", pa.int64()),
                ("failed", AMOUNT),
            )
        ]
    ),
)


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


def totals_of_summary(rows: list[dict[str, Any]]) -> tuple[BillingTotals, ...]:
    """Totals per currency of summary rows, also of several organizations; sorted by currency."""
    found: dict[str, BillingTotals] = {}
    for row in rows:
        currency = row["currency"]
        one = BillingTotals(
            currency,
            row["charges"],
            row["gross_minor"],
            row["refunds"],
            row["refunded_minor"],
            row["failures"],
            row["failed_minor"],
        )
        found[currency] = found.get(currency, BillingTotals(currency)) + one
    return tuple(found[currency] for currency in sorted(found))


def totals_of_lines(lines: pa.Table) -> dict[str, BillingTotals]:
    """Totals per currency of itemised lines, to hold against the summary."""
    wide = pa.table(
        {
            "currency": lines["currency"],
            "category": lines["category"],
            "amount": lines["amount_minor"].cast(pa.decimal128(38, 0)),
            "failed": lines["failed_minor"].cast(pa.decimal128(38, 0)),
        }
    )
    grouped = wide.group_by(["currency", "category"]).aggregate(
        [("amount", "count"), ("amount", "sum"), ("failed", "sum")]
    )
    found: dict[str, BillingTotals] = {}
    for row in grouped.to_pylist():
        currency, category, count = row["currency"], row["category"], row["amount_count"]
        minor = int(row["amount_sum"])
        if category == "charge":
            one = BillingTotals(currency, charges=count, gross_minor=minor)
        elif category == "failure":
            one = BillingTotals(currency, failures=count, failed_minor=int(row["failed_sum"]))
        else:
            one = BillingTotals(currency, refunds=count, refunded_minor=-minor)
        found[currency] = found.get(currency, BillingTotals(currency)) + one
    return found
