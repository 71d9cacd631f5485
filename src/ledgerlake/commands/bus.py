"""The command bus: routes a command to its handler, through middleware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.errors import LedgerLakeError

Handler: TypeAlias = Callable[[PaymentCommand], CommandResult]
Middleware: TypeAlias = Callable[[PaymentCommand, Handler], CommandResult]
BatchHandler: TypeAlias = Callable[[Sequence[PaymentCommand]], Sequence[CommandOutcome]]
BatchMiddleware: TypeAlias = Callable[[Sequence[PaymentCommand], BatchHandler], Sequence[CommandOutcome]]


class UnknownCommand(LedgerLakeError):
    """No handler is registered for the command's type."""


class CommandBus:
    """Sends each command through the middleware, first one outermost, to the handler of its type.

    Args:
        batches: handles many commands at once, for `dispatch_batch`; without it they are done one by one.
        batch_middleware: what goes around it; the other middleware does not.
    """

    def __init__(
        self,
        handlers: Mapping[type[PaymentCommand], Callable[..., CommandResult]],
        middleware: Sequence[Middleware] = (),
        *,
        batches: Callable[..., Sequence[CommandOutcome]] | None = None,
        batch_middleware: Sequence[BatchMiddleware] = (),
    ) -> None:
        self._handlers = dict(handlers)
        chain: Handler = self._handle
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain
        batch_chain: BatchHandler = self._one_by_one if batches is None else batches
        for outer in reversed(batch_middleware):
            batch_chain = _wrap_batch(outer, batch_chain)
        self._batch_chain = batch_chain

    def dispatch(self, command: PaymentCommand) -> CommandResult:
        """Do the command, once.

        Raises:
            UnknownCommand: no handler for its type.
            CommandRejected: the rules refuse it; `code` says which.
            EventStoreError: the log could not take it.
        """
        return self._chain(command)

    def dispatch_batch(self, commands: Sequence[PaymentCommand]) -> Sequence[CommandOutcome]:
        """Do commands in their order, with few round trips; refusals are returned, not raised.

        For a caller that has many at once. Threads that have one each `dispatch` it: they share round
        trips, too.

        Raises:
            UnknownCommand: no handler for the type of one; none is done.
            EventStoreError: the log could not take them; which were done, sending them again tells.
        """
        for command in commands:
            self._handler(command)
        return self._batch_chain(commands)

    def _one_by_one(self, commands: Sequence[PaymentCommand]) -> Sequence[CommandOutcome]:
        outcomes: list[CommandOutcome] = []
        for command in commands:
            try:
                outcomes.append(self._chain(command))
            except CommandRejected as rejected:
                outcomes.append(rejected)
        return outcomes

    def _handle(self, command: PaymentCommand) -> CommandResult:
        return self._handler(command)(command)

    def _handler(self, command: PaymentCommand) -> Callable[..., CommandResult]:
        handler = self._handlers.get(type(command))
        if handler is None:
            known = ", ".join(sorted(kind.__name__ for kind in self._handlers))
            raise UnknownCommand(f"No handler for {type(command).__name__}.", f"Known commands: {known}.")
        return handler


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    return lambda command: layer(command, inner)


def _wrap_batch(layer: BatchMiddleware, inner: BatchHandler) -> BatchHandler:
    return lambda commands: layer(commands, inner)
