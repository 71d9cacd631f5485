"""Settling a batch of appends against what the log holds: pure, so every store shares the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledgerlake.eventstore.model import Append, Appended, CommandIdReused, ConcurrencyError, Outcome


@dataclass(frozen=True, slots=True)
class Done:
    """An append that the log holds already, found by its command id."""

    stream_id: str
    version: int
    position: int
    request_hash: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An append that is to be stored: its events take the versions after `after_version`.

    `request` and `number` say where it stands among the requests that were settled.
    """

    request: int
    number: int
    append: Append
    after_version: int


def settle(
    requests: Sequence[Sequence[Append]],
    heads: Mapping[str, int],
    done: Mapping[str, Done],
    head_position: int,
) -> tuple[list[list[Outcome]], list[Accepted]]:
    """Accept or refuse each append, in order.

    Args:
        requests: the appends of each writer. Within one writer's request, once an append to a stream
            was not freshly accepted, the later ones to that stream conflict: they were decided on a
            state that did not come about, even where the version numbers happen to fit.
        heads: current version of every stream that has events (absent: 0).
        done: what is known of the command ids, by command id.
        head_position: the log's last position; accepted events take the positions after it.

    Returns:
        The outcomes in the shape of `requests`, and the accepted appends in position order.
    """
    versions = dict(heads)
    settled = dict(done)
    accepted: list[Accepted] = []
    position = head_position
    outcomes: list[list[Outcome]] = []
    for request_number, request in enumerate(requests):
        broken: set[str] = set()
        results: list[Outcome] = []
        for number, append in enumerate(request):
            stream = append.stream_id
            earlier = settled.get(append.command_id) if append.command_id is not None else None
            result: Outcome
            if earlier is not None:
                broken.add(stream)
                result = _repeated(append, earlier)
            elif stream in broken:
                result = ConcurrencyError(stream, append.expected, None)
            elif not append.expected.allows(actual := versions.get(stream, 0)):
                broken.add(stream)
                result = ConcurrencyError(stream, append.expected, actual)
            else:
                accepted.append(Accepted(request_number, number, append, actual))
                position += len(append.events)
                version = versions[stream] = actual + len(append.events)
                result = Appended(stream, version, position)
                if append.command_id is not None:
                    settled[append.command_id] = Done(stream, version, position, append.request_hash)
            results.append(result)
        outcomes.append(results)
    return outcomes, accepted


def _repeated(append: Append, earlier: Done) -> Outcome:
    assert append.command_id is not None
    if append.request_hash != earlier.request_hash or append.stream_id != earlier.stream_id:
        return CommandIdReused(append.command_id, earlier.stream_id)
    return Appended(earlier.stream_id, earlier.version, earlier.position, duplicate=True)
