"""Middleware that tells what became of each command."""

from __future__ import annotations

from collections.abc import Sequence

from ledgerlake.commands.bus import BatchHandler, BatchMiddleware, Handler, Middleware
from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.telemetry.port import Outcome, Telemetry


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
            _tell(told, result)
            return result

    return observe


def telemetry_batches(telemetry: Telemetry) -> BatchMiddleware:
    """A count and a span for each command of a batch, which tells what became of it once all are done."""

    def observe(commands: Sequence[PaymentCommand], handle: BatchHandler) -> Sequence[CommandOutcome]:
        outcomes: Sequence[CommandOutcome | None] = [None] * len(commands)
        failed: str | None = None
        try:
            found = outcomes = handle(commands)
        except BaseException as error:
            failed = type(error).__name__
            raise
        finally:
            for command, outcome in zip(commands, outcomes, strict=True):
                correlation_id = command.correlation_id or command.command_id
                with telemetry.command(command.name, command.command_id, correlation_id) as told:
                    if outcome is None:
                        told.failed(failed or "")
                    elif isinstance(outcome, CommandRejected):
                        told.came_to("rejected", reason_code=outcome.code)
                    else:
                        _tell(told, outcome)
        return found

    return observe


def _tell(told: Outcome, result: CommandResult) -> None:
    told.came_to(
        "duplicate" if result.duplicate else "done",
        stream_id=result.stream_id,
        version=result.version,
        position=result.position,
    )
