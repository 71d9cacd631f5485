"""Reports as they lie there against what the events say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from ledgerlake.domain.money import Money, exponent
from ledgerlake.eventstore.columnar import AMOUNT
from ledgerlake.lake.errors import LakeError
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.manifest import MANIFEST, Manifest, file_facts, read_manifest
from ledgerlake.reports.slug import slug

_FIGURES: Final = ("gross", "refunded", "net", "failed", "opening", "closing")
_SIDES: Final = ("reports", "lake", "difference")
_FEW: Final = 5
_UNITS: Final = pl.Decimal(AMOUNT.precision, AMOUNT.scale)
_COMPARED: Final[dict[str, Any]] = {
    "currency": pl.String,
    "exponent": pl.Int8,
    "of": pl.String,
    "organizations": pl.Int64,
    "movements": pl.Int64,
    **{f"{each}{part}": kind for each in _FIGURES for part, kind in (("_minor", pl.Int64), ("", _UNITS))},
    "differing": pl.List(pl.String),
}


def manifests(folder: Path, organization: str | None) -> dict[str, Manifest]:
    """The manifests in a month's folder, by organization.

    Raises:
        LakeError: there is none, or one is damaged.
    """
    wanted = "*" if organization is None else slug(organization)
    try:
        found = [read_manifest(path.parent) for path in sorted(folder.glob(f"{wanted}/{MANIFEST}"))]
    except ReportError as error:
        raise LakeError(f"{error}", "Run `ledgerlake report verify`, and `ledgerlake refresh`.") from error
    if not found:
        whose = "" if organization is None else f" of {organization!r}"
        raise LakeError(
            f"There is no report{whose} in {folder}.",
            "Run `ledgerlake refresh`, then open the lake anew.",
        )
    return {each.facts["organization"]: each for each in found}


def _altered(folder: Path, manifest: Manifest) -> bool:
    """Whether a file of a report is not the one that its manifest names."""
    try:
        return any(file_facts(folder / name) != told for name, told in manifest.files.items())
    except OSError:
        return True


def compared(folder: Path, reports: Mapping[str, Manifest], summary: list[dict[str, Any]]) -> pl.DataFrame:
    """Three rows a currency: what the reports in a folder say, what the events say (`summary`: rows of the
    report's definition), and the difference.
    """
    altered = {name for name, each in reports.items() if _altered(folder / slug(name), each)}
    told = _by_organization(
        [{**row, "organization_id": name} for name, each in reports.items() for row in each.content["totals"]]
    )
    given = _by_organization(summary)
    rows = []
    for currency in sorted({currency for _, currency in {*told, *given}}):
        sides = [
            {name: figures for (name, of), figures in found.items() if of == currency}
            for found in (told, given)
        ]
        names = {*sides[0], *sides[1]}
        wrong = sorted(name for name in names if sides[0].get(name) != sides[1].get(name) or name in altered)
        sums = [
            {figure: sum(each[figure] for each in side.values()) for figure in ("movements", *_FIGURES)}
            for side in sides
        ]
        sums.append({figure: sums[0][figure] - sums[1][figure] for figure in sums[0]})
        counts = (len(sides[0]), len(sides[1]), len(wrong))
        for side, count, of in zip(_SIDES, counts, sums, strict=True):
            row: dict[str, Any] = {"currency": currency, "exponent": exponent(currency), "of": side}
            row |= {"organizations": count, "movements": of["movements"]}
            for figure in _FIGURES:
                row |= {f"{figure}_minor": of[figure], figure: Money(of[figure], currency).amount}
            rows.append({**row, "differing": wrong[:_FEW] if side == _SIDES[2] else []})
    return pl.DataFrame(rows, _COMPARED)


def _by_organization(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    """The rows of summaries, added up over the categories; balances are the same in all of these."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sums = found[row["organization_id"], row["currency"]]
        sums["movements"] += row["count"]
        for figure in _FIGURES[:4]:
            sums[figure] += row[f"{figure}_minor"]
        for figure in _FIGURES[4:]:
            sums[figure] = row[f"{figure}_minor"]
    return found
