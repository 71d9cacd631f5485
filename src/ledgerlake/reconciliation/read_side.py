"""Read models, statistics and trends in MongoDB, each as of its own checkpoint, against the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from ledgerlake.domain.money import MoneyError, exponent
from ledgerlake.projections import (
    PROJECTIONS,
    checkpoint,
    checkpoints,
    collection_of,
    dead_letters,
    model,
)
from ledgerlake.reconciliation.log import Document, Log, LogFigures
from ledgerlake.reconciliation.model import Check, Figure, Figures, Key, checked, described, differing
from ledgerlake.reconciliation.payments import differing_payments

_READ_MODELS, _STATISTICS, _TRENDS = "payment_read_models", "payment_statistics", "payment_trends"
# Naming payments reads all events of an organization and currency: the worst few are enough to start with.
GROUPS_LOOKED_INTO = 3
NOT_BUILT: Final = "not built: run `ledgerlake refresh`"


def positions(log: Log) -> dict[str, int]:
    """The checkpoint of each projection."""
    names = (_READ_MODELS, _STATISTICS, _TRENDS, "payment_quarters", "failure_reasons")
    return {name: checkpoint(log.db, name, log.session).position for name in names}


def dropped(log: Log) -> bool:
    """Whether a read model of the snapshot is gone by now: a rebuild has replaced it, and it was dropped."""
    there = set(log.db.list_collection_names())
    for name in PROJECTIONS:
        seen = checkpoint(log.db, name, log.session).generation
        if checkpoint(log.db, name).generation != seen and collection_of(name, seen) not in there:
            return True
    return False


def uneven(log: Log, name: str) -> str | None:
    """Why a projection that is split can not be compared: its workers do not stand at one position."""
    found = [each.position for _, each in checkpoints.slots(log.db, name, log.session)]
    if len(set(found)) < 2:
        return None
    return f"not compared: its {len(found)} workers stand between {min(found):,} and {max(found):,}"


def check_read_models(log: Log, position: int) -> Check:
    """Counts and sums of payments against the log's events; names up to ten payments a group that differ."""
    expected = log.at(position).figures
    actual, wrong = _read_model_figures(log)
    keys = differing(expected, actual)
    differences = described(expected, actual, keys, "read models") + [text for _, text in wrong]
    groups = list(dict.fromkeys(key[:2] for key in (*keys, *(key for key, _ in wrong))))
    for organization, currency in groups[:GROUPS_LOOKED_INTO]:
        differences += differing_payments(log, organization, currency, position)
    return of_part(log, "payment read models", _READ_MODELS, position, differences, (expected, actual))


def check_statistics(log: Log, position: int) -> Check:
    """Every figure of every statistic against the log's events."""
    truth = log.at(position)
    actual: dict[Key, Figure] = {}
    wrong: list[str] = []
    for row in model(log.db, _STATISTICS, log.session).find({}, session=log.session):
        key = (row["organizationId"], row["currency"], row["status"])
        actual[key] = Figure(row["count"], row["totalMinor"])
        wrong += _wrong_statistic(key, row, truth)
    keys = differing(truth.figures, actual)
    differences = described(truth.figures, actual, keys, "statistics") + wrong
    return of_part(log, "payment statistics", _STATISTICS, position, differences, (truth.figures, actual))


def check_trends(log: Log, position: int) -> Check:
    """Trends, summed over their days, against the log's events."""
    expected = log.at(position).figures
    group = {
        "_id": {"organization": "$organizationId", "currency": "$currency", "status": "$status"},
        "count": {"$sum": "$count"},
        "minor": {"$sum": {"$toDecimal": "$totalMinor"}},
        "total": {"$sum": "$total"},
    }
    actual: dict[Key, Figure] = {}
    wrong: list[str] = []
    for row in model(log.db, _TRENDS, log.session).aggregate([{"$group": group}], session=log.session):
        found = row["_id"]
        key = (found["organization"], found["currency"], found["status"])
        actual[key] = Figure(row["count"], _integer(row["minor"]))
        wrong += _wrong_decimal(key, "total", row["total"], _integer(row["minor"]))
    keys = differing(expected, actual)
    differences = described(expected, actual, keys, "trends") + wrong
    return of_part(log, "payment trends", _TRENDS, position, differences, (expected, actual))


def check_dead_letters(log: Log) -> Check:
    """No projection has set events aside; names those that one has, which is why it can not agree."""
    differences = [text for name in PROJECTIONS for text in dead_letters.described(log.db, name, log.session)]
    return checked("dead letters", "events that projections have set aside", differences)


