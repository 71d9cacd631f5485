"""The hash chain of the log: every event is, byte for byte, the one that was appended."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Self

import bson

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import ARCHIVED, decode_document
from ledgerlake.eventstore.chain import GENESIS, Link, check, digest
from ledgerlake.mongo.indexes import EVENTS, LOG_CHAIN
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import Check, checked

# No event has it: where one is missing, the part it is missing from can not come to its link.
_MISSING: Final = b"missing"
_EVENTS_A_REPLY: Final = 10_000
_STUB_MARK: Final = b"\x03" + ARCHIVED.encode() + b"\0"

_int32_at: Final = struct.Struct("<i").unpack_from
_int64_at: Final = struct.Struct("<q").unpack_from
# Where the store itself writes the position: behind the length, _id and version.
_NAME: Final = b"\x12position\0"
_NAME_AT: Final = 4 + (1 + 4 + 12) + (1 + 8 + 8)
_VALUE_AT: Final = _NAME_AT + len(_NAME)


class BadHeadError(LedgerLakeError):
    """A text that is no noted head."""


@dataclass(frozen=True, slots=True)
class NotedHead:
    """The hash that the log had at a position, as someone noted it outside."""

    position: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From POSITION:HASH, as `verify` prints it. Raises BadHeadError."""
        found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text.strip().lower())
        if found is None:
            raise BadHeadError(
                f"{text!r} is no noted head.",
                "Give POSITION:HASH as `ledgerlake verify` printed it: a number, a colon, 64 hex digits.",
            )
        return cls(int(found[1]), bytes.fromhex(found[2]))

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"


def check_chain(log: Log, noted: NotedHead | None = None) -> Check:
    """The events hash to every link that was kept, and to the head's; and to a head noted outside.

    A chain says that the log is as it was written, unless whoever changed it wrote the whole chain anew
    from there on: only a hash noted before, where they have no hand, tells then.
    """
    counter: Document = log.db["counters"].find_one({"_id": EVENTS}, session=log.session) or {}
    links = [
        Link(int(link["_id"]), bytes(link["hash"]))
        for link in log.db[LOG_CHAIN].find({}, session=log.session).sort("_id", 1)
    ]
    differences = []
    beyond = [link.position for link in links if link.position > log.head]
    if beyond:
        differences.append(
            f"the log was once at position {beyond[-1]:,} or further, and now ends at {log.head:,}:"
            " its tail is cut off"
        )
    kept = [link for link in links if link.position < log.head]
    chain = counter.get("chain")
    if chain is not None:
        kept.append(Link(log.head, bytes(chain)))
    elif kept or beyond:
        differences.append("the counter has lost the hash of the head")
    end = kept[-1].position if kept else 0
    digests = _digests(log, end if noted is None else max(end, min(noted.position, log.head)))
    running = _Running(0 if noted is None else noted.position)
    differences += [
        f"positions {part.first:,} to {part.last:,} do not hold the events that were appended there"
        for part in check(digests if noted is None else running.over(digests), kept)
    ]
    if noted is not None:
        for _ in running.over(digests):  # what is behind the last link
            pass
        differences += _against(noted, running.value, log.head)
    if chain is None and log.head and not differences:
        detail = "not chained yet: the next append chains the whole log"
    else:
        # In the form in which --head takes it back.
        known = GENESIS if chain is None else bytes(chain)
        still = "" if noted is None or differences else f"; as it was noted at position {noted.position:,}"
        detail = f"{len(kept):,} links{still}; to be noted outside: {NotedHead(log.head, known)}"
    found = checked("log chain", detail, differences)
    return replace(found, part=EVENTS, position=log.head, lag=0)


class _Running:
    """The hash from the first event on, whatever the links say: a noted head is judged by it alone."""

    def __init__(self, up_to: int) -> None:
        self.value = GENESIS
        self._left = up_to

    def over(self, digests: Iterable[bytes]) -> Iterator[bytes]:
        for each in digests:
            if self._left:
                self.value = sha256(self.value + each).digest()
                self._left -= 1
            yield each


def _against(noted: NotedHead, value: bytes, head: int) -> list[str]:
    if noted.position > head:
        return [f"a head at {noted.position:,} was noted, but the log ends at {head:,}: its tail is cut off"]
    if value == noted.hash:
        return []
    found = NotedHead(noted.position, value)
    return [f"the log up to position {noted.position:,} is another than the one that was noted: now {found}"]


def _digests(log: Log, up_to: int) -> Iterator[bytes]:
    """A digest for every position from 1 to `up_to`."""
    due = 1
    for position, document in _documents(log, up_to):
        while due < min(position, up_to + 1):
            yield _MISSING
            due += 1
        if position == due:  # a position held twice is found by its own check
            yield _digest(document)
            due += 1
    for _ in range(due, up_to + 1):
        yield _MISSING


def _digest(document: bytes) -> bytes:
    """The digest of an event, or the one that an archived event's stub keeps.

    Only a stub as `archived events` checks it, against its file, is taken at its word: a changed event
    must not hide behind half of the mark.
    """
    if _STUB_MARK in document:
        mark = decode_document(document).get(ARCHIVED)
        if (
            isinstance(mark, Mapping)
            and mark.keys() == {"file", "digest"}
            and isinstance(mark["digest"], bytes)
        ):
            return mark["digest"]
    return digest(document)


def _documents(log: Log, up_to: int) -> Iterator[tuple[int, bytes]]:
    """Position and raw BSON of the events, in position order; the next reply comes while one is read."""
    replies: Any = log.db[EVENTS].find_raw_batches(
        {"position": {"$gt": 0, "$lte": up_to}},
        sort=[("position", 1)],
        batch_size=_EVENTS_A_REPLY,
        session=log.session,
    )
    with ThreadPoolExecutor(1, thread_name_prefix="read-chain") as ahead:
        pending = ahead.submit(next, replies, None)
        while (reply := pending.result()) is not None:
            pending = ahead.submit(next, replies, None)
            at = 0
            while at < len(reply):
                end = at + _int32_at(reply, at)[0]
                yield _position(reply, at, end), reply[at:end]
                at = end


def _position(reply: bytes, at: int, end: int) -> int:
    if reply.startswith(_NAME, at + _NAME_AT):
        position: int = _int64_at(reply, at + _VALUE_AT)[0]
        return position
    return int(bson.decode(reply[at:end])["position"])
