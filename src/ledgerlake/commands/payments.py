"""The handler of payment commands: load the stream, decide, append; one command or many at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ledgerlake.commands.model import CommandOutcome, CommandResult
from ledgerlake.commands.streams import SNAPSHOT, Stream, append_of, done, fold
from ledgerlake.domain.commands import PaymentCommand
from ledgerlake.domain.payment import Command, CommandRejected, decide, evolve
from ledgerlake.eventstore.contract import EventReader, EventWriter, Pending
from ledgerlake.eventstore.expected import after
from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointConflict,
    CommandIdReused,
    ConcurrencyError,
    Outcome,
)
from ledgerlake.eventstore.snapshotting import Loaded, Snapshots
from ledgerlake.mongo.transactions import backoff
from ledgerlake.privacy.fields import FREE_DETAILS, PersonalFields
from ledgerlake.privacy.protection import PersonalDataError, Protection

# How often a command is decided before its caller is told that others were first, seconds later. With each
# try one of those who contend has succeeded: so many are met where a stream is not what it is taken for.
MOST_TRIES: Final = 100
# What a handler without keys goes by: free details, the only thing always personal, it refuses.
_NO_KEYS: Final = Protection(PersonalFields.of([FREE_DETAILS]), None)
# What request hashes leave out, under each declaration that there may have been.
_DECLARATIONS: Final = ((), ("user_id",), ("reason",), ("user_id", "reason"))


class Log(EventReader, EventWriter, Protocol):
    """An event store, to read from and to append to."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch of commands that is decided, and whose events are on their way into the log.

    `streams` are those that it was decided on; the events of `request` belong to the commands `owners`.
    """

    commands: Sequence[Command]
    streams: frozenset[str]
    decided: list[CommandOutcome | ConcurrencyError | None]
    owners: list[int]
    request: Pending


class PaymentHandler:
    """Decides payment commands on the state that their stream's events add up to.

    `personal` puts what is personal in them under keys, before it becomes part of an event. `snapshots`
    spare it the events before them, and change nothing else.
    """

    def __init__(
        self, store: Log, personal: Protection = _NO_KEYS, snapshots: Snapshots | None = None
    ) -> None:
        self._store = store
        self._personal = personal
        self._snapshots = snapshots

    def handle(self, command: Command) -> CommandResult:
        """Do one command, once.

        Raises:
            CommandRejected: the rules refuse it, or its id was used for something else.
        """
        [outcome] = self.handle_batch([command])
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
        refused: list[int] = []
        for i, command in enumerate(commands):
            stream = streams.setdefault(command.stream_id, Stream())
            request_hash = command.request_hash(self._personal.unhashed)
            if command.command_id in sent:
                # A repetition within the batch waits for what becomes of the first.
                decided[i] = ConcurrencyError(
                    command.stream_id, after(stream.state.version), None, broken=True
                )
                continue
            earlier = stream.done.get(command.command_id)
            if earlier is not None:
                decided[i] = _repeated(command, request_hash, *earlier)
                continue
            try:
                event = decide(stream.state, command)
                append = append_of(command, request_hash, event, stream.state.version)
                self._personal.check(append)
            except (CommandRejected, PersonalDataError) as error:
                decided[i] = error if isinstance(error, CommandRejected) else _refused(error)
                refused.append(i)
                continue
            sent.add(command.command_id)
            owners.append(i)
            appends.append(append)
            stream.state = evolve(stream.state, event, command.organization_id)
        for i, outcome in self._done_before([(i, commands[i]) for i in refused]):
            decided[i] = outcome
        return Begun(
            commands, frozenset(streams), decided, owners, self._store.submit(self._personal.protect(appends))
        )

    def finish(self, begun: Begun) -> list[CommandOutcome]:
        """What became of the commands of a batch; those that met another writer's append are done again.

        Raises:
            ConcurrencyError: another writer was first each time.
        """
        outcomes: dict[int, CommandOutcome] = {}
        pending = list(range(len(begun.commands)))
        for tries in itertools.count(1):
            conflicts: dict[int, ConcurrencyError] = {}
            for i, outcome in zip(pending, self._settle(begun), strict=True):
                if isinstance(outcome, ConcurrencyError):
                    conflicts[i] = outcome
                else:
                    outcomes[i] = outcome
            if not conflicts:
                break
            if tries == MOST_TRIES:
                raise next(iter(conflicts.values()))
            if tries > 1:  # the first time there may be nobody else: what was before it in the batch changed
                backoff(tries)
            begun = self.begin([begun.commands[pending.index(i)] for i in conflicts])
            pending = list(conflicts)
        return [outcomes[i] for i in range(len(outcomes))]

    def _settle(self, begun: Begun) -> list[CommandOutcome | ConcurrencyError]:
        commands, outcomes = begun.commands, list(begun.decided)
        broken: dict[str, int] = {}
        reused: list[tuple[int, Command]] = []
        for i, result in zip(begun.owners, begun.request.wait(), strict=True):
            if not isinstance(result, Appended) or result.duplicate:
                broken.setdefault(commands[i].stream_id, i)
            outcomes[i] = _outcome(commands[i], result)
            if isinstance(result, CommandIdReused):
                reused.append((i, commands[i]))
        for i, outcome in self._done_before(reused):
            outcomes[i] = outcome
        return [
            # What was decided on a state that did not come about has to be decided again: a refund
            # that a conflicting append seemed to leave no room for may be right after all.
            ConcurrencyError(command.stream_id, after(0), None, broken=True)
            if isinstance(outcome, CommandRejected) and i > broken.get(command.stream_id, i)
            else outcome
            for i, (command, outcome) in enumerate(zip(commands, outcomes, strict=True))
            if outcome is not None
        ]

    def _done_before(self, commands: Sequence[tuple[int, Command]]) -> list[tuple[int, CommandOutcome]]:
        """What those of the commands came to whose ids the log holds, whatever the rules say now."""
        if not commands:
            return []
        found = self._store.find_commands({command.command_id for _, command in commands})
        return [
            (i, _repeated(command, command.request_hash(self._personal.unhashed), *done(event)))
            for i, command in commands
            if (event := found.get(command.command_id)) is not None
        ]

    def _load(self, stream_ids: set[str]) -> dict[str, Stream]:
        if self._snapshots is None:
            read = self._store.read_streams(stream_ids)
            return {stream_id: fold(Loaded(None, events)) for stream_id, events in read.items()}
        loaded = self._snapshots.load(self._store, stream_ids, SNAPSHOT)
        streams = {stream_id: fold(each) for stream_id, each in loaded.items()}
        for stream_id, each in loaded.items():
            self._snapshots.loaded(SNAPSHOT, each, streams[stream_id].state)
        return streams


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
        case CheckpointConflict():  # only of a request that moves a checkpoint, which none here does
            raise result


def _repeated(
    command: PaymentCommand, request_hash: str, result: CommandResult, earlier_hash: str | None
) -> CommandOutcome:
    if request_hash == earlier_hash:
        return result
    # It may have been stored at a time when other fields were declared personal.
    if earlier_hash in {command.request_hash(without) for without in _DECLARATIONS}:
        return result
    return _reused(command.command_id, result.stream_id)


def _refused(error: PersonalDataError) -> CommandRejected:
    return CommandRejected(error.code, str(error))


def _reused(command_id: str, stream_id: str) -> CommandRejected:
    error = CommandIdReused(command_id, stream_id)
    return CommandRejected(error.code, str(error))
