"""Chains a log that was written before there was a chain, and reads what its verifier needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bson import Binary, Int64
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.archived import digest_of
from ledgerlake.eventstore.chain import GENESIS, LINK_EVERY, Link, extend
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, LOG_CHAIN
from ledgerlake.mongo.steps import Steps

RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)


def chain_log(database: Any) -> Steps[None]:
    """Give the log its chain up to the head if it has none yet; a database of either driver.

    Runs once in a log's life, before its first append by this version, and reads the whole log. Idempotent;
    of several that run at once the first one's result stays, and it is the same.
    """
    counters = database.get_collection(COUNTERS)
    while True:
        counter = yield counters.find_one({"_id": EVENTS})
        if counter is None or "chain" in counter:
            return
        head = int(counter["position"])
        position, value = 0, GENESIS
        cursor = (
            database.get_collection(EVENTS, codec_options=RAW, read_concern=ReadConcern("majority"))
            .find({"position": {"$lte": head}})
            .sort("position", 1)
        )
        while documents := (yield cursor.to_list(LINK_EVERY)):
            value = extend(value, [bytes(document.raw) for document in documents])
            position += len(documents)
            link = {"_id": Int64(position), "hash": Binary(value)}
            yield database[LOG_CHAIN].replace_one({"_id": link["_id"]}, link, upsert=True)
        yield counters.update_one(
            {"_id": EVENTS, "position": head, "chain": {"$exists": False}}, {"$set": {"chain": Binary(value)}}
        )


def links(database: Database[dict[str, Any]], after: int = 0) -> list[Link]:
    """The links that are kept, and the head as the last one, in position order."""
    majority = ReadConcern("majority")
    # The head first: a link that is newer than it would seem to be beyond the end of the log.
    counter = database.get_collection(COUNTERS, read_concern=majority).find_one({"_id": EVENTS}) or {}
    head = Link(int(counter.get("position", 0)), bytes(counter.get("chain", GENESIS)))
    kept = (
        database.get_collection(LOG_CHAIN, read_concern=majority)
        .find({"_id": {"$gt": after, "$lt": head.position}})
        .sort("_id", 1)
    )
    return [*(Link(int(link["_id"]), bytes(link["hash"])) for link in kept), head]


def digests(database: Database[Any], up_to: int, after: int = 0) -> Iterator[bytes]:
    """The digests of the events at positions after + 1 to up_to, as the database holds them now."""
    events: Collection[RawBSONDocument] = database.get_collection(
        EVENTS, codec_options=RAW, read_concern=ReadConcern("majority")
    )
    for document in events.find({"position": {"$gt": after, "$lte": up_to}}).sort("position", 1):
        yield digest_of(bytes(document.raw))
