"""Middleware of the command bus: each wraps the rest of the chain."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace

from ledgerlake.commands.bus import Handler, Middleware
from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.model import ConcurrencyError

log = logging.getLogger("ledgerlake.commands")


def logging_middleware(command: PaymentCommand, handle: Handler) -> CommandResult:
    """Log what became of each command and how long it took; ids and codes only, nothing personal."""
    started = time.perf_counter()
    try:
        result = handle(command)
    except CommandRejected as error:
        log.info("%s %s rejected: %s", command.name, command.command_id, error.code)
        raise
    except Exception as error:
        log.warning("%s %s failed: %s", command.name, command.command_id, type(error).__name__)
        raise
    log.info(
        "%s %s %s at position %d in %.1f ms",
        command.name,
        command.command_id,
        "was done before" if result.duplicate else "done",
        result.position,
        (time.perf_counter() - started) * 1000,
    )
    return result


def validation_middleware(command: PaymentCommand, handle: Handler) -> CommandResult:
    """Refuse a command whose fields can not be stored, before anything is read or written."""
    validate(command)
    return handle(command)


# Longer ids would not fit an index key well, and no source has them.
MAX_ID_LENGTH = 512


def validate(command: PaymentCommand) -> None:
    """Check the fields that every command has.

    Raises:
        CommandRejected: naming the first field that is missing, too long or not what it should be.
    """
    ids = [("command_id", command.command_id), ("organization_id", command.organization_id)]
    payment_id: str | None = getattr(command, "payment_id", None)
    if payment_id is not None or command.name != "RefundPayment":
        ids.append(("payment_id", payment_id or ""))
    for name, value in ids:
        if not value or not value.strip():
            raise CommandRejected(f"missing_{name}", f"{name} is missing.")
    for name, text in (*ids, ("user_id", command.user_id or "")):
        if len(text) > MAX_ID_LENGTH or "\0" in text:
            raise CommandRejected(f"bad_{name}", f"{name} is over {MAX_ID_LENGTH} characters or has a NUL.")
    if command.occurred_at.tzinfo is None:
        raise CommandRejected("bad_date", "occurred_at has no time zone.")


def correlation_middleware(command: PaymentCommand, handle: Handler) -> CommandResult:
    """A command that nothing caused starts a conversation of its own: its id is correlation and cause."""
    if command.correlation_id is None or command.causation_id is None:
        command = replace(
            command,
            correlation_id=command.correlation_id or command.command_id,
            causation_id=command.causation_id or command.command_id,
        )
    return handle(command)


def retry_on_conflict(*, attempts: int = 10, sleep: Callable[[float], None] = time.sleep) -> Middleware:
    """Handle the command again, on the stream as it is by then, when another writer was first."""

    def retry(command: PaymentCommand, handle: Handler) -> CommandResult:
        for attempt in range(1, attempts):
            try:
                return handle(command)
            except ConcurrencyError:
                sleep(random.uniform(0, min(0.1, 0.002 * 2**attempt)))
        return handle(command)

    return retry
