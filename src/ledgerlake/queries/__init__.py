"""Queries: typed questions to the read models, each answer with how fresh it is."""

from __future__ import annotations

from ledgerlake.queries.bus import QueryBus
from ledgerlake.queries.model import AsOf, PaymentNotFound, Query, QueryError
from ledgerlake.queries.movements import (
    GetStatistics,
    GetTrends,
    PaymentState,
    StatisticsResult,
    StatisticsRow,
    TrendRow,
    TrendsResult,
)
from ledgerlake.queries.payments import GetPayment, ListPayments, Payment, PaymentPage, PaymentResult

__all__ = [
    "AsOf",
    "GetPayment",
    "GetStatistics",
    "GetTrends",
    "ListPayments",
    "Payment",
    "PaymentNotFound",
    "PaymentPage",
    "PaymentResult",
    "PaymentState",
    "Query",
    "QueryBus",
    "QueryError",
    "StatisticsResult",
    "StatisticsRow",
    "TrendRow",
    "TrendsResult",
]
