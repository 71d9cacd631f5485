"""The result of a verification, and the comparison of figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeAlias

from ledgerlake.domain.money import MoneyError, exponent

MOST_DIFFERENCES: Final = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of events and the sum of their amounts in minor units (None where a layer keeps no sum)."""

    count: int
    minor: int | None


# Organization, currency, outcome (completed, failed, refunded).
Key: TypeAlias = tuple[str, str, str]
Figures: TypeAlias = Mapping[Key, Figure]
# Currency -> outcome -> count and total (as text, in units).
Totals: TypeAlias = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: what it found (`detail`), and what differs, at most 20 differences.

    `expected` and `actual` are totals per currency and outcome, where the check compares such. `part` is
    what the check looks at; `position` is how far that has come, and `lag` by how many events it is behind.
    """

    name: str
    ok: bool
    detail: str
    expected: Totals = field(default_factory=dict)
    actual: Totals = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    part: str | None = None
    position: int | None = None
    lag: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks, with the log as of `head`."""

    ok: bool
    head: int
    checks: tuple[Check, ...]

    @property
    def behind(self) -> dict[str, int]:
        """The parts that are behind the head of the log, and by how many events."""
        return {check.part: check.lag for check in self.checks if check.part and check.lag}


def checked(
    name: str,
    detail: str,
    differences: Iterable[str],
    expected: Figures | None = None,
    actual: Figures | None = None,
) -> Check:
    """A check that is in order if there are no differences."""
    found = list(differences)
    shown = tuple(found[:MOST_DIFFERENCES])
    if len(found) > len(shown):
        shown = (*shown, f"... and {len(found) - len(shown)} more")
    return Check(name, not found, detail, totals(expected or {}), totals(actual or {}), shown)


def differing(expected: Figures, actual: Figures) -> list[Key]:
    """Keys whose figures differ; a sum that one side does not keep is not compared."""
    nothing = Figure(0, 0)
    return [key for key in sorted({*expected, *actual}) if not _same(expected, actual, key, nothing)]


def _same(expected: Figures, actual: Figures, key: Key, nothing: Figure) -> bool:
    one, other = expected.get(key, nothing), actual.get(key, nothing)
    sums = (one.minor, other.minor)
    return one.count == other.count and (None in sums or sums[0] == sums[1])


def described(expected: Figures, actual: Figures, keys: Iterable[Key], layer: str) -> list[str]:
    """A sentence for each key: what the log has, and what the layer has."""
    nothing = Figure(0, 0)
    return [
        f"organization {key[0]!r}, {key[1]} {key[2]}: log {_text(expected.get(key, nothing), key[1])},"
        f" {layer} {_text(actual.get(key, nothing), key[1])}"
        for key in keys
    ]


def totals(figures: Figures) -> Totals:
    """The figures summed over organizations."""
    summed: dict[tuple[str, str], Figure] = {}
    for (_, currency, status), figure in figures.items():
        before = summed.get((currency, status), Figure(0, 0))
        known = before.minor is not None and figure.minor is not None
        minor = (before.minor or 0) + (figure.minor or 0) if known else None
        summed[currency, status] = Figure(before.count + figure.count, minor)
    found: Totals = {}
    for (currency, status), figure in sorted(summed.items()):
        total = None if figure.minor is None else units(figure.minor, currency)
        found.setdefault(currency, {})[status] = {"count": figure.count, "total": total}
    return found


def units(minor: int, currency: str) -> str:
    """Minor units as text in units of the currency."""
    try:
        return format(Decimal(minor).scaleb(-exponent(currency)), "f")
    except MoneyError:
        return f"{minor} minor units"


def _text(figure: Figure, currency: str) -> str:
    events = f"{figure.count} event{'' if figure.count == 1 else 's'}"
    return events if figure.minor is None else f"{events}, {units(figure.minor, currency)}"
