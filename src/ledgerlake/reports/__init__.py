"""Billing reports from the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledgerlake.reports.billing_definition import BillingTotals
    from ledgerlake.reports.errors import ReportError
    from ledgerlake.reports.monthly import BillingReport, billing
    from ledgerlake.reports.refresh import BillingRefresh, refresh_billing

__all__ = ["BillingRefresh", "BillingReport", "BillingTotals", "ReportError", "billing", "refresh_billing"]

_HOMES = {
    "BillingRefresh": "refresh",
    "BillingReport": "monthly",
    "BillingTotals": "billing_definition",
    "ReportError": "errors",
    "billing": "monthly",
    "refresh_billing": "refresh",
}


def __getattr__(name: str) -> Any:
    # On demand: the command line imports reports.cli, and must not pay for pyarrow before it is used.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"ledgerlake.reports.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