def of_part(
    log: Log,
    name: str,
    part: str,
    position: int,
    differences: Iterable[str],
    figures: tuple[Figures, Figures] | None = None,
    detail: str | None = None,
) -> Check:
    """A check of a part as of its own position. A part at position 0 beside a log with events is not built.

    `figures` are those expected and found. `detail` says something else than the position.
    """
    unbuilt = [NOT_BUILT] if position == 0 < log.head else []
    check = checked(
        name,
        as_of(log, position) if detail is None or unbuilt else detail,
        [*unbuilt, *differences],
        *(figures or ()),
    )
    return replace(check, part=part, position=position, lag=max(log.head - position, 0))


def as_of(log: Log, position: int) -> str:
    """Where a layer stands, in words."""
    if position == 0 < log.head:
        return "not built"
    behind = f", {log.head - position:,} behind the head" if position < log.head else ""
    return f"as of position {position:,}{behind}"


def _read_model_figures(log: Log) -> tuple[Figures, list[tuple[Key, str]]]:
    group: dict[str, Any] = {
        "_id": {
            "organization": "$organizationId",
            "currency": "$currency",
            "failed": {"$eq": ["$status", "failed"]},
            "unreferenced": "$unreferenced",
        },
        "count": {"$sum": 1},
        **{name: {"$sum": f"${name}"} for name in ("failures", "refunds", "attempts")},
        **{
            f"{name}Minor": {"$sum": {"$toDecimal": f"${name}Minor"}}
            for name in ("amount", "refunded", "net")
        },
        **{name: {"$sum": f"${name}"} for name in ("amount", "refunded", "net")},
    }
    figures: dict[Key, Figure] = {}
    wrong: list[tuple[Key, str]] = []

    def add(organization: str, currency: str, status: str, count: int, minor: int | None) -> None:
        key = (organization, currency, status)
        before = figures.get(key, Figure(0, 0))
        if count or minor:
            figures[key] = Figure(
                before.count + count, None if minor is None else (before.minor or 0) + minor
            )

    for row in model(log.db, _READ_MODELS, log.session).aggregate([{"$group": group}], session=log.session):
        found = row["_id"]
        organization, currency = found["organization"], found["currency"]
        sums = {name: _integer(row[f"{name}Minor"]) for name in ("amount", "refunded", "net")}
        processed = 0 if found["failed"] or found["unreferenced"] else sums["amount"]
        completed = 0 if found["failed"] or found["unreferenced"] else row["count"]
        add(organization, currency, "completed", completed, processed)
        add(organization, currency, "refunded", row["refunds"], sums["refunded"])
        add(organization, currency, "failed", row["failures"], None)  # earlier attempts' amounts are not kept
        key = (organization, currency, "payments")
        if sums["net"] != processed - sums["refunded"]:
            wrong.append((key, f"{_named(key)}: net is not processed minus refunded"))
        if row["attempts"] != completed + row["failures"]:
            wrong.append((key, f"{_named(key)}: attempts are not completions and failures"))
        for name, minor in sums.items():
            wrong += [(key, text) for text in _wrong_decimal(key, name, row[name], minor)]
    return figures, wrong


def _wrong_statistic(key: Key, row: Document, truth: LogFigures) -> list[str]:
    extent = truth.extents.get(key)
    if extent is None:
        return []  # the count differs, and is told already
    wrong = []
    expected = {
        "minMinor": extent.low,
        "maxMinor": extent.high,
        "firstAt": extent.first,
        "lastAt": extent.last,
    }
    for name, value in expected.items():
        if row[name] != value:
            wrong.append(f"{_named(key)}: {name} is {row[name]}, the log has {value}")
    for name in ("total", "min", "max"):
        wrong += _wrong_decimal(key, name, row[name], row[f"{name}Minor"])
    places = exponent(key[1])
    average = row["average"].to_decimal()
    # Half a unit of the last digit: the average is rounded there.
    tolerance = Decimal(5).scaleb(-places - 3)
    if abs(average * row["count"] - Decimal(row["totalMinor"]).scaleb(-places)) > tolerance * row["count"]:
        wrong.append(f"{_named(key)}: average {average} is not total by count")
    return wrong


def _wrong_decimal(key: Key, name: str, amount: Any, minor: int) -> list[str]:
    try:
        expected = Decimal(minor).scaleb(-exponent(key[1]))
    except MoneyError:
        return [f"{_named(key)}: {key[1]!r} is no currency of ISO 4217"]
    found = amount.to_decimal() if hasattr(amount, "to_decimal") else amount
    return [] if found == expected else [f"{_named(key)}: {name} is {found}, its minor units are {expected}"]


def _integer(value: Any) -> int:
    return int(value.to_decimal()) if hasattr(value, "to_decimal") else int(value)


def _named(key: Key) -> str:
    return f"organization {key[0]!r}, {key[1]} {key[2]}"
