"""The record of what the rules refused: nothing that someone asked for is dropped.

A rejection is no event: it changes no payment. It is kept under the command's id and content, so a
repeated import adds nothing, and when the same command is accepted later (a refund that came before its
payment) the record stays and says since when it no longer holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import UpdateOne
from pymongo.database import Database

from ledgerlake.commands.bus import BatchHandler, BatchMiddleware
from ledgerlake.commands.model import CommandOutcome
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.privacy.fields import PersonalFields
from ledgerlake.privacy.protection import Protection
from ledgerlake.privacy.token import is_token


@dataclass(frozen=True, slots=True)
class Rejection:
    """A command that was refused, with its fields as text, as they were given.

    `key` names it for ever: made of its id and its content, so that the same refusal is kept once and
    different ones beside each other. `request_hash` is None for a row that is no well-formed command.
    """

    key: str
    request_hash: str | None
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


_NOTHING_PERSONAL: Final = Protection(PersonalFields(), None)


class RejectionLog:
    """The command_rejections collection. `personal` says whether user ids go in as tokens."""

    def __init__(self, database: Database[dict[str, Any]], personal: Protection = _NOTHING_PERSONAL) -> None:
        self._rejections = database["command_rejections"]
        self._events = database["events"]
        self._personal = personal

    @property
    def unhashed(self) -> frozenset[str]:
        """The fields that no hash of a rejection may cover, since they are personal."""
        return self._personal.unhashed

    def record(self, rejections: Sequence[Rejection]) -> Sequence[Rejection]:
        """Keep each rejection, once per key; a later, different reason replaces the earlier one.

        Returns them as they were kept: with tokens where users are personal.
        """
        if not rejections:
            return rejections
        rejections = self._protected(rejections)
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
        hashes = {r.command_id: r.request_hash for r in rejections if r.request_hash is not None}
        stored = self._events.find(
            {"commandId": {"$in": [command_id for command_id in hashes if command_id is not None]}},
            {"_id": 0, "commandId": 1, "metadata.requestHash": 1},
        )
        self._resolve(
            [rejection_key(event["commandId"], event["metadata"].get("requestHash", "")) for event in stored]
        )
        return rejections

    def resolve(self, accepted: Sequence[PaymentCommand], *, fresh: Collection[str] = ()) -> None:
        """Note that commands were accepted after all, where they had been refused.

        Args:
            accepted: commands that are in the log, stored now or before.
            fresh: ids of those that were stored now: they also settle rows of that id that were no
                well-formed command when they were refused, and have been mended since.
        """
        if not accepted or self._rejections.find_one({}, {"_id": 1}) is None:
            return
        self._resolve([rejection_key(c.command_id, c.request_hash(self.unhashed)) for c in accepted])
        if fresh:
            self._update({"commandId": {"$in": list(fresh)}, "requestHash": None})

    def _protected(self, rejections: Sequence[Rejection]) -> Sequence[Rejection]:
        # What only looks like a token was given by somebody: in quotes nothing will open it.
        rejections = [
            replace(r, user_id=repr(r.user_id)) if r.user_id is not None and is_token(r.user_id) else r
            for r in rejections
        ]
        tokens = self._personal.tokens({r.user_id for r in rejections if r.user_id is not None})
        return [r if r.user_id is None else replace(r, user_id=tokens[r.user_id]) for r in rejections]

    def _resolve(self, keys: Sequence[str]) -> None:
        if keys:
            self._update({"_id": {"$in": list(keys)}})

    def _update(self, wanted: dict[str, Any]) -> None:
        self._rejections.update_many(
            {**wanted, "resolvedAt": None}, {"$set": {"resolvedAt": datetime.now(UTC)}}
        )


def rejections_batches(log: RejectionLog) -> BatchMiddleware:
    """Keep what the rules refuse, and clear what they accept on another try."""

    def keep(commands: Sequence[PaymentCommand], handle: BatchHandler) -> Sequence[CommandOutcome]:
        outcomes = handle(commands)
        accepted: list[tuple[PaymentCommand, bool]] = []
        refused: list[Rejection] = []
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, CommandRejected):
                refused.append(rejection_of(command, outcome, unhashed=log.unhashed))
            else:
                accepted.append((command, outcome.duplicate))
        _clear(log, accepted)
        log.record(refused)
        return outcomes

    return keep


def _clear(log: RejectionLog, accepted: Sequence[tuple[PaymentCommand, bool]]) -> None:
    fresh = [command.command_id for command, duplicate in accepted if not duplicate]
    log.resolve([command for command, _ in accepted], fresh=fresh)


def _storable(text: str) -> str:
    """The text, cut to what is kept; what no UTF-8 can hold is kept in a form that it can."""
    return text.encode("utf-8", "backslashreplace").decode()[:_LONGEST_KEPT]


def rejection_of(
    command: PaymentCommand,
    rejected: CommandRejected,
    file: str | None = None,
    line: int | None = None,
    *,
    unhashed: Collection[str] = (),
) -> Rejection:
    """The record of a command, well-formed as such, that the rules refused; `unhashed` are personal."""
    request_hash = command.request_hash(unhashed)
    payment_id: str | None = getattr(command, "payment_id", None)
    return Rejection(
        key=rejection_key(_storable(command.command_id), request_hash),
        request_hash=request_hash,
        command_id=_storable(command.command_id),
        command=command.name,
        payment_id=None if payment_id is None else _storable(payment_id),
        organization_id=_storable(command.organization_id),
        user_id=None if command.user_id is None else _storable(command.user_id),
        amount=str(command.amount.amount),
        currency=command.amount.currency,
        occurred_at=command.occurred_at.isoformat(),
        reason_code=rejected.code,
        detail=_storable(str(rejected)),
        file=file,
        line=line,
    )


def rejection_of_fields(
    fields: Mapping[str, Any],
    rejected: CommandRejected,
    origin: str,
    file: str | None = None,
    line: int | None = None,
    *,
    unhashed: Collection[str] = (),
) -> Rejection:
    """The record of a row, or of a command line's words, that is no well-formed command.

    `origin` tells it from others like it where it has no command id; `unhashed` fields are personal.
    """

    def text(column: str) -> str | None:
        value = fields.get(column)
        if value is None or str(value).strip() == "":
            return None
        return _storable(str(value).strip())

    columns = {name: text(name) for name in _COLUMNS}
    content = "".join(f"{name}={value}\n" for name, value in columns.items() if name not in unhashed)
    digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return Rejection(
        key=rejection_key(columns["command_id"] or origin, digest),
        request_hash=None,
        reason_code=rejected.code,
        detail=_storable(str(rejected)),
        file=file,
        line=line,
        **columns,
    )


_COLUMNS = (
    "command_id",
    "command",
    "payment_id",
    "organization_id",
    "user_id",
    "amount",
    "currency",
    "occurred_at",
)
_LONGEST_KEPT = 4_096


def rejection_key(command_id: str, content_hash: str) -> str:
    """The _id of a rejection: the command's id, and what was asked under it."""
    return f"{command_id}#{content_hash}"


def _document(rejection: Rejection) -> dict[str, Any]:
    return {
        "commandId": rejection.command_id,
        "requestHash": rejection.request_hash,
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
