"""One batch of appends as one majority-committed, journaled transaction.

The counter is incremented first: that locks it, so no other append can commit in between and the
transaction's snapshot holds every earlier one. Positions are therefore gapless and become visible in
order, and a reader that polls `position > checkpoint` never misses one.

Most batches read nothing: the unique indexes on (aggregateId, version) and on commandId decide. Only
when one of them objects, or when an append's expectation needs the stream's current version, is the
batch settled against versions and command ids that are read inside the transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from bson import Int64
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from ledgerlake.eventstore.encoding import complete
from ledgerlake.eventstore.model import Append, LogCorrupted, Outcome, StoreUnavailable
from ledgerlake.eventstore.settlement import Accepted, Done, settle
from ledgerlake.mongo.transactions import CONCERNS, UnknownCommit, backoff, commit_until_known, is_transient

Document = dict[str, Any]

# How long a batch is tried before its writers are told; they may send the same commands again.
GIVE_UP_AFTER_SECONDS: Final = 60.0
# After the indexes objected once, so many batches are settled by reading: repeats come in runs.
READS_AFTER_OBJECTION: Final = 16
# Versions seen, by stream. A log only grows, so a version that was seen once is a lower bound for ever.
SEEN_STREAMS: Final = 100_000

COUNTER_ID: Final = "events"


class Request(Protocol):
    """The appends of one writer, with their documents encoded."""

    @property
    def appends(self) -> Sequence[Append]: ...

    @property
    def encoded(self) -> Sequence[Sequence[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did: outcomes in the shape of the requests, and the documents it stored."""

    outcomes: list[list[Outcome]]
    documents: list[RawBSONDocument]


class _IndexObjected(Exception):
    """A unique index refused the optimistic insert: settle the batch by reading."""


