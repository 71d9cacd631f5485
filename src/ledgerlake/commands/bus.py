"""The command bus: routes commands to the handlers of their types, through middleware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from pymongo.errors import PyMongoError

from ledgerlake.commands.grouping import LARGEST, Grouped
from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.model import StoreUnavailable

Handler: TypeAlias = Callable[[PaymentCommand], CommandResult]
Middleware: TypeAlias = Callable[[PaymentCommand, Handler], CommandResult]
BatchHandler: TypeAlias = Callable[[Sequence[PaymentCommand]], Sequence[CommandOutcome]]
BatchMiddleware: TypeAlias = Callable[[Sequence[PaymentCommand], BatchHandler], Sequence[CommandOutcome]]

# What stands in the way of all commands alike. Any other error may be about one of a batch only, such as that
# the key of a person can not be had.
UNAVAILABLE: Final = (StoreUnavailable, PyMongoError)


class UnknownCommand(LedgerLakeError):
    """No handler is registered for the command's type."""


class CommandBus:
    """Sends commands to the handler of their type, in batches.

    Threads that dispatch a command each at the same time share a batch: the stream of each is loaded, and
    its events are appended, in the same round trips.

    Args:
        handlers: what does commands of a type; takes many in their order, and returns refusals.
        middleware: goes around each command of `dispatch`, in the thread that dispatches it.
        batch_middleware: goes around each batch of `dispatch_batch`.
        shared: goes around every batch, inside of both.
        largest: commands that threads share a batch of, at most.

    Of each middleware the first one is outermost.
    """

    def __init__(
        self,
        handlers: Mapping[type[PaymentCommand], Callable[..., Sequence[CommandOutcome]]],
        middleware: Sequence[Middleware] = (),
        *,
        batch_middleware: Sequence[BatchMiddleware] = (),
        shared: Sequence[BatchMiddleware] = (),
        largest: int = LARGEST,
    ) -> None:
        self._handlers = dict(handlers)
        batches: BatchHandler = self._handle
        for outer in reversed(shared):
            batches = _wrap_batch(outer, batches)
        self._grouped: Grouped[PaymentCommand, CommandOutcome] = Grouped(
            batches, everybodys=UNAVAILABLE, largest=largest
        )
        chain: Handler = self._do
        for layer in reversed(middleware):
            chain = _wrap(layer, chain)
        self._chain = chain
        for outer in reversed(batch_middleware):
            batches = _wrap_batch(outer, batches)
        self._batch_chain = batches

    def dispatch(self, command: PaymentCommand) -> CommandResult:
        """Do the command, once.

        The result says `duplicate` also where the first try of its batch failed after the commit: whether it
        was done before this call is then not known.

        Raises:
            UnknownCommand: no handler for its type.
            CommandRejected: the rules refuse it; `code` says which.
            EventStoreError: the log could not take it.
        """
        self._handler(command)
        return self._chain(command)

    def dispatch_batch(self, commands: Sequence[PaymentCommand]) -> Sequence[CommandOutcome]:
        """Do commands in their order, with few round trips; refusals are returned, not raised.

        Raises:
            UnknownCommand: no handler for the type of one; none is done.
            EventStoreError: the log could not take them; which were done, sending them again tells.
        """
        for command in commands:
            self._handler(command)
        return self._batch_chain(commands)

    def _do(self, command: PaymentCommand) -> CommandResult:
        outcome = self._grouped(command)
        if isinstance(outcome, CommandRejected):
            raise outcome
        return outcome

    def _handle(self, commands: Sequence[PaymentCommand]) -> Sequence[CommandOutcome]:
        outcomes: list[CommandOutcome] = []
        for handler, run in groupby(commands, self._handler):
            outcomes += handler(list(run))
        return outcomes

    def _handler(self, command: PaymentCommand) -> Callable[..., Sequence[CommandOutcome]]:
        handler = self._handlers.get(type(command))
        if handler is None:
            known = ", ".join(sorted(kind.__name__ for kind in self._handlers))
            raise UnknownCommand(f"No handler for {type(command).__name__}.", f"Known commands: {known}.")
        return handler


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    return lambda command: layer(command, inner)


def _wrap_batch(layer: BatchMiddleware, inner: BatchHandler) -> BatchHandler:
    return lambda commands: layer(commands, inner)
