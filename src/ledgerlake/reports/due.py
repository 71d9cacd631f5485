"""Which months of the books are due to be closed, when they are closed by the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

from ledgerlake.mongo.indexes import EVENTS
from ledgerlake.reports.books import Books
from ledgerlake.reports.interval import Interval


def reopened(books: Books) -> str | None:
    """The first month that somebody reopened and nobody has closed again; such as "2011-11"."""
    closed = {entry.period for entry in books.closed()}
    return min(
        (entry.period for entry in books.entries if entry.action == "reopen" and entry.period not in closed),
        default=None,
    )


def due_period(db: Database[dict[str, Any]], books: Books, now: datetime, grace_days: int) -> str | None:
    """The last month that ended `grace_days` days ago or earlier, if it is still open; such as "2011-11".

    To be closed with all before it (`through`). None: nothing is due, nothing happened until then, or a month
    is `reopened`: whoever reopened it closes it.
    Reads all events once while no month was ever closed, and a list of closes after.
    """
    if reopened(books) is not None:
        return None
    month = Interval.month_of(now - timedelta(days=grace_days), books.zone).previous()
    closed = books.closed()
    if closed:
        return month.label if month.start >= closed[-1].end else None
    first = db[EVENTS].find_one({"timestamp": {"$lt": month.end}}, {"_id": 1})
    return None if first is None else month.label
