"""Chains a log that has no chain: one from before there was one, or whose counter was lost."""

from __future__ import annotations

from typing import Any, Final

from bson import Binary, Int64
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.archived import digest_of
from ledgerlake.eventstore.chain import GENESIS, LINK_EVERY, extend_digests
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, LOG_CHAIN
from ledgerlake.mongo.steps import Steps

RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)


def chain_log(database: Any) -> Steps[None]:
    """Give the log its chain up to the head if it has none; a database of either driver.

    Before the first append to a log that was written without a chain, or whose counter was lost: what else
    the counter said of the log, that a stream starts at version 0, is found again too. Goes on from the last
    link that is kept, as an append would, so what was changed before it still shows; without one it reads
    the whole log. Idempotent; of several that run at once the first one's result stays, and it is the same.
    """
    counters, kept = database.get_collection(COUNTERS), database.get_collection(LOG_CHAIN)
    log = database.get_collection(EVENTS, codec_options=RAW, read_concern=ReadConcern("majority"))
    while True:
        counter = yield counters.find_one({"_id": EVENTS})
        if counter is None or "chain" in counter:
            return
        head = int(counter["position"])
        link = yield kept.find_one({"_id": {"$lte": head}}, sort=[("_id", -1)])
        position, value = (0, GENESIS) if link is None else (int(link["_id"]), bytes(link["hash"]))
        cursor = log.find({"position": {"$gt": position, "$lte": head}}).sort("position", 1)
        while documents := (yield cursor.to_list(LINK_EVERY)):
            value = extend_digests(value, [digest_of(bytes(document.raw)) for document in documents])
            position += len(documents)
            yield kept.update_one(
                {"_id": Int64(position)}, {"$setOnInsert": {"hash": Binary(value)}}, upsert=True
            )
        found: dict[str, Any] = {"chain": Binary(value)}
        if (yield log.find_one({"version": 0}, {"_id": 1})) is not None:
            found["zeroBased"] = True
        yield counters.update_one(
            {"_id": EVENTS, "position": head, "chain": {"$exists": False}}, {"$set": found}
        )
