"""What questions about figures share: whose and which days, exact sums, shares."""

from __future__ import annotations

import decimal
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias

from pymongo.client_session import ClientSession

from ledgerlake.domain.money import exponent
from ledgerlake.projections import checkpoint
from ledgerlake.projections.payments import PAYMENTS
from ledgerlake.queries.model import Db, QueryError, day, text

Wanted: TypeAlias = dict[str, Any]

# Bounds that hold everything: with one an index serves the question, and no collection is scanned.
_EVERY_DAY: Final = datetime.min.replace(tzinfo=UTC)
_SHARE: Final = Decimal("0.0001")


def of(organization_id: str | None) -> Wanted:
    """The filter for one organization, or for all.

    Raises:
        QueryError: it is no text.
    """
    wanted = {"$gte": ""} if organization_id is None else text("organization_id", organization_id)
    return {"organizationId": wanted}


def interval(start: date | None, end: date | None) -> tuple[date | None, date | None]:
    """The days [start, end), either of which may be open.

    Raises:
        QueryError: one is no day, or they end before they start.
    """
    start = None if start is None else day("start", start)
    end = None if end is None else day("end", end)
    if start is not None and end is not None and end < start:
        raise QueryError(f"The interval ends ({end}) before it starts ({start}).")
    return start, end


def days(organization_id: str | None, start: date | None, end: date | None) -> Wanted:
    """The filter for the UTC days [start, end) of one organization, or of all.

    Raises:
        QueryError: as `of` and `interval`.
    """
    start, end = interval(start, end)
    wanted: Wanted = {} if organization_id is None else of(organization_id)
    wanted["day"] = {"$gte": _EVERY_DAY if start is None else midnight(start)}
    if end is not None:
        wanted["day"]["$lt"] = midnight(end)
    return wanted


def midnight(of_day: date) -> datetime:
    """The instant at which a UTC day begins."""
    return datetime.combine(of_day, time(), UTC)


def units(minor: float, currency: str) -> Decimal:
    """Minor units in units of the currency. Raises QueryError as `exact`."""
    return Decimal(exact(minor)).scaleb(-exponent(currency))


def exact(total: float) -> int:
    """A sum as the server gives it. It turns into a float, and is rounded, where 64 bits are too few.

    Raises:
        QueryError: it has.
    """
    if isinstance(total, float):
        raise QueryError(
            f"A sum of about {total:.6g} minor units does not fit 64 bits.",
            "Ask for one organization, or for fewer days.",
        )
    return int(total)


def share(part: int, whole: int) -> Decimal | None:
    """part / whole, rounded half-even to four decimals; None of nothing."""
    if whole == 0:
        return None
    with decimal.localcontext(prec=50):
        return (Decimal(part) / Decimal(whole)).quantize(_SHARE, rounding=decimal.ROUND_HALF_EVEN)


def no_empty(*totals: str) -> dict[str, Any]:
    """The stage that drops groups whose totals are all 0.

    A projection that is split keeps totals of each worker: what was counted before the split is taken out in
    the document of another, and such a group is one that an unsplit projection does not have.
    """
    return {"$match": {"$or": [{total: {"$ne": 0}} for total in totals]}}


def has_totals(db: Db, session: ClientSession) -> bool:
    """Whether the live read model of payments has totals: version 1 of it, until it is rebuilt, has none."""
    version = checkpoint(db, PAYMENTS.name, session).version
    return version is None or version > 1


def check_totals(db: Db, session: ClientSession) -> None:
    """Raises QueryError where the live read model of payments has no totals yet."""
    if not has_totals(db, session):
        raise QueryError(
            f"{PAYMENTS.name} was filled by an earlier version of this program, which did not count this.",
            "Run `ledgerlake refresh`: it fills it anew.",
        )
