"""Charts of payments: a Polars frame of trends in, a plotly figure out, a panel per currency.

Pure: nothing is read, written or shown. Amounts stay minor units until they are drawn, hovers give them
exactly, and no chart adds one currency to another.
"""

from __future__ import annotations

from ledgerlake.charts.measures import TRENDS_COLUMNS, ChartError, Granularity, summary
from ledgerlake.charts.organizations import top_organizations
from ledgerlake.charts.refunds import refund_rate
from ledgerlake.charts.success import success_rate
from ledgerlake.charts.volume import volume

__all__ = [
    "TRENDS_COLUMNS",
    "ChartError",
    "Granularity",
    "refund_rate",
    "success_rate",
    "summary",
    "top_organizations",
    "volume",
]
