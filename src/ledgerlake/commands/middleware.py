"""Middleware of the command bus: each wraps the rest of the chain."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from ledgerlake.commands.bus import BatchHandler, Handler
from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.privacy.token import PREFIX, is_token

log = logging.getLogger("ledgerlake.commands")


def logging_middleware(command: PaymentCommand, handle: Handler) -> CommandResult:
    """Log what became of each command and how long it took; ids and codes only, nothing personal."""
    started = time.perf_counter()
    try:
        result = handle(command)
    except CommandRejected as error:
        _tell(command, error, started)
        raise
    except Exception as error:
        _tell_failure(command, error)
        raise
    _tell(command, result, started)
    return result


def logging_batches(commands: Sequence[PaymentCommand], handle: BatchHandler) -> Sequence[CommandOutcome]:
    """`logging_middleware` for batches; each command took as long as all."""
    started = time.perf_counter()
    try:
        outcomes = handle(commands)
    except Exception as error:
        for command in commands:
            _tell_failure(command, error)
        raise
    for command, outcome in zip(commands, outcomes, strict=True):
        _tell(command, outcome, started)
    return outcomes


def _tell(command: PaymentCommand, result: CommandOutcome, started: float) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    if isinstance(result, CommandRejected):
        log.info(
            "%s %s rejected: %s",
            command.name,
            command.command_id,
            result.code,
            extra=_fields(command, result.code),
        )
    else:
        milliseconds = (time.perf_counter() - started) * 1000
        outcome = "was done before" if result.duplicate else "done"
        log.info(
            "%s %s %s at position %d in %.1f ms",
            command.name,
            command.command_id,
            outcome,
            result.position,
            milliseconds,
            extra={
                **_fields(command, outcome),
                "position": result.position,
                "milliseconds": round(milliseconds, 1),
            },
        )


def _tell_failure(command: PaymentCommand, error: Exception) -> None:
    kind = type(error).__name__
    log.warning("%s %s failed: %s", command.name, command.command_id, kind, extra=_fields(command, kind))


def _fields(command: PaymentCommand, outcome: str) -> dict[str, str]:
    """What a structured log keeps beside the message (`ledgerlake.telemetry.logs`)."""
    return {
        "command": command.name,
        "commandId": command.command_id,
        "correlationId": command.correlation_id or command.command_id,
        "streamId": command.stream_id,
        "outcome": outcome,
    }


def validation_batches(commands: Sequence[PaymentCommand], handle: BatchHandler) -> Sequence[CommandOutcome]:
    """Refuse commands whose fields can not be stored, before anything is read or written for them."""
    refused: dict[int, CommandOutcome] = {}
    for number, command in enumerate(commands):
        try:
            validate(command)
        except CommandRejected as error:
            refused[number] = error
    if not refused:
        return handle(commands)
    handled = iter(handle([command for number, command in enumerate(commands) if number not in refused]))
    return [refused[number] if number in refused else next(handled) for number in range(len(commands))]


# Longer ids would not fit an index key well, and no source has them; a reason is a sentence, not a file.
MAX_ID_LENGTH = 512
MAX_TEXT_LENGTH = 4_096
# Reports count in months: the month after the last one must exist. 9999-12-31 is what sources write for
# "no date", and an event with such a date could never be taken back.
FIRST_YEAR, LAST_YEAR = 1900, 9998
# It becomes the name of a field, and is not encrypted.
_DETAIL = re.compile(r"[A-Za-z0-9_-]{1,64}")


def validate(command: PaymentCommand) -> None:
    """Check the fields that every command has.

    Raises:
        CommandRejected: naming the first field that is missing, too long, no text or out of range.
    """
    ids = [("command_id", command.command_id), ("organization_id", command.organization_id)]
    payment_id: str | None = getattr(command, "payment_id", None)
    if payment_id is not None or command.name != "RefundPayment":
        ids.append(("payment_id", payment_id or ""))
    for name, value in ids:
        if not value or not value.strip():
            raise CommandRejected(f"missing_{name}", f"{name} is missing.")
    for name, text in (*ids, ("user_id", command.user_id or "")):
        _check_text(name, text, MAX_ID_LENGTH)
    _check_text("reason", command.reason or "", MAX_TEXT_LENGTH)
    for key, text in command.metadata.items():
        _check_text("metadata", key + text, MAX_TEXT_LENGTH)
        _check_no_token("metadata", text)
    for key, text in command.personal.items():
        if not _DETAIL.fullmatch(key):
            raise CommandRejected(
                "bad_personal", "The name of a personal detail is up to 64 of A-Z a-z 0-9 _ -."
            )
        _check_text("personal", text, MAX_TEXT_LENGTH)
    if command.occurred_at.tzinfo is None:
        raise CommandRejected("bad_date", "occurred_at has no time zone.")
    if not FIRST_YEAR <= command.occurred_at.year <= LAST_YEAR:
        raise CommandRejected("bad_date", f"occurred_at is not in the years {FIRST_YEAR} to {LAST_YEAR}.")


def _check_text(name: str, text: str, longest: int) -> None:
    # isascii() settles nearly every text; half a surrogate pair is what no UTF-8 can hold.
    if len(text) > longest or "\0" in text:
        raise CommandRejected(f"bad_{name}", f"{name} is over {longest} characters or has a NUL.")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise CommandRejected(f"bad_{name}", f"{name} has half of a surrogate pair, which is no character.")
    _check_no_token(name, text)


def _check_no_token(name: str, text: str) -> None:
    # Somebody else's token, sent in as one's own value, would be opened where one's own are shown.
    if is_token(text):
        raise CommandRejected(
            f"bad_{name}", f"{name} begins with {PREFIX!r}, as only the ledger's tokens do."
        )
