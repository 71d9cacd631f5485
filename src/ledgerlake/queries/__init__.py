"""Queries: typed questions to the read models, each answer with how fresh it is."""

from __future__ import annotations

from ledgerlake.queries.audit import AuditResult, AuditStep, GetAudit, Refusal, StateAfter
from ledgerlake.queries.bus import QueryBus
from ledgerlake.queries.history import GetPaymentAt
from ledgerlake.queries.model import AsOf, LogQuery, PaymentNotFound, Query, QueryError
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
    "AuditResult",
    "AuditStep",
    "GetAudit",
    "GetPayment",
    "GetPaymentAt",
    "GetStatistics",
    "GetTrends",
    "ListPayments",
    "LogQuery",
    "Payment",
    "PaymentNotFound",
    "PaymentPage",
    "PaymentResult",
    "PaymentState",
    "Query",
    "QueryBus",
    "QueryError",
    "Refusal",
    "StateAfter",
    "StatisticsResult",
    "StatisticsRow",
    "TrendRow",
    "TrendsResult",
]
