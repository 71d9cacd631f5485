"""Two generations of a read model compared document by document, in the order of their ids."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import bson
from bson.codec_options import CodecOptions
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ledgerlake.eventstore.bson_columns import documents
from ledgerlake.projections.model import Derived, ProjectionError

Document = dict[str, Any]

EXAMPLES: Final = 5
# The fields of so many differing documents are looked into; where more differ, these say enough.
LOOKED_INTO: Final = 1_000
_A_REPLY: Final = 2_000
_FIELDS_NAMED: Final = 3

_AWARE: Final[CodecOptions[Mapping[str, Any]]] = CodecOptions(tz_aware=True)
_int32_at: Final = struct.Struct("<i").unpack_from
# What every document begins with, behind its length: its id, a text. The text's own length is next.
_ID: Final = b"\x02_id\0"
_ID_TEXT: Final = 4 + len(_ID) + 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the new generation of a collection has otherwise than the live one, both at one position.

    `documents` that were compared; of them `missing` are in the live one only, `extra` in the new one only,
    `different` in both. `fields` are those that differ, and `examples` tell of the first few in words.
    """

    collection: str
    documents: int
    missing: int
    extra: int
    different: int
    fields: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.different)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """From its fields, as a checkpoint keeps them."""
        return cls(**{**stored, "fields": tuple(stored["fields"]), "examples": tuple(stored["examples"])})


def compare(
    name: str,
    live: tuple[Collection[Document], ClientSession],
    new: tuple[Collection[Document], ClientSession],
    totals: Derived | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Read both, each in its snapshot session, and tell them apart.

    Args:
        totals: what they hold are these totals, of several workers each: their sums are compared.
        on_progress: called with the number of documents that were compared.

    Raises:
        ProjectionError: a document whose id is no text: no projection has written it.
    """
    found = _Found(name)
    old, other = _Reader(*live, totals), _Reader(*new, totals)
    told = 0
    while True:
        left, right = old.more(), other.more()
        at_end = not (left or right)
        if on_progress is not None and (at_end or found.documents - told >= _A_REPLY):
            told = found.documents
            on_progress(told)
        if at_end:
            return found.comparison()
        if old.reply == other.reply and old.at == other.at:
            # The usual case by far, at the price of comparing memory.
            found.documents += old.skip()
            other.skip()
            continue
        first = old.document() if left else None
        second = other.document() if right else None
        key = min(_id(each) for each in (first, second) if each is not None)
        mine = first is not None and _id(first) == key
        its = second is not None and _id(second) == key
        if mine:
            old.at += len(first or b"")
        if its:
            other.at += len(second or b"")
        found.add(key.decode(), first if mine else None, second if its else None)


class _Reader:
    """Documents of a collection in the order of their ids, reply by reply."""

    def __init__(
        self, collection: Collection[Document], session: ClientSession, totals: Derived | None
    ) -> None:
        self._replies: Any
        if totals is None:
            self._replies = collection.find_raw_batches(
                {}, sort=[("_id", 1)], batch_size=_A_REPLY, session=session
            )
        else:
            self._replies = collection.aggregate_raw_batches(
                _summed(totals), batchSize=_A_REPLY, allowDiskUse=True, session=session
            )
        self.reply = b""
        self.at = 0

    def more(self) -> bool:
        """Whether a document is left; then it starts at `at` in `reply`."""
        while self.at == len(self.reply):
            reply = next(self._replies, None)
            if reply is None:
                self.reply, self.at = b"", 0
                return False
            self.reply, self.at = reply, 0
        return True

    def document(self) -> bytes:
        return self.reply[self.at : self.at + _int32_at(self.reply, self.at)[0]]

    def skip(self) -> int:
        """Leave out the rest of the reply; how many documents that was."""
        count = len(documents(self.reply[self.at :]))
        self.at = len(self.reply)
        return count


def _summed(totals: Derived) -> list[Document]:
    """The totals of all workers together, as one worker has them: `key@k` of each is `key`."""
    at = {"$add": [1, {"$strLenBytes": {"$toString": {"$ifNull": ["$part", 0]}}}]}
    whole = {"$substrBytes": ["$_id", 0, {"$subtract": [{"$strLenBytes": "$_id"}, at]}]}
    group: Document = {"_id": {"$cond": [{"$gte": ["$part", 0]}, whole, "$_id"]}}
    group |= {name: {"$first": f"${name}"} for name in totals.by}
    group |= {name: {"$sum": f"${name}"} for name in totals.totals}
    some = {"$or": [{name: {"$ne": 0}} for name in totals.totals]}
    return [{"$group": group}, {"$match": some}, {"$sort": {"_id": 1}}]


def _id(document: bytes) -> bytes:
    """The document's id, in an order that is the server's: that of UTF-8."""
    if not document.startswith(_ID, 4):
        raise ProjectionError(
            f"A document has the id {bson.decode(document).get('_id')!r}, which is no text.",
            "No projection has written it: remove it.",
        )
    return document[_ID_TEXT : _ID_TEXT + _int32_at(document, _ID_TEXT - 4)[0] - 1]


@dataclass(slots=True)
class _Found:
    """What came of a comparison so far."""

    name: str
    documents: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    fields: dict[str, None] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, key: str, live: bytes | None, new: bytes | None) -> None:
        self.documents += 1
        if live == new:
            return
        if live is None:
            self.extra += 1
            self._tell(f"{key!r} is new")
        elif new is None:
            self.missing += 1
            self._tell(f"{key!r} is missing")
        elif self.different >= LOOKED_INTO:
            self.different += 1
        else:
            self._look_into(key, bson.decode(live, _AWARE), bson.decode(new, _AWARE))

    def _look_into(self, key: str, live: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        names = [name for name in {**live, **new} if _value(live, name) != _value(new, name)]
        if not names:
            return  # the same fields in another order
        self.different += 1
        self.fields.update(dict.fromkeys(names))
        told = [f"{name} {_value(live, name)} -> {_value(new, name)}" for name in names[:_FIELDS_NAMED]]
        more = len(names) - len(told)
        self._tell(f"{key!r}: {', '.join(told)}{f' and {more} more' if more else ''}")

    def _tell(self, what: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(what)

    def comparison(self) -> Comparison:
        return Comparison(
            self.name,
            self.documents,
            self.missing,
            self.extra,
            self.different,
            tuple(self.fields),
            tuple(self.examples),
        )


def _value(document: Mapping[str, Any], name: str) -> Any:
    return document.get(name, "(none)")
