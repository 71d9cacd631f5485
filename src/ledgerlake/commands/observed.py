"""Middleware that tells what became of each command."""

from __future__ import annotations

from ledgerlake.commands.bus import Handler, Middleware
from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.telemetry.port import Telemetry


def telemetry_middleware(telemetry: Telemetry) -> Middleware:
    """A span and a count for each command; belongs outermost, so that its retries are within."""

    def observe(command: PaymentCommand, handle: Handler) -> CommandResult:
        correlation_id = command.correlation_id or command.command_id
        with telemetry.command(command.name, command.command_id, correlation_id) as told:
            try:
                result = handle(command)
            except CommandRejected as rejected:
                told.came_to("rejected", reason_code=rejected.code)
                raise
            except BaseException as error:
                told.failed(type(error).__name__)
                raise
            told.came_to(
                "duplicate" if result.duplicate else "done",
                stream_id=result.stream_id,
                version=result.version,
                position=result.position,
            )
            return result

    return observe
