"""Settling a batch of appends against what the log holds: pure, so every store shares the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ledgerlake.eventstore.model import (
    Append,
    Appended,
    CheckpointConflict,
    CommandIdReused,
    ConcurrencyError,
    Outcome,
    WriteRequest,
)


@dataclass(frozen=True, slots=True)
class Done:
    """An append that the log holds already, found by its command id."""

    stream_id: str
    version: int
    position: int
    request_hash: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An append that is to be stored: its first event takes `first_version` of its stream.

    `request` and `number` say where it stands among the requests that were settled.
    """

    request: int
    number: int
    append: Append
    first_version: int

    @property
    def last_version(self) -> int:
        """The version of the append's last event."""
        return self.first_version + len(self.append.events) - 1


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a batch.

    `outcomes` has the shape of the requests; an atomic request that was refused has the one refusal as
    the outcome of each of its appends, and in `refused`, by its number. `accepted` is in position order;
    `checkpoints` are the positions that the moved checkpoints take.
    """

    outcomes: list[list[Outcome]]
    accepted: list[Accepted]
    checkpoints: dict[str, int]
    refused: dict[int, Outcome]


def settle(
    requests: Sequence[WriteRequest],
    heads: Mapping[str, int],
    done: Mapping[str, Done],
    head_position: int,
    checkpoints: Mapping[str, int] | None = None,
) -> Settlement:
    """Accept or refuse each append, in order; an atomic request as one.

    Args:
        requests: what each writer handed over. Within one request, once an append to a stream was not
            freshly accepted, the later ones to that stream conflict: they were decided on a state that
            did not come about, even where the version numbers happen to fit.
        heads: last version of every stream that has events.
        done: what is known of the command ids, by command id.
        head_position: the log's last position; accepted events take the positions after it.
        checkpoints: where the checkpoints stand that the requests move (absent: 0).
    """
    state = _State(dict(heads), dict(done), head_position, dict(checkpoints or {}))
    outcomes: list[list[Outcome]] = []
    refused: dict[int, Outcome] = {}
    moved: dict[str, int] = {}
    for number, request in enumerate(requests):
        if not request.atomic:
            outcomes.append(state.settle(number, request.appends))
            continue
        trial = state.copy()
        move = request.checkpoint
        conflict: Outcome | None = None
        if move is not None:
            at = state.checkpoints.get(move.name, 0)
            conflict = None if move.allows(at) else CheckpointConflict(move, at)
        results = trial.settle(number, request.appends)
        repeated = [isinstance(result, Appended) and result.duplicate for result in results]
        done_before = bool(results) and all(repeated)
        if done_before and (move is None or conflict is not None):
            # As a whole, its checkpoint included.
            outcomes.append(results)
            continue
        refusals = [result for result in results if not isinstance(result, Appended)]
        if conflict is None and refusals:
            conflict = refusals[0]
        if conflict is None and any(repeated) and not done_before:
            part = request.appends[repeated.index(True)]
            assert part.command_id is not None
            conflict = CommandIdReused(part.command_id, part.stream_id)
        if conflict is not None:
            refused[number] = conflict
            outcomes.append([conflict] * len(results))
            continue
        state = trial
        if move is not None:
            state.checkpoints[move.name] = moved[move.name] = move.position
        outcomes.append(results)
    return Settlement(outcomes, state.accepted, moved, refused)


@dataclass(slots=True)
class _State:
    """The log as it will be once what was accepted so far is stored."""

    versions: dict[str, int]
    done: dict[str, Done]
    position: int
    checkpoints: dict[str, int]
    accepted: list[Accepted] = field(default_factory=list)

    def copy(self) -> _State:
        return _State(
            dict(self.versions), dict(self.done), self.position, dict(self.checkpoints), list(self.accepted)
        )

    def settle(self, request: int, appends: Sequence[Append]) -> list[Outcome]:
        broken: set[str] = set()
        results: list[Outcome] = []
        for number, append in enumerate(appends):
            stream = append.stream_id
            earlier = self.done.get(append.command_id) if append.command_id is not None else None
            result: Outcome
            if earlier is not None:
                broken.add(stream)
                result = _repeated(append, earlier)
            elif stream in broken:
                result = ConcurrencyError(stream, append.expected, self.versions.get(stream), broken=True)
            elif not append.expected.allows(actual := self.versions.get(stream)):
                broken.add(stream)
                result = ConcurrencyError(stream, append.expected, actual)
            else:
                first = append.first_version if actual is None else actual + 1
                accepted = Accepted(request, number, append, first)
                self.accepted.append(accepted)
                self.position += len(append.events)
                self.versions[stream] = version = accepted.last_version
                result = Appended(stream, version, self.position)
                if append.command_id is not None:
                    self.done[append.command_id] = Done(stream, version, self.position, append.request_hash)
            results.append(result)
        return results


def _repeated(append: Append, earlier: Done) -> Outcome:
    assert append.command_id is not None
    if append.request_hash != earlier.request_hash or append.stream_id != earlier.stream_id:
        return CommandIdReused(append.command_id, earlier.stream_id)
    return Appended(earlier.stream_id, earlier.version, earlier.position, duplicate=True)
