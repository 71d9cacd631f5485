"""Charts of payments: a Polars frame in, a plotly figure out, a panel per currency.

Pure: nothing is read, written or shown. Frames are those of Lake, as DataFrame or LazyFrame: trends (a row
per organization, period, currency and status), payments (a row per payment), events (a row per event).
Amounts stay minor units until they are drawn, hovers give them exactly, and no chart adds one currency to
another. An empty frame gives a figure that says so.
"""

from __future__ import annotations

from ledgerlake.charts.anomalies import anomalies
from ledgerlake.charts.calendar import calendar
from ledgerlake.charts.concentration import concentration
from ledgerlake.charts.failures import failure_pareto, retry_funnel
from ledgerlake.charts.latency import refund_latency
from ledgerlake.charts.measures import TRENDS_COLUMNS, ChartError, Granularity, Measure, summary
from ledgerlake.charts.narrow import narrow
from ledgerlake.charts.organizations import top_organizations
from ledgerlake.charts.refunds import refund_cohorts, refund_rate
from ledgerlake.charts.restatement import restatement
from ledgerlake.charts.retention import retention
from ledgerlake.charts.success import success_by_payment, success_rate
from ledgerlake.charts.theme import to_json
from ledgerlake.charts.volume import volume
from ledgerlake.charts.waterfall import waterfall

__all__ = [
    "TRENDS_COLUMNS",
    "ChartError",
    "Granularity",
    "Measure",
    "anomalies",
    "calendar",
    "concentration",
    "failure_pareto",
    "narrow",
    "refund_cohorts",
    "refund_latency",
    "refund_rate",
    "restatement",
    "retention",
    "retry_funnel",
    "success_by_payment",
    "success_rate",
    "summary",
    "to_json",
    "top_organizations",
    "volume",
    "waterfall",
]