class AppendTransaction:
    """Commits batches on one database. Not thread-safe: one committer owns it."""

    def __init__(
        self,
        database: Database[Document],
        *,
        give_up_after: float = GIVE_UP_AFTER_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._events = database.get_collection("events")
        raw: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
        self._raw_events: Collection[RawBSONDocument] = self._events.with_options(codec_options=raw)
        self._counters = database.get_collection("counters")
        self._client = database.client
        self._session: ClientSession | None = None
        self._give_up_after = give_up_after
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._reads_left = 0

    def saw(self, versions: Mapping[str, int]) -> None:
        """Note stream versions that were read at majority: they spare the transaction a read."""
        if len(self._seen) > SEEN_STREAMS:
            self._seen = {}
        self._seen.update(versions)

    def close(self) -> None:
        if self._session is not None:
            self._session.end_session()
            self._session = None

    def commit(self, requests: Sequence[Request]) -> Committed:
        """Settle and store the requests' appends in one transaction.

        Raises:
            StoreUnavailable: not confirmed within the time limit; it may or may not be stored, and
                sending the same commands again is safe.
            LogCorrupted: the counter is behind the log.
        """
        deadline = time.monotonic() + self._give_up_after
        tries = 0
        while True:
            if self._session is None:
                self._session = self._client.start_session(causal_consistency=False)
            session = self._session
            try:
                committed = self._run(session, requests, deadline)
            except _IndexObjected:
                self._abort(session)
                self._reads_left = READS_AFTER_OBJECTION
                continue
            except PyMongoError as error:
                self._abort(session)
                if not is_transient(error):
                    raise
                tries += 1
                if time.monotonic() > deadline:
                    raise _unavailable(error) from error
                backoff(tries)
                continue
            except UnknownCommit as error:
                raise _unavailable(error) from error
            except BaseException:
                self._abort(session)
                raise
            self._reads_left = max(0, self._reads_left - 1)
            self.saw({a.append.stream_id: a.after_version + len(a.append.events) for a in committed[1]})
            return committed[0]

    def _run(
        self, session: ClientSession, requests: Sequence[Request], deadline: float
    ) -> tuple[Committed, list[Accepted]]:
        appends = [append for request in requests for append in request.appends]
        wanted = sum(len(append.events) for append in appends)
        session.start_transaction(**CONCERNS)
        counter = self._counters.find_one_and_update(
            {"_id": COUNTER_ID},
            {"$inc": {"position": Int64(wanted)}},
            return_document=ReturnDocument.BEFORE,
            session=session,
        )
        if counter is None:
            raise LogCorrupted(
                "The counter of event positions is missing.", "Open the database with open_database() first."
            )
        head: int = counter["position"]
        heads = None if self._reads_left else self._assumed_heads(appends)
        by_reading = heads is None
        done: dict[str, Done] = {}
        if heads is None:
            heads, done = self._read(session, appends)
        outcomes, accepted = settle([request.appends for request in requests], heads, done, head)
        if not accepted:
            session.abort_transaction()
            return Committed(outcomes, []), []
        documents = _documents(accepted, requests, head, self._clock())
        if len(documents) < wanted:
            self._counters.update_one(
                {"_id": COUNTER_ID}, {"$inc": {"position": Int64(len(documents) - wanted)}}, session=session
            )
        try:
            self._raw_events.insert_many(documents, session=session)
        except (BulkWriteError, DuplicateKeyError) as error:
            if not _duplicate_key(error):
                raise
            if by_reading:
                raise LogCorrupted(
                    f"Position {head + 1}, or a version, is taken: the counter is behind the log ({error}).",
                    "Run `ledgerlake verify`; something wrote to the events collection by itself.",
                ) from error
            raise _IndexObjected from error
        commit_until_known(session, deadline)
        return Committed(outcomes, documents), accepted

    def _assumed_heads(self, appends: Sequence[Append]) -> dict[str, int] | None:
        """The versions under which the unique indexes alone decide; None where a read is needed.

        With "no stream" the first event's version decides: if the stream exists, the index objects.
        With "exact n" it does so too, given that version n was seen. "Any" and "stream exists" take
        the version last seen, and the index objects if it is out of date.
        """
        heads: dict[str, int] = {}
        commands: set[str] = set()
        for append in appends:
            if append.command_id is not None:
                if append.command_id in commands:
                    return None
                commands.add(append.command_id)
            if append.stream_id in heads:
                continue
            seen = self._seen.get(append.stream_id, 0)
            if seen != (append.expected.version if append.expected.version is not None else seen or None):
                return None
            heads[append.stream_id] = seen
        return heads

    def _read(
        self, session: ClientSession, appends: Sequence[Append]
    ) -> tuple[dict[str, int], dict[str, Done]]:
        streams = list({append.stream_id for append in appends})
        # The sort and the $first let the index (aggregateId, version) answer with one entry a stream.
        heads = {
            row["_id"]: int(row["version"])
            for row in self._events.aggregate(
                [
                    {"$match": {"aggregateId": {"$in": streams}}},
                    {"$sort": {"aggregateId": -1, "version": -1}},
                    {"$group": {"_id": "$aggregateId", "version": {"$first": "$version"}}},
                ],
                session=session,
            )
        }
        ids = [append.command_id for append in appends if append.command_id is not None]
        done = {
            row["commandId"]: Done(
                row["aggregateId"],
                int(row["version"]),
                int(row["position"]),
                row["metadata"].get("requestHash"),
            )
            for row in self._events.find(
                {"commandId": {"$in": ids}},
                {
                    "_id": 0,
                    "commandId": 1,
                    "aggregateId": 1,
                    "version": 1,
                    "position": 1,
                    "metadata.requestHash": 1,
                },
                session=session,
            )
        }
        return heads, done

    def _abort(self, session: ClientSession) -> None:
        try:
            if session.in_transaction:
                session.abort_transaction()
        except PyMongoError:
            # The server rolls an abandoned transaction back by itself; a fresh session leaves it behind.
            self.close()


def _documents(
    accepted: Sequence[Accepted], requests: Sequence[Request], head: int, now: datetime
) -> list[RawBSONDocument]:
    documents: list[RawBSONDocument] = []
    position = head
    for item in accepted:
        encoded = requests[item.request].encoded[item.number]
        for version, document in enumerate(encoded, start=item.after_version + 1):
            position += 1
            documents.append(complete(document, version, position, now))
    return documents


def _duplicate_key(error: BulkWriteError | DuplicateKeyError) -> bool:
    if isinstance(error, DuplicateKeyError):
        return True
    return any(e.get("code") == 11000 for e in (error.details or {}).get("writeErrors", ()))


def _unavailable(error: PyMongoError | UnknownCommit) -> StoreUnavailable:
    return StoreUnavailable(
        f"MongoDB did not confirm the append in time ({type(error).__name__}: {error}).",
        "Send the same commands again, with the same command ids: none happens twice.",
    )
