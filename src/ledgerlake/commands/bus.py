"""The command bus: routes a command to its handler, through middleware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.errors import LedgerLakeError

Handler: TypeAlias = Callable[[PaymentCommand], CommandResult]
Middleware: TypeAlias = Callable[[PaymentCommand, Handler], CommandResult]


class UnknownCommand(LedgerLakeError):
    """No handler is registered for the command's type."""


class CommandBus:
    """Sends each command through the middleware, first one outermost, to the handler of its type."""

    def __init__(
        self,
        handlers: Mapping[type[PaymentCommand], Callable[..., CommandResult]],
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._handlers = dict(handlers)
        chain: Handler = self._handle
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain

    def dispatch(self, command: PaymentCommand) -> CommandResult:
        """Do the command, once.

        Raises:
            UnknownCommand: no handler for its type.
            CommandRejected: the rules refuse it; `code` says which.
            EventStoreError: the log could not take it.
        """
        return self._chain(command)

    def _handle(self, command: PaymentCommand) -> CommandResult:
        handler = self._handlers.get(type(command))
        if handler is None:
            known = ", ".join(sorted(kind.__name__ for kind in self._handlers))
            raise UnknownCommand(f"No handler for {type(command).__name__}.", f"Known commands: {known}.")
        return handler(command)


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    return lambda command: layer(command, inner)
