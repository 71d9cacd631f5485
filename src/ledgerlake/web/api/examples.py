"""Examples for the description of the API, one for each answer."""

from __future__ import annotations

from typing import Any, Final

_AS_OF: Final = {"position": 1204, "time": "2026-03-01T12:00:01.250000Z"}
_PAYMENT: Final = {
    "payment_id": "P-1001",
    "organization_id": "acme",
    "user_id": "u-17",
    "currency": "EUR",
    "status": "partially_refunded",
    "unreferenced": False,
    "amount": "12.30",
    "refunded": "2.30",
    "net": "10.00",
    "attempts": 1,
    "failures": 0,
    "refunds": 1,
    "last_failure_reason": None,
    "opened_at": "2026-03-01T12:00:00Z",
    "first_at": "2026-03-01T12:00:00Z",
    "last_at": "2026-03-02T09:00:00Z",
    "completed_at": "2026-03-01T12:00:00Z",
    "version": 2,
    "position": 1204,
}
_ROW: Final = {
    "organization_id": "acme",
    "status": "completed",
    "currency": "EUR",
    "count": 42,
    "total_minor": 506100,
    "total": "5061.00",
    "average": "120.5000",
    "min": "12.50",
    "max": "999.00",
}
_STATE: Final = {
    "organization_id": "acme",
    "status": "completed",
    "unreferenced": False,
    "currency": "EUR",
    "count": 40,
    "amount_minor": 480000,
    "amount": "4800.00",
    "refunded_minor": 0,
    "refunded": "0.00",
}
_TREND: Final = {
    "period": "2026-03-01",
    "organization_id": "acme",
    "currency": "EUR",
    "status": "completed",
    "count": 3,
    "total_minor": 3690,
    "total": "36.90",
}
_STEP: Final = {
    "what": "PaymentProcessed",
    "recorded_at": "2026-03-01T12:00:01.250000Z",
    "occurred_at": "2026-03-01T12:00:00Z",
    "amount": "12.30",
    "currency": "EUR",
    "user_id": "u-17",
    "organization_id": "acme",
    "reason": None,
    "command_id": "order-778-charge-1",
    "correlation_id": "order-778",
    "causation_id": "order-778",
    "metadata": {"channel": "web"},
    "version": 1,
    "position": 1203,
    "refused": None,
    "state": {
        "status": "completed",
        "currency": "EUR",
        "processed": "12.30",
        "refunded": "0.00",
        "left": "12.30",
    },
}


def _answer(example: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}


TAG: Final = {"ETag": {"schema": {"type": "string"}, "description": "Another one for another answer"}}
STATISTICS: Final = {
    **_answer({"rows": [_ROW], "payment_states": [_STATE], "as_of": _AS_OF, "states_as_of": _AS_OF}),
    "headers": TAG,
}
TRENDS: Final = {**_answer({"rows": [_TREND], "as_of": _AS_OF}), "headers": TAG}
PAYMENT: Final = _answer({"payment": _PAYMENT, "as_of": _AS_OF})
PAYMENTS: Final = _answer({"payments": [_PAYMENT], "next_cursor": None, "as_of": _AS_OF})
AUDIT: Final = _answer({"payment_id": "P-1001", "steps": [_STEP], "as_of": _AS_OF, "older_refusals": False})
