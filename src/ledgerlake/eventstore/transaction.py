"""One batch of requests as one majority-committed, journaled transaction.

Its first write is on the counter, which locks it: no other append can commit in between, and the
transaction's snapshot holds every earlier one. Positions are therefore gapless and become visible in
order, and a reader that polls `position > checkpoint` never misses one.

Most batches read nothing. The last batch has left behind where the log ends, so the documents and their
hash are made before the transaction; the counter is moved only if it still stands there, and the unique
indexes on (aggregateId, version) and on commandId decide. Only where another process has appended, an
index objects, or an append's expectation needs the stream's version, are those read inside the transaction.

The bodies are generators of driver calls (`ledgerlake.mongo.steps`), so both drivers keep the same rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import Binary, Int64
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from ledgerlake.eventstore.chain import GENESIS, passes_link
from ledgerlake.eventstore.chaining import chain_log
from ledgerlake.eventstore.inline import Inline, InlineBatch, NotWritten
from ledgerlake.eventstore.model import (
    Append,
    LogCorrupted,
    Outcome,
    StoreUnavailable,
)
from ledgerlake.eventstore.planning import (
    Document,
    Plan,
    Request,
    Tail,
    checkpoint_writes,
    counter_fields,
    make_plan,
    plan_unread,
)
from ledgerlake.eventstore.settlement import Done, settle
from ledgerlake.mongo.indexes import COUNTERS, EVENTS, LOG_CHAIN, SUBSCRIPTIONS
from ledgerlake.mongo.steps import Steps
from ledgerlake.mongo.transactions import (
    CONCERNS,
    UnknownCommit,
    backoff_seconds,
    commit_steps,
    is_transient,
)

# How long a batch is tried before its writers are told; they may send the same commands again.
GIVE_UP_AFTER_SECONDS: Final = 60.0
# After an index objected, or another process appended, so many batches are settled by reading, or look for
# the end of the log: both come in runs.
BATCHES_OF_CAUTION: Final = 16
# Versions seen, by stream. A log only grows, so a version that was seen once is a lower bound for ever.
SEEN_STREAMS: Final = 100_000

COUNTER_ID: Final = EVENTS

_DONE_FIELDS: Final = {
    "_id": 0,
    "commandId": 1,
    "aggregateId": 1,
    "version": 1,
    "position": 1,
    "metadata.requestHash": 1,
}


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did: the outcomes (see Settlement), and the documents it stored."""

    outcomes: list[list[Outcome]]
    refused: Mapping[int, Outcome]
    documents: list[RawBSONDocument]


class _Surprise(Exception):
    """Something was not as assumed, so this attempt has written nothing: take the careful way."""


class _IndexObjected(_Surprise):
    """A unique index, or a checkpoint, refused what was written without reading."""


class _Unchained(_Surprise):
    """The log has events and no hash chain yet."""


