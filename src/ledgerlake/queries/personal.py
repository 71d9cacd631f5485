"""Personal data in the answers to queries: tokens, unless they are opened for someone who may see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledgerlake.privacy.protection import Protection
from ledgerlake.queries.audit import AuditResult, AuditStep
from ledgerlake.queries.bus import Ask, Middleware, Question
from ledgerlake.queries.payments import Payment, PaymentPage, PaymentResult


def opening(personal: Protection) -> Middleware:
    """Middleware that shows what tokens hold, or "(forgotten)", in answers about single payments.

    It belongs outermost: what a cache keeps, or a log writes, is then still a token.
    """

    def opened(question: Question, ask: Ask) -> Any:
        answer = ask(question)
        match answer:
            case PaymentResult(payment=payment):
                return replace(answer, payment=_payments(personal, (payment,))[0])
            case PaymentPage(payments=payments):
                return replace(answer, payments=_payments(personal, payments))
            case AuditResult(steps=steps):
                return replace(answer, steps=_steps(personal, steps))
        return answer

    return opened


# Only the fields that may be personal: an id that looks like a token is none.
def _payments(personal: Protection, payments: tuple[Payment, ...]) -> tuple[Payment, ...]:
    opened = personal.opened(tuple((p.user_id, p.last_failure_reason) for p in payments))
    return tuple(
        replace(payment, user_id=user_id, last_failure_reason=reason)
        for payment, (user_id, reason) in zip(payments, opened, strict=True)
    )


def _steps(personal: Protection, steps: tuple[AuditStep, ...]) -> tuple[AuditStep, ...]:
    opened = personal.opened(tuple((s.user_id, s.reason, s.metadata) for s in steps))
    return tuple(
        replace(step, user_id=user_id, reason=reason, metadata=metadata)
        for step, (user_id, reason, metadata) in zip(steps, opened, strict=True)
    )
