"""Billing reports from the lake."""

from __future__ import annotations

from ledgerlake.reports.billing_definition import BillingTotals
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.monthly import BillingReport, billing
from ledgerlake.reports.refresh import BillingRefresh, refresh_billing

__all__ = ["BillingRefresh", "BillingReport", "BillingTotals", "ReportError", "billing", "refresh_billing"]