class AppendTransaction:
    """Commits batches on one database. One committer owns it, and runs one `commit` at a time.

    Args:
        database: of either driver; `commit` and `close` are bodies to be run by the steps of that driver.
        sleep: seconds; blocking, or a coroutine function, as the driver is.
        inline: what is written in the same transactions beside the events, if anything is.
    """

    def __init__(
        self,
        database: Any,
        *,
        sleep: Callable[[float], Any] = time.sleep,
        give_up_after: float = GIVE_UP_AFTER_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        inline: Inline | None = None,
    ) -> None:
        self._database = database
        self._events = database.get_collection(EVENTS)
        self._counters = database.get_collection(COUNTERS)
        self._checkpoints = database.get_collection(SUBSCRIPTIONS)
        self._links = database.get_collection(LOG_CHAIN)
        self._session: Any = None
        self._sleep = sleep
        self._give_up_after = give_up_after
        self._clock = clock
        self._inline = inline
        self._seen: dict[str, int] = {}
        self._tail: Tail | None = None
        self._reads_left = 0
        self._looks_left = 0

    def saw(self, versions: Mapping[str, int]) -> None:
        """Note stream versions that were read at majority: they spare the transaction a read."""
        if len(self._seen) > SEEN_STREAMS:
            self._seen = {}
        self._seen.update(versions)

    def close(self) -> Steps[None]:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            yield session.end_session()

    def commit(self, requests: Sequence[Request]) -> Steps[Committed]:
        """Settle and store the requests in one transaction.

        Raises:
            StoreUnavailable: not confirmed within the time limit; it may or may not be stored, and
                sending the same commands again is safe.
            LogCorrupted: the counter is behind the log.
        """
        deadline = time.monotonic() + self._give_up_after
        tries = 0
        chained = True
        beside = None if self._inline is None else self._inline.batch()
        while True:
            if self._session is None:
                self._session = self._database.client.start_session(causal_consistency=False)
            try:
                if not chained:
                    yield from chain_log(self._database)
                    chained = True
                plan = yield from self._run(self._session, requests, deadline, beside)
            except _Unchained:
                yield from self._abort()
                chained = False
            except _IndexObjected:
                yield from self._abort()
                self._reads_left = BATCHES_OF_CAUTION
            except NotWritten:
                yield from self._abort()
                assert beside is not None
                yield from beside.mend()
            except PyMongoError as error:
                yield from self._abort()
                if not is_transient(error):
                    raise
                tries += 1
                if time.monotonic() > deadline:
                    raise _unavailable(error) from error
                yield self._sleep(backoff_seconds(tries))
            except UnknownCommit as error:
                raise _unavailable(error) from error
            except BaseException:
                yield from self._abort()
                raise
            else:
                self._reads_left = max(0, self._reads_left - 1)
                self._looks_left = max(0, self._looks_left - 1)
                settled = plan.settlement
                if beside is not None and plan.documents:
                    yield from beside.committed()
                self.saw({each.append.stream_id: each.last_version for each in settled.accepted})
                return Committed(settled.outcomes, settled.refused, plan.documents)

    def _run(
        self,
        session: Any,
        requests: Sequence[Request],
        deadline: float,
        beside: InlineBatch | None,
    ) -> Steps[Plan]:
        tail = None if self._looks_left else self._tail
        plan = None if tail is None else self._plan_unread(requests, tail)
        yield session.start_transaction(**CONCERNS)
        if tail is None or plan is None or not (yield from self._moved(session, tail, plan)):
            tail = yield from self._lock(session, requests)
            plan = self._plan_unread(requests, tail)
            if plan is None:
                plan = yield from self._plan_read(session, requests, tail)
            if not plan.documents and not plan.settlement.checkpoints:
                # What was read counts once a majority has it: an answer given before that could rest on an
                # append that is rolled back. So the counter goes back, and the commit waits for a majority.
                yield self._counters.update_one(
                    {"_id": COUNTER_ID}, {"$set": counter_fields(tail)}, session=session
                )
                yield from commit_steps(session, deadline, self._sleep)
                return plan
            yield self._counters.update_one(
                {"_id": COUNTER_ID}, {"$set": counter_fields(plan.tail)}, session=session
            )
        try:
            yield from self._write(session, tail, plan)
        except (BulkWriteError, DuplicateKeyError) as error:
            if not _duplicate_key(error):
                raise
            if plan.assumed is None:
                raise LogCorrupted(
                    f"Position {tail.position + 1}, or a version, is taken: "
                    f"the counter is behind the log ({error}).",
                    "Run `ledgerlake verify`; something wrote to the events collection by itself.",
                ) from error
            raise _IndexObjected from error
        if beside is not None and plan.documents:
            yield from beside.write(self._database, session, plan.documents, tail.position)
        yield from commit_steps(session, deadline, self._sleep)
        if plan.documents:
            self._tail = plan.tail
        return plan

    def _moved(self, session: Any, tail: Tail, plan: Plan) -> Steps[bool]:
        """Lock the counter and move it, if the log still ends where the last batch left it."""
        if not plan.documents:
            return True
        counter = yield self._counters.find_one_and_update(
            {"_id": COUNTER_ID, "position": Int64(tail.position), "chain": Binary(tail.chain)},
            {"$set": counter_fields(plan.tail)},
            projection={"_id": 1},
            session=session,
        )
        if counter is None:
            self._looks_left = BATCHES_OF_CAUTION
        return counter is not None

    def _lock(self, session: Any, requests: Sequence[Request]) -> Steps[Tail]:
        """Lock the counter, whatever it says, and find the end of the log."""
        wanted = sum([len(append.events) for request in requests for append in request.write.appends])
        counter = yield self._counters.find_one_and_update(
            {"_id": COUNTER_ID}, {"$inc": {"position": Int64(wanted)}}, session=session
        )
        if counter is None:
            raise LogCorrupted(
                "The counter of event positions is missing.", "Open the database with open_database() first."
            )
        position = int(counter["position"])
        chain = counter.get("chain")
        if chain is None and position:
            raise _Unchained
        return Tail(position, GENESIS if chain is None else bytes(chain), bool(counter.get("zeroBased")))

    def _plan_unread(self, requests: Sequence[Request], tail: Tail) -> Plan | None:
        return None if self._reads_left else plan_unread(requests, tail, self._seen, self._clock())

    def _plan_read(self, session: Any, requests: Sequence[Request], tail: Tail) -> Steps[Plan]:
        writes = [request.write for request in requests]
        appends = [append for write in writes for append in write.appends]
        heads, done = (yield from self._read(session, appends)) if appends else ({}, {})
        names = {write.checkpoint.name for write in writes if write.checkpoint is not None}
        checkpoints: dict[str, int] = {}
        if names:
            cursor = self._checkpoints.find({"_id": {"$in": sorted(names)}}, {"position": 1}, session=session)
            checkpoints = {row["_id"]: int(row["position"]) for row in (yield cursor.to_list())}
        settlement = settle(writes, heads, done, tail.position, checkpoints)
        return make_plan(requests, tail, settlement, None, self._clock())

    def _read(self, session: Any, appends: Sequence[Append]) -> Steps[tuple[dict[str, int], dict[str, Done]]]:
        """The last versions of the appends' streams, and what is known of their command ids."""
        cursor = yield self._events.aggregate(
            last_versions({append.stream_id for append in appends}), session=session
        )
        heads = {row["_id"]: int(row["version"]) for row in (yield cursor.to_list())}
        ids = [append.command_id for append in appends if append.command_id is not None]
        cursor = self._events.find({"commandId": {"$in": ids}}, _DONE_FIELDS, session=session)
        done = {
            row["commandId"]: Done(
                row["aggregateId"],
                int(row["version"]),
                int(row["position"]),
                row["metadata"].get("requestHash"),
            )
            for row in (yield cursor.to_list())
        }
        return heads, done

    def _write(self, session: Any, before: Tail, plan: Plan) -> Steps[None]:
        after = plan.tail
        if plan.documents:
            # insert_many would look at every document once more, in Python.
            insert = {"insert": EVENTS, "documents": plan.documents}
            reply = yield self._database.command(insert, session=session)
            if "writeErrors" in reply:
                raise BulkWriteError(reply)
        if passes_link(before.position, after.position):
            link = {"_id": Int64(after.position), "hash": Binary(after.chain)}
            yield self._links.insert_one(link, session=session)
        if plan.settlement.checkpoints:
            moves = checkpoint_writes(plan.settlement.checkpoints, plan.assumed, self._clock())
            result = yield self._checkpoints.bulk_write(moves, session=session)
            if result.matched_count + result.upserted_count < len(moves):
                raise _IndexObjected

    def _abort(self) -> Steps[None]:
        session = self._session
        try:
            if session.in_transaction:
                yield session.abort_transaction()
        except PyMongoError:
            # The server rolls an abandoned transaction back by itself; a fresh session leaves it behind.
            yield from self.close()


def last_versions(streams: Collection[str]) -> list[Document]:
    """A pipeline that gives each of the streams that exist as {_id, version} with its last version."""
    # The sort and the $first let the index (aggregateId, version) answer with one entry a stream.
    return [
        {"$match": {"aggregateId": {"$in": list(streams)}}},
        {"$sort": {"aggregateId": -1, "version": -1}},
        {"$group": {"_id": "$aggregateId", "version": {"$first": "$version"}}},
    ]


def _duplicate_key(error: BulkWriteError | DuplicateKeyError) -> bool:
    if isinstance(error, DuplicateKeyError):
        return True
    return any(e.get("code") == 11000 for e in (error.details or {}).get("writeErrors", ()))


def _unavailable(error: PyMongoError | UnknownCommit) -> StoreUnavailable:
    return StoreUnavailable(
        f"MongoDB did not confirm the append in time ({type(error).__name__}: {error}).",
        "Send the same commands again, with the same command ids: none happens twice.",
    )
