"""The handler of payment commands: load the stream, decide, append; one command or many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bson import Int64

from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.events import AGGREGATE_TYPE, SCHEMA_VERSION, PaymentEvent, event_data, read_event
from ledgerlake.domain.payment import NOTHING, Command, CommandRejected, Payment, decide, evolve
from ledgerlake.eventstore.committer import Request
from ledgerlake.eventstore.expected import exact
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CommandIdReused,
    ConcurrencyError,
    NewEvent,
    Outcome,
    StoredEvent,
)
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.decimal128 import decimal128


@dataclass(slots=True)
class _Stream:
    """A stream as loaded, and as it will be once the appends decided on it are stored."""

    state: Payment = NOTHING
    # What each command that is in the stream came to, with its request hash.
    done: dict[str, tuple[CommandResult, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch of commands that is decided, and whose events are on their way into the log.

    `streams` are those that it was decided on; the events of `request` belong to the commands `owners`.
    """

    commands: Sequence[Command]
    streams: frozenset[str]
    decided: list[CommandOutcome | ConcurrencyError | None]
    owners: list[int]
    request: Request


class PaymentHandler:
    """Decides payment commands on the state that their stream's events add up to."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def handle(self, command: Command) -> CommandResult:
        """Do one command, once.

        Raises:
            CommandRejected: the rules refuse it, or its id was used for something else.
            ConcurrencyError: another writer was first; handle it again.
        """
        outcome = self._settle(self.begin([command]))[0]
        if isinstance(outcome, CommandResult):
            return outcome
        raise outcome

    def handle_batch(self, commands: Sequence[Command]) -> list[CommandOutcome]:
        """Do the commands in their order, with few round trips; refusals are returned, not raised.

        A command that meets another writer's append is decided again on the stream as it is by then.
        """
        return self.finish(self.begin(commands))

    def begin(self, commands: Sequence[Command]) -> Begun:
        """Decide the commands and send their events off; `finish` tells what became of them.

        Until then no other batch may be begun that shares a stream with this one: it would be decided on
        a state that may not come about.
        """
        streams = self._load({command.stream_id for command in commands})
        decided: list[CommandOutcome | ConcurrencyError | None] = [None] * len(commands)
        appends: list[Append] = []
        owners: list[int] = []
        sent: set[str] = set()
        refused: dict[str, int] = {}
        for i, command in enumerate(commands):
            stream = streams.setdefault(command.stream_id, _Stream())
            request_hash = command.request_hash()
            if command.command_id in sent:
                # A repetition within the batch waits for what becomes of the first.
                decided[i] = ConcurrencyError(command.stream_id, exact(stream.state.version), None)
                continue
            earlier = stream.done.get(command.command_id)
            if earlier is not None:
                decided[i] = _repeated(command, request_hash, *earlier)
                continue
            try:
                event = decide(stream.state, command)
            except CommandRejected as rejected:
                decided[i] = rejected
                refused[command.command_id] = i
                continue
            sent.add(command.command_id)
            owners.append(i)
            appends.append(_append(command, request_hash, event, stream.state.version))
            stream.state = evolve(stream.state, event, command.organization_id)
        # An id that was used on another stream is a reused id, whatever the rules say besides.
        for command_id, earlier_event in self._store.find_commands(refused).items() if refused else ():
            decided[refused[command_id]] = _reused(command_id, earlier_event.stream_id)
        return Begun(commands, frozenset(streams), decided, owners, self._store.submit(appends))

    def finish(self, begun: Begun) -> list[CommandOutcome]:
        """What became of the commands of a batch; those that met another writer's append are done again."""
        outcomes: dict[int, CommandOutcome] = {}
        pending = list(range(len(begun.commands)))
        while True:
            conflicts: list[int] = []
            for i, outcome in zip(pending, self._settle(begun), strict=True):
                if isinstance(outcome, ConcurrencyError):
                    conflicts.append(i)
                else:
                    outcomes[i] = outcome
            if not conflicts:
                return [outcomes[i] for i in range(len(outcomes))]
            begun = self.begin([begun.commands[pending.index(i)] for i in conflicts])
            pending = conflicts

    def _settle(self, begun: Begun) -> list[CommandOutcome | ConcurrencyError]:
        commands, outcomes = begun.commands, list(begun.decided)
        broken: dict[str, int] = {}
        for i, result in zip(begun.owners, begun.request.wait(), strict=True):
            if not isinstance(result, Appended) or result.duplicate:
                broken.setdefault(commands[i].stream_id, i)
            outcomes[i] = _outcome(commands[i], result)
        return [
            # What was decided on a state that did not come about has to be decided again: a refund
            # that a conflicting append seemed to leave no room for may be right after all.
            ConcurrencyError(command.stream_id, exact(0), None)
            if isinstance(outcome, CommandRejected) and i > broken.get(command.stream_id, i)
            else outcome
            for i, (command, outcome) in enumerate(zip(commands, outcomes, strict=True))
            if outcome is not None
        ]

    def _load(self, stream_ids: set[str]) -> dict[str, _Stream]:
        return {
            stream_id: _fold(events) for stream_id, events in self._store.read_streams(stream_ids).items()
        }


def _outcome(command: Command, result: Outcome) -> CommandOutcome | ConcurrencyError:
    match result:
        case Appended():
            return CommandResult(
                command.command_id, result.stream_id, result.version, result.position, result.duplicate
            )
        case CommandIdReused():
            return CommandRejected(result.code, str(result))
        case ConcurrencyError():
            return result


def _repeated(
    command: PaymentCommand, request_hash: str, result: CommandResult, earlier_hash: str | None
) -> CommandOutcome:
    if request_hash != earlier_hash:
        return _reused(command.command_id, result.stream_id)
    return result


def _reused(command_id: str, stream_id: str) -> CommandRejected:
    error = CommandIdReused(command_id, stream_id)
    return CommandRejected(error.code, str(error))


def _append(command: Command, request_hash: str, event: PaymentEvent, after_version: int) -> Append:
    amount = event.amount
    data = {
        "amount": decimal128(amount.minor, amount.exponent),
        "amountMinor": Int64(amount.minor),
        "currency": amount.currency,
        **event_data(event),
    }
    new = NewEvent(
        event_type=type(event).__name__,
        data=data,
        timestamp=command.occurred_at,
        correlation_id=command.correlation_id or command.command_id,
        causation_id=command.causation_id or command.command_id,
        metadata={
            **command.metadata,
            "userId": command.user_id,
            "organizationId": command.organization_id,
        },
        schema_version=SCHEMA_VERSION,
    )
    return Append(
        stream_id=command.stream_id,
        aggregate_type=AGGREGATE_TYPE,
        events=(new,),
        expected=exact(after_version),
        command_id=command.command_id,
        request_hash=request_hash,
    )


def _fold(events: Sequence[StoredEvent]) -> _Stream:
    stream = _Stream()
    for stored in events:
        event = read_event(stored.event_type, stored.schema_version, stored.data)
        stream.state = evolve(stream.state, event, stored.metadata["organizationId"])
        if stored.command_id is not None:
            result = CommandResult(
                stored.command_id, stored.stream_id, stored.version, stored.position, duplicate=True
            )
            stream.done[stored.command_id] = (result, stored.metadata.get("requestHash"))
    return stream
