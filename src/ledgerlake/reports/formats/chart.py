"""Charts of a report's page as plain SVG: nothing to load, sharp in print, in the colours of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from ledgerlake.reports.formats.totals import units

# The drawing is stretched to its box, so texts are HTML beside it and lines keep their width.
_WIDTH, _HEIGHT = 1000, 200
_STEPS: Final = 4
_LABELS: Final = 5
_SUFFIXES: Final = ((9, "bn"), (6, "M"), (3, "k"))


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in one currency in a day, a week or a month; amounts are minor units.

    `charged` and `returned` are positive, `balance` is the one after it.
    """

    label: str
    charged: int
    returned: int
    balance: int


def movements(points: Sequence[Point], currency: str, digits: int, every: str) -> str:
    """Bars of what was charged (up) and what went back (down)."""
    scale = _Scale(
        min((-point.returned for point in points), default=0),
        max((point.charged for point in points), default=0),
    )
    wide = _WIDTH / max(len(points), 1)
    bar = _n(wide * 0.72)
    bars = []
    for at, point in enumerate(points):
        for kind, name, minor in (("in", "charged", point.charged), ("out", "went back", -point.returned)):
            if minor:
                top, bottom = sorted((scale.y(minor), scale.y(0)))
                bars.append(
                    f'<rect class="{kind}" x="{_n(wide * (at + 0.14))}" y="{_n(top)}" width="{bar}"'
                    f' height="{_n(bottom - top)}"><title>{escape(point.label)}: {units(abs(minor), digits)}'
                    f" {escape(currency)} {name}</title></rect>"
                )
    caption = (
        f'<span class="key in"></span> Charges, and <span class="key out"></span> what went back,'
        f" per {every}, {escape(currency)}"
    )
    described = (
        f"Bar chart of charges and refunds per {every} in {currency}; the same figures are in the table."
    )
    return _figure(caption, described, "".join(bars), scale, [point.label for point in points], digits)


def balance(points: Sequence[Point], opening: int, currency: str, digits: int, every: str) -> str:
    """The balance after each period, as steps from the opening one."""
    values = [opening, *(point.balance for point in points)]
    scale = _Scale(min(0, *values), max(0, *values))
    wide = _WIDTH / max(len(points), 1)
    steps = [f"M0 {_n(scale.y(opening))}"]
    for at, point in enumerate(points):
        steps.append(f"V{_n(scale.y(point.balance))}H{_n(wide * (at + 1))}")
    line = f'<path class="balance" d="{"".join(steps)}"/>'
    described = (
        f"Line chart of the balance in {currency}: {units(values[0], digits)} before, "
        f"{units(values[-1], digits)} after."
    )
    caption = f"Balance at the end of each {every}, {escape(currency)}"
    return _figure(caption, described, line, scale, [point.label for point in points], digits)


class _Scale:
    """Whole steps of 1, 2 or 5 times a power of ten that hold everything, zero too."""

    def __init__(self, lowest: int, highest: int) -> None:
        step = 1
        while (-(lowest // step)) + (-(-highest // step)) > _STEPS:
            step = step * 5 // 2 if str(step)[0] == "2" else step * 2
        self.bottom = lowest // step * step
        self.top = max(-(-highest // step) * step, self.bottom + step)
        self.ticks = range(self.bottom, self.top + 1, step)

    def y(self, minor: int) -> float:
        return _HEIGHT * (self.top - minor) / (self.top - self.bottom)


def _figure(
    caption: str, described: str, drawing: str, scale: _Scale, labels: Sequence[str], digits: int
) -> str:
    grid = "".join(
        f'<path class="{"zero" if not tick else "grid"}" d="M0 {_n(scale.y(tick))}H{_WIDTH}"/>'
        for tick in scale.ticks
    )
    ticks = "".join(
        f'<span style="top:{_n(100 * scale.y(tick) / _HEIGHT)}%">{_short(tick, digits)}</span>'
        for tick in scale.ticks
    )
    shown = "".join(f"<span>{escape(label)}</span>" for label in _some(labels))
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="plot">'
        f'<div class="ticks" aria-hidden="true">{ticks}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(described)}">{grid}{drawing}</svg></div>'
        f'<div class="labels" aria-hidden="true">{shown}</div></figure>'
    )


def _some(labels: Sequence[str]) -> Iterator[str]:
    """At most _LABELS of them, evenly apart, the first and the last among them."""
    gaps = min(_LABELS, len(labels)) - 1
    if gaps < 1:
        yield from labels
        return
    for at in range(gaps + 1):
        yield labels[round(at * (len(labels) - 1) / gaps)]


def _short(minor: int, digits: int) -> str:
    """A tick as a reader wants it: 1.5M rather than 1500000.00. Ticks have few digits, so it is exact."""
    for power, suffix in _SUFFIXES:
        if abs(minor) >= 10 ** (power + digits):
            return _plain(minor, power + digits) + suffix
    return _plain(minor, digits)


def _plain(minor: int, digits: int) -> str:
    text = units(minor, digits)
    return text.rstrip("0").rstrip(".") if digits else text


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
