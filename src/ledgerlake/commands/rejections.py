"""The record of what the rules refused: nothing that someone asked for is dropped.

A rejection is no event: it changes no payment. It is kept under the command's id, so a repeated import
adds nothing, and when the same command is accepted later (a refund that came before its payment) the
record stays and says since when it no longer holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.database import Database

from ledgerlake.commands.bus import Handler, Middleware
from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected


@dataclass(frozen=True, slots=True)
class Rejection:
    """A command that was refused, with its fields as text, as they were given.

    `key` is the command id, or where a row has none, what else names it ("file-digest:line").
    """

    key: str
    command_id: str | None
    command: str | None
    payment_id: str | None
    organization_id: str | None
    user_id: str | None
    amount: str | None
    currency: str | None
    occurred_at: str | None
    reason_code: str
    detail: str
    file: str | None = None
    line: int | None = None


class RejectionLog:
    """The command_rejections collection."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._rejections = database["command_rejections"]
        self._events = database["events"]

    def record(self, rejections: Sequence[Rejection]) -> None:
        """Keep each rejection, once per key; a later, different reason replaces the earlier one."""
        if not rejections:
            return
        now = datetime.now(UTC)
        self._rejections.bulk_write(
            [
                UpdateOne(
                    {"_id": rejection.key},
                    {"$set": _document(rejection), "$setOnInsert": {"rejectedAt": now}},
                    upsert=True,
                )
                for rejection in rejections
            ],
            ordered=False,
        )
        # Another writer may have had the same command accepted meanwhile, and looked here before we wrote.
        keys = [rejection.key for rejection in rejections]
        accepted = self._events.find({"commandId": {"$in": keys}}, {"_id": 0, "commandId": 1})
        self.resolve([event["commandId"] for event in accepted])

    def resolve(self, command_ids: Sequence[str]) -> None:
        """Note that these commands were accepted after all, where they had been refused."""
        if command_ids:
            self._rejections.update_many(
                {"_id": {"$in": list(command_ids)}, "resolvedAt": None},
                {"$set": {"resolvedAt": datetime.now(UTC)}},
            )


def rejections_middleware(log: RejectionLog) -> Middleware:
    """Keep what the rules refuse, and clear what they accept on another try."""

    def keep(command: PaymentCommand, handle: Handler) -> CommandResult:
        try:
            result = handle(command)
        except CommandRejected as rejected:
            log.record([rejection_of(command, rejected)])
            raise
        log.resolve([command.command_id])
        return result

    return keep


def rejection_of(
    command: PaymentCommand, rejected: CommandRejected, file: str | None = None, line: int | None = None
) -> Rejection:
    """The record of a command, well-formed as such, that the rules refused."""
    return Rejection(
        key=rejection_key(command.command_id, rejected.code),
        command_id=command.command_id,
        command=command.name,
        payment_id=getattr(command, "payment_id", None),
        organization_id=command.organization_id,
        user_id=command.user_id,
        amount=str(command.amount.amount),
        currency=command.amount.currency,
        occurred_at=command.occurred_at.isoformat(),
        reason_code=rejected.code,
        detail=str(rejected),
        file=file,
        line=line,
    )


def rejection_key(command_id: str, code: str) -> str:
    # A reused id belongs to another command, one that is in the log: it must not be taken for its rejection.
    return f"{command_id}#reused" if code == "command_id_reused" else command_id


def _document(rejection: Rejection) -> dict[str, Any]:
    return {
        "commandId": rejection.command_id,
        "command": rejection.command,
        "paymentId": rejection.payment_id,
        "organizationId": rejection.organization_id,
        "userId": rejection.user_id,
        "amount": rejection.amount,
        "currency": rejection.currency,
        "occurredAt": rejection.occurred_at,
        "reasonCode": rejection.reason_code,
        "detail": rejection.detail,
        "source": {"file": rejection.file, "line": rejection.line},
        "resolvedAt": None,
    }
