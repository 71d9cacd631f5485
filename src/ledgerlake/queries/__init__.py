"""Queries: typed questions to the read models, each answer with how fresh it is."""

from __future__ import annotations

from ledgerlake.queries.audit import AuditResult, AuditStep, GetAudit, Refusal, StateAfter
from ledgerlake.queries.bus import QueryBus
from ledgerlake.queries.failures import FailureReasonRow, FailureReasonsResult, GetFailureReasons
from ledgerlake.queries.freshness import Freshness, NotYet
from ledgerlake.queries.history import GetPaymentAt
from ledgerlake.queries.model import AsOf, DocumentQuery, LogQuery, PaymentNotFound, Query, QueryError
from ledgerlake.queries.movements import (
    GetStatistics,
    GetTrends,
    PaymentState,
    StatisticsResult,
    StatisticsRow,
    TrendRow,
    TrendsResult,
)
from ledgerlake.queries.organizations import GetOrganization, OrganizationResult, OrganizationVolume
from ledgerlake.queries.payments import GetPayment, ListPayments, Payment, PaymentPage, PaymentResult
from ledgerlake.queries.recovery import GetRetryRecovery, RetryRecoveryResult, RetryRecoveryRow
from ledgerlake.queries.refunds import (
    GetRefundLatency,
    LatencyBucket,
    RefundLatencyResult,
    RefundLatencyRow,
)

__all__ = [
    "AsOf",
    "AuditResult",
    "AuditStep",
    "DocumentQuery",
    "FailureReasonRow",
    "FailureReasonsResult",
    "Freshness",
    "GetAudit",
    "GetFailureReasons",
    "GetOrganization",
    "GetPayment",
    "GetPaymentAt",
    "GetRefundLatency",
    "GetRetryRecovery",
    "GetStatistics",
    "GetTrends",
    "LatencyBucket",
    "ListPayments",
    "LogQuery",
    "NotYet",
    "OrganizationResult",
    "OrganizationVolume",
    "Payment",
    "PaymentNotFound",
    "PaymentPage",
    "PaymentResult",
    "PaymentState",
    "Query",
    "QueryBus",
    "QueryError",
    "RefundLatencyResult",
    "RefundLatencyRow",
    "Refusal",
    "RetryRecoveryResult",
    "RetryRecoveryRow",
    "StateAfter",
    "StatisticsResult",
    "StatisticsRow",
    "TrendRow",
    "TrendsResult",
]
