"""The analyst's view: lake and reports behind one import, without MongoDB.

    from ledgerlake import Lake
    lake = Lake.open()
    lake.sql("SELECT currency, count(*) FROM events GROUP BY currency")

Everything a `Lake` gives is as of one position in the event log, however long the session lasts and
whatever is refreshed meanwhile. Amounts are integers of minor units (`*_minor`) or exact decimals. Personal
data stays what it is in the files: tokens, which nothing here can open.
"""

from __future__ import annotations

from ledgerlake.analyst.lake import Lake
from ledgerlake.analyst.source import NothingYet

__all__ = ["Lake", "NothingYet"]
