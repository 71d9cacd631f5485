"""Events that were moved to the lake: what stays of them in the log, and the port that brings them back.

In place of an archived event stands a stub: the fields by which events are found, ordered and told apart
stay, so that every index, uniqueness rule and filter works as before; what happened (eventData, the free
metadata) lies in an archive file, as the BSON that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import bson
from bson.codec_options import CodecOptions

from ledgerlake.eventstore.chain import digest
from ledgerlake.eventstore.model import EventStoreError

_UTC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)

# Where a stub names its archive file, and keeps the digest of the event for the hash chain.
ARCHIVED: Final = "archived"
ARCHIVE_FILE: Final = "archived.file"

# A sub-document of that name: without it in the bytes there is no need to decode them.
_STUB_MARK: Final = b"\x03archived\0"

_KEPT: Final = (
    "_id",
    "version",
    "position",
    "recordedAt",
    "aggregateId",
    "aggregateType",
    "eventType",
    "correlationId",
    "commandId",
)
_KEPT_METADATA: Final = ("organizationId", "requestHash")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an archived event lies: the number of its archive file, and its position in the log."""

    file: int
    position: int


class ArchivedEvents(Protocol):
    """The archive, as the event store and the readers of the log see it."""

    def fetch(self, places: Sequence[Place]) -> list[bytes]:
        """The raw BSON of the events at these places, in their order.

        Raises:
            ArchiveError: a file or an event is missing or damaged.
        """
        ...


class ArchiveError(EventStoreError):
    """An archived event can not be brought back."""


class NoArchive:
    """The archive of a reader that was given none: says where to find one."""

    def fetch(self, places: Sequence[Place]) -> list[bytes]:
        raise ArchiveError(
            f"The event at position {places[0].position} was archived, and this reader was given no archive.",
            "Open the ledger with the home that holds its lake (LEDGERLAKE_HOME).",
        )


NO_ARCHIVE: Final = NoArchive()


def stub(document: Mapping[str, Any], raw: bytes, file: int) -> dict[str, Any]:
    """What stays in the log of an event that lies in archive file `file`; `raw` is its BSON as stored."""
    metadata = document["metadata"]
    return {
        **{name: document[name] for name in _KEPT if name in document},
        "metadata": {name: metadata[name] for name in _KEPT_METADATA if name in metadata},
        ARCHIVED: {"file": file, "digest": digest(raw)},
    }


def restored(documents: Iterable[Mapping[str, Any]], archive: ArchivedEvents) -> list[Mapping[str, Any]]:
    """The documents, with the archived event in place of each stub.

    Raises:
        ArchiveError: an archived event is missing or is not the one that was archived.
    """
    found = list(documents)
    stubs = [(number, document) for number, document in enumerate(found) if ARCHIVED in document]
    if not stubs:
        return found
    places = [Place(each[ARCHIVED]["file"], each["position"]) for _, each in stubs]
    for (number, each), raw in zip(stubs, archive.fetch(places), strict=True):
        if digest(raw) != each[ARCHIVED]["digest"]:
            raise ArchiveError(
                f"Archive file {each[ARCHIVED]['file']} holds another event at position {each['position']}.",
                "Restore the file from a backup: `ledgerlake verify` names what differs.",
            )
        found[number] = decode_document(raw)
    return found


def may_hold_stubs(raw: bytes) -> bool:
    """Whether there may be a stub among these documents; a look at the bytes, which costs next to nothing."""
    return _STUB_MARK in raw


def digest_of(raw: bytes) -> bytes:
    """The digest of the event that a document of the log is, or that its stub stands for."""
    if may_hold_stubs(raw) and ARCHIVED in (document := decode_document(raw)):
        return bytes(document[ARCHIVED]["digest"])
    return digest(raw)


def decode_document(raw: bytes) -> Mapping[str, Any]:
    """An event's document from its raw BSON, as the driver would have decoded it."""
    return bson.decode(raw, codec_options=_UTC)
