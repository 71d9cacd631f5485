"""Billing reports from the lake."""

from __future__ import annotations

from ledgerlake.reports.billing import billing
from ledgerlake.reports.billing_definition import BillingTotals
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.refresh import BillingRefresh, refresh_billing
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import BillingReport

__all__ = [
    "BillingRefresh",
    "BillingReport",
    "BillingTotals",
    "Interval",
    "ReportError",
    "ReportSpec",
    "billing",
    "refresh_billing",
]
