"""Moments of the ledger, as people name them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from ledgerlake.lake.errors import LakeError


def position_or_instant(given: int | str | date | datetime) -> int | datetime:
    """A position, or the last instant (UTC) that counts; see `Lake.as_of`.

    Raises:
        LakeError: it is neither, or still to come.
    """
    found: int | date = given if not isinstance(given, str) else _parsed(given)
    if isinstance(found, bool) or not isinstance(found, int | date):
        raise _no_moment(given)
    if isinstance(found, int):
        return found
    now = datetime.now(UTC)
    if isinstance(found, datetime):
        instant = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    else:
        start = datetime.combine(found, datetime.min.time(), UTC)
        instant = start + timedelta(days=1, milliseconds=-1)
        if start <= now < instant:
            instant = now  # today, so far
    if instant > now:
        raise LakeError(f"{given} has not come yet.", "Name a moment that is past.")
    return instant


def _parsed(text: str) -> int | date:
    try:
        if text.isdecimal():
            return int(text)
        return date.fromisoformat(text) if len(text) == len("2011-11-30") else datetime.fromisoformat(text)
    except ValueError:
        raise _no_moment(text) from None


def _no_moment(given: object) -> LakeError:
    return LakeError(
        f"{given!r} is no position, instant or day.",
        'Give a position such as 1200, a day such as "2011-11-30", or an instant such as'
        ' "2011-12-01T09:30Z".',
    )
