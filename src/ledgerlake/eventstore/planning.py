"""What a batch is going to write, worked out before anything is written: pure functions.

Most batches are planned without a read, on assumptions that the unique indexes and the conditions of the
writes check. What they would not check is not assumed: then there is no such plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from bson import Binary, Int64
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from ledgerlake.eventstore.chain import extend
from ledgerlake.eventstore.encoding import complete
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, CheckpointMove, WriteRequest
from ledgerlake.eventstore.settlement import Accepted, Settlement, settle

Document = dict[str, Any]


class Request(Protocol):
    """What one writer hands over, with its events encoded."""

    @property
    def write(self) -> WriteRequest: ...

    @property
    def encoded(self) -> Sequence[Sequence[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the log: its last position, its hash, and whether any stream in it starts at version 0."""

    position: int
    chain: bytes
    zero_based: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch writes, on a log whose end becomes `tail`.

    `assumed`: the moves under whose conditions the checkpoints may be moved, where nothing was read; None
    where the settlement rests on what was read in the transaction.
    """

    settlement: Settlement
    tail: Tail
    documents: list[RawBSONDocument]
    assumed: Mapping[str, CheckpointMove] | None


def plan_unread(
    requests: Sequence[Request], tail: Tail, seen: Mapping[str, int], now: datetime
) -> Plan | None:
    """What to write if nothing but the indexes need decide; None where a read is needed.

    Args:
        seen: versions that the streams had at some time; lower bounds, since a log only grows.
    """
    writes = [request.write for request in requests]
    appends = [append for write in writes for append in write.appends]
    heads = _assumed_heads(appends, seen, tail.zero_based)
    if heads is None:
        return None
    moves: dict[str, CheckpointMove] = {}
    for write in writes:
        if write.checkpoint is not None:
            moves.setdefault(write.checkpoint.name, write.checkpoint)
    checkpoints = {name: move.after or 0 for name, move in moves.items()}
    settlement = settle(writes, heads, {}, tail.position, checkpoints)
    if settlement.refused or len(settlement.accepted) != len(appends):
        # A refusal rests on assumptions that no index would check.
        return None
    return make_plan(requests, tail, settlement, moves, now)


def _assumed_heads(
    appends: Sequence[Append], seen: Mapping[str, int], zero_based: bool
) -> dict[str, int] | None:
    """The versions under which the unique indexes alone decide; None where a read is needed.

    With "no stream" the first event's version decides: if the stream exists, the index objects. (That
    holds if all streams start at the same version, so not where some start at 0.) With "exact n" it
    does so too, given that version n was seen. "Any" and "stream exists" take the version last seen,
    and the index objects if it is out of date.
    """
    heads: dict[str, int] = {}
    new: set[str] = set()
    commands: set[str] = set()
    for append in appends:
        if append.command_id is not None:
            if append.command_id in commands:
                return None
            commands.add(append.command_id)
        stream = append.stream_id
        if stream in heads or stream in new:
            continue
        last = seen.get(stream)
        if last is not None and append.expected.allows(last):
            heads[stream] = last
        elif last is None and append.expected == NO_STREAM and append.first_version and not zero_based:
            new.add(stream)
        else:
            return None
    return heads


def make_plan(
    requests: Sequence[Request],
    tail: Tail,
    settlement: Settlement,
    assumed: Mapping[str, CheckpointMove] | None,
    now: datetime,
) -> Plan:
    """What a settlement writes on a log that ends at `tail`; for `assumed` see Plan."""
    documents = _documents(settlement.accepted, requests, tail.position, now)
    after = Tail(
        tail.position + len(documents),
        extend(tail.chain, [bytes(document.raw) for document in documents]),
        tail.zero_based or any(each.first_version == 0 for each in settlement.accepted),
    )
    return Plan(settlement, after, documents, assumed)


def counter_fields(tail: Tail) -> Document:
    """The end of the log as fields of the counter."""
    fields: Document = {"position": Int64(tail.position), "chain": Binary(tail.chain)}
    return {**fields, "zeroBased": True} if tail.zero_based else fields


def checkpoint_writes(
    positions: Mapping[str, int], assumed: Mapping[str, CheckpointMove] | None, now: datetime
) -> list[UpdateOne]:
    """Writes that move checkpoints; where an assumption is wrong, one misses or meets a duplicate."""
    moves = []
    for name, position in positions.items():
        condition: Document = {"_id": name}
        upsert = True
        if assumed is not None:
            first = assumed[name]
            condition["position"] = {"$lt": first.position} if first.after is None else first.after
            upsert = not first.after
        change = {"$set": {"position": Int64(position), "updatedAt": now}}
        moves.append(UpdateOne(condition, change, upsert=upsert))
    return moves


def _documents(
    accepted: Sequence[Accepted], requests: Sequence[Request], head: int, now: datetime
) -> list[RawBSONDocument]:
    documents: list[RawBSONDocument] = []
    position = head
    for item in accepted:
        encoded = requests[item.request].encoded[item.number]
        for version, document in enumerate(encoded, start=item.first_version):
            position += 1
            documents.append(complete(document, version, position, now))
    return documents
