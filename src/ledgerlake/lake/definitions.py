"""Statistics, trends and reports as SQL texts with declared results.

Each SQL text yields keys, counts and sums of minor units, in a subset that DuckDB and Spark share. What
the subset cannot do exactly, decimals and averages, is derived from those in Arrow or Python. The result
is cast to the declared schema, so that every engine gives the identical table.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ledgerlake.eventstore.columnar import AMOUNT, scale
from ledgerlake.lake.errors import LakeError

if TYPE_CHECKING:
    from ledgerlake.lake.engines import Connection

_TIME: Final = pa.timestamp("ms", tz="UTC")
# An average has two decimals more than the currency, which has at most four.
AVERAGE: Final = pa.decimal128(38, 6)


@dataclass(frozen=True, slots=True)
class Definition:
    """A result of the lake: the SQL text behind it, and the columns it is cast to.

    A column `x` that the text does not yield is derived: an amount from `x_minor` and `exponent`, and
    `average` from `total_minor`, `count` and `exponent`.
    """

    name: str
    sql_file: str
    schema: pa.Schema
    # What stands for {mark} in the text: a word, or the name of another text.
    replace: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    @property
    def sql(self) -> str:
        """The SQL text; reads a view `events` with the columns of the event log's schema."""
        text = _text(self.sql_file)
        for mark, value in self.replace.items():
            text = text.replace("{" + mark + "}", _text(value) if value.endswith(".sql") else value)
        return text

    def run(self, connection: Connection, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The result on an engine's connection, which has the view `events`.

        Raises:
            LakeError: a sum exceeds 64 bits, or a required column has a null (an unknown event type).
        """
        return self.declare(connection.sql(self.sql, params=parameters).to_arrow_table())

    def stream(
        self, connection: Connection, parameters: Mapping[str, Any], rows: int
    ) -> Generator[pa.Table, None, None]:
        """The result of `run` in tables of up to `rows` rows, for results that memory should not hold."""
        with connection.sql(self.sql, params=parameters).to_arrow_reader(rows) as reader:
            for batch in reader:
                yield self.declare(pa.Table.from_batches([batch]))

    def declare(self, found: pa.Table) -> pa.Table:
        """An engine's result with the derived columns, in the declared types and order."""
        columns = []
        for wanted in self.schema:
            try:
                columns.append(_column(found, wanted))
            except pa.ArrowInvalid as error:
                raise LakeError(
                    f"{self.name}: a value of {wanted.name} does not fit {wanted.type} ({error})."
                ) from error
            if columns[-1].null_count and not wanted.nullable:
                raise LakeError(
                    f"{self.name}: {wanted.name} is unknown for some events.",
                    "They are of a type that this version does not know: use the newer version.",
                )
        return pa.Table.from_arrays(columns, schema=self.schema)


@cache
def _text(name: str) -> str:
    return (files("ledgerlake.lake") / "sql" / name).read_text("utf-8")


def _column(found: pa.Table, wanted: pa.Field) -> pa.ChunkedArray:
    if wanted.name in found.column_names:
        return found[wanted.name].cast(wanted.type)
    if wanted.name == "average":
        return _averages(found)
    return scale(found[f"{wanted.name}_minor"].cast(pa.int64()), found["exponent"])


def _averages(found: pa.Table) -> pa.ChunkedArray:
    averages = []
    rows = zip(*(found[c].to_pylist() for c in ("total_minor", "count", "exponent")), strict=True)
    with localcontext(prec=60, rounding=ROUND_HALF_EVEN):
        for total, count, exponent in rows:
            exact = Decimal(int(total)).scaleb(-exponent) / count
            averages.append(exact.quantize(Decimal(1).scaleb(-exponent - 2)))
    return pa.chunked_array([pa.array(averages, AVERAGE)])


def _required(**columns: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in columns.items()]


STATISTICS: Final = Definition(
    "payment_statistics",
    "payment_statistics.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            status=pa.string(),
            currency=pa.string(),
            count=pa.int64(),
            total_minor=pa.int64(),
            total=AMOUNT,
            average=AVERAGE,
            min_minor=pa.int64(),
            min=AMOUNT,
            max_minor=pa.int64(),
            max=AMOUNT,
            first_at=_TIME,
            last_at=_TIME,
        )
    ),
)

STATES: Final = Definition(
    "payment_states",
    "payment_states.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            status=pa.string(),
            unreferenced=pa.bool_(),
            currency=pa.string(),
            count=pa.int64(),
            amount_minor=pa.int64(),
            amount=AMOUNT,
            refunded_minor=pa.int64(),
            refunded=AMOUNT,
        )
    ),
    {"payments": "payments.sql"},
)

PAYMENTS: Final = Definition(
    "payments",
    "payments.sql",
    pa.schema(
        _required(
            payment_id=pa.string(),
            organization_id=pa.string(),
            currency=pa.string(),
            status=pa.string(),
            unreferenced=pa.bool_(),
            amount_minor=pa.int64(),
            refunded_minor=pa.int64(),
            attempts=pa.int64(),
            failures=pa.int64(),
            refunds=pa.int64(),
        )
        + [pa.field(name, _TIME) for name in ("completed_at", "first_refund_at", "first_failed_at")]
        + _required(failures_before=pa.int64(), version=pa.int64())
    ),
)

# Computed when an analyst asks for it, and kept nowhere.
REFUND_COHORTS: Final = Definition(
    "refund_cohorts",
    "refund_cohorts.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            period=pa.date32(),
            currency=pa.string(),
            payments=pa.int64(),
            amount_minor=pa.int64(),
            refunded_payments=pa.int64(),
            refunded_minor=pa.int64(),
        )
    ),
    {"payments": "payments.sql"},
)

# What follows is kept in MongoDB only: reconciliation compares it with these.
REFUND_LATENCY: Final = Definition(
    "refund_latency",
    "refund_latency.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            day=pa.date32(),
            currency=pa.string(),
            bucket=pa.int64(),
            payments=pa.int64(),
        )
    ),
    {"payments": "payments.sql"},
)

RETRY_RECOVERY: Final = Definition(
    "retry_recovery",
    "retry_recovery.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            day=pa.date32(),
            currency=pa.string(),
            failures_before=pa.int64(),
            recovered=pa.bool_(),
            payments=pa.int64(),
            amount_minor=pa.int64(),
        )
    ),
    {"payments": "payments.sql"},
)

FAILURE_REASONS: Final = Definition(
    "failure_reasons",
    "failure_reasons.sql",
    pa.schema(
        [
            *_required(organization_id=pa.string(), day=pa.date32(), currency=pa.string()),
            pa.field("reason", pa.string()),
            *_required(count=pa.int64(), total_minor=pa.int64()),
        ]
    ),
)

QUARTERS: Final = Definition(
    "payment_quarters",
    "payment_quarters.sql",
    pa.schema(
        _required(
            organization_id=pa.string(),
            quarter=_TIME,
            currency=pa.string(),
            status=pa.string(),
            count=pa.int64(),
            total_minor=pa.int64(),
        )
    ),
)

_TRENDS: Final = pa.schema(
    _required(
        organization_id=pa.string(),
        period=pa.date32(),
        currency=pa.string(),
        status=pa.string(),
        count=pa.int64(),
        total_minor=pa.int64(),
        total=AMOUNT,
        min_minor=pa.int64(),
        max_minor=pa.int64(),
    )
)

GRANULARITIES: Final = ("day", "week", "month")
TRENDS: Final = {
    each: Definition(f"payment_trends_{each}", "payment_trends.sql", _TRENDS, {"granularity": each})
    for each in GRANULARITIES
}
