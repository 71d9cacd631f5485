"""Control sums: counts and minor units per organization, currency and outcome, of one layer.

To add up a read model takes the longer the more it holds. Whether anybody has written to it since is told at
once: the server counts the writes to each collection, and a file has its inode, time and size. So sums are
kept with what they were made of, and are as good as new while that is the same: whoever changes a document by
hand is counted like anybody else. Those from before the last full verification do not count any more.

It takes two looks to keep them. What is written in a transaction is counted before it can be seen; so a look
at something new only notes what it is made of, and one that finds the same when no such transaction can be
open any more keeps the sums. That also spares a ledger in use what is never read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DocumentTooLarge, OperationFailure
from pymongo.read_concern import ReadConcern

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.definitions import STATES
from ledgerlake.lake.parquet import read_footer, read_verified
from ledgerlake.lake.tables import TABLES
from ledgerlake.mongo.indexes import CONTROL_SUMS, EVENTS
from ledgerlake.projections import checkpoints, model
from ledgerlake.reconciliation.model import Figure, Key
from ledgerlake.reconciliation.record import allowed, last_verification

Document: TypeAlias = dict[str, Any]
# What a layer knows of each key; a count that it does not keep is 0 on both sides.
Sums: TypeAlias = dict[Key, Figure]
Row: TypeAlias = dict[str, Any]
# Sums, and since when (UTC) they are kept: None of what was added up just now.
Kept: TypeAlias = tuple[Sums, datetime | None]

_NO_OUTCOME: Final = {"failure_reasons": "failed"}
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
# A transaction lasts a minute (transactionLifetimeLimitSeconds), and is ended half of that later at most.
_SETTLED: Final = timedelta(minutes=2)
# More than 16 MB, by the server. Beyond another 16 KB the driver says so.
_TOO_LARGE: Final = (10334, 17419)


class ControlSums:
    """The sums of read models (those named), of the log and of the lake's tables.

    To be made before the snapshot that it adds up in: what is written in between is then added up next time.
    """

    def __init__(self, db: Database[Document], *names: str) -> None:
        self._db = db
        hello = db.command("hello", codec_options=db.codec_options)
        # What was committed before, by the server's clock, is at the majority: a snapshot from now on has it.
        self._until: datetime = hello.get("lastWrite", {}).get("majorityWriteDate", hello["localTime"])
        verified = allowed(lambda: last_verification(db))
        self._verified = _NEVER if verified is None else verified.at
        self._written = _written(db, hello, names)

    def of_read_model(self, name: str, session: ClientSession | None = None) -> Kept:
        """Movements in a read model that has counts and sums.

        Raises:
            LedgerLakeError: a sum is more than 64 bits hold.
        """
        collection = model(self._db, name, session)
        made_of = self._written.get(collection.name)
        if made_of is not None:
            # Whoever fills a read model moves its checkpoint in the same transaction, or counts a dead letter
            # there: that is told however long a transaction lasts.
            for _, at in checkpoints.slots(self._db, name, session):
                made_of += f" {at.generation} {at.position} {at.set_aside}"
        return self._kept(name, made_of, lambda: _added_up(collection, _NO_OUTCOME.get(name), session))

    def of_table(self, root: Path, path: str) -> Kept:
        """Movements, or payments, in a table of the lake in the folder `root`.

        Raises:
            CorruptFileError, FileNotFoundError: it can not be read.
            LedgerLakeError: payments have more refunded than can be.
        """
        file = root / path
        state = file.stat()
        footer = read_footer(file).stated["footer_hash"]
        made_of = f"{state.st_ino} {state.st_mtime_ns} {state.st_size} {footer}"

        def add_up() -> Sums:
            rows: list[Row] = read_verified(file, TABLES[path].schema).to_pylist()
            return states(rows) if TABLES[path] is STATES else movements(rows)

        return self._kept(path, made_of, add_up)

    def of_log(self, after: int, up_to: int, session: ClientSession) -> int:
        """How many events the log has with after < position <= up_to."""
        made_of = self._written.get(EVENTS)

        def count() -> Sums:
            between = {"position": {"$gt": after, "$lte": up_to}}
            return {("", "", ""): Figure(self._db[EVENTS].count_documents(between, session=session), 0)}

        found, _ = self._kept(EVENTS, None if made_of is None else f"{made_of} {after} {up_to}", count)
        return sum(figure.count for figure in found.values())

    def _kept(self, name: str, made_of: str | None, add_up: Callable[[], Sums]) -> Kept:
        """The sums that are kept, if they were made of that; else what `add_up` gives, to be kept in time."""
        if made_of is None:
            return add_up(), None
        kept, same = self._db[CONTROL_SUMS], {"_id": name, "madeOf": made_of}
        known = allowed(lambda: kept.find_one(same))
        if known is not None and known.get("at", _NEVER) > self._verified:
            rows = known["sums"]
            return {(one, other, third): Figure(*figure) for one, other, third, *figure in rows}, known["at"]
        now = datetime.now(UTC)
        sums = add_up()
        if known is None:
            # By the server's clock, and when it has counted.
            noted = {"$set": {"madeOf": made_of}, "$currentDate": {"seen": True}}
            update = {**noted, "$unset": {"at": "", "sums": ""}}
            allowed(lambda: kept.update_one({"_id": name}, update, upsert=True))
        elif known["seen"] + _SETTLED <= self._until:
            with suppress(OverflowError, DocumentTooLarge):  # added up anew each time, then
                found = [[*key, Int64(each.count), Int64(each.minor or 0)] for key, each in sums.items()]
                allowed(lambda: kept.update_one(same, {"$set": {"at": now, "sums": found}}), *_TOO_LARGE)
        return sums, None


def _written(db: Database[Document], hello: Document, names: Iterable[str]) -> dict[str, str]:
    """By collection, a text that is another one once anybody has written to it; none where nobody tells."""
    wanted = sorted({model(db, name).name for name in names})
    if not wanted or "setName" not in hello:
        return {}  # or a sharded cluster: its shards change their primaries without a word
    # Counted from its start on by each server for itself.
    server = f"{hello['topologyVersion']['processId']} {hello.get('electionId')}"
    found = {}
    for each in db.list_collections(filter={"name": {"$in": wanted}}):
        name, uuid = each["name"], each["info"]["uuid"].hex()
        local = db.get_collection(name, read_concern=ReadConcern("local"))
        with suppress(OperationFailure):  # whom it does not tell, and what is gone by now
            [told] = local.aggregate([{"$collStats": {"latencyStats": {}}}])
            found[name] = f"{server} {told['host']} {uuid} {told['latencyStats']['writes']['ops']}"
    return found


def _added_up(collection: Collection[Document], outcome: str | None, session: ClientSession | None) -> Sums:
    """By the server; movements of a read model without a status all have the `outcome`."""
    group = {
        "_id": {"organization": "$organizationId", "currency": "$currency", "status": "$status"},
        "count": {"$sum": "$count"},
        # Half the cost of decimals. One that 64 bits do not hold comes as a double, and is told.
        "minor": {"$sum": "$totalMinor"},
    }
    found: list[tuple[Key, int, int]] = []
    for row in collection.aggregate([{"$group": group}], session=session, allowDiskUse=True):
        key, minor = row["_id"], row["minor"]
        if isinstance(minor, float):
            raise LedgerLakeError(f"A sum of {collection.name} is more than 64 bits hold.")
        status = key["status"] if outcome is None else outcome
        found.append(((key["organization"], key["currency"], status), int(row["count"]), int(minor)))
    return total(found)


def movements(rows: Iterable[Row]) -> Sums:
    """Rows with organization, currency, status, count and sum, added up."""
    return total(
        ((row["organization_id"], row["currency"], row["status"]), row["count"], row["total_minor"])
        for row in rows
    )


def states(rows: Iterable[Row]) -> Sums:
    """Payments by state as movements: those that were processed, and what was refunded, uncounted.

    Raises:
        LedgerLakeError: payments of a state have more refunded than can be.
    """
    found: list[tuple[Key, int, int]] = []
    for row in rows:
        organization, currency, refunded = row["organization_id"], row["currency"], row["refunded_minor"]
        processed = not row["unreferenced"] and row["status"] != "failed"
        amount = row["amount_minor"] if processed else 0
        if not row["unreferenced"] and refunded > amount:
            raise LedgerLakeError(
                f"Payments of organization {organization!r}, {currency} that are {row['status']} have a"
                " negative balance: more was refunded than processed."
            )
        found.append(((organization, currency, "completed"), row["count"] if processed else 0, amount))
        found.append(((organization, currency, "refunded"), 0, refunded))
    return total(found)


def only(
    sums: Sums, *, outcome: str | None = None, payments: bool = False, by_organization: bool = True
) -> Sums:
    """The sums of one outcome; or as payments have them, or over all organizations."""
    return total(
        (
            (organization if by_organization else "", currency, status),
            0 if payments and status == "refunded" else figure.count,
            figure.minor or 0,
        )
        for (organization, currency, status), figure in sums.items()
        if outcome in (None, status) and not (payments and status == "failed")
    )


def added(one: Sums, other: Sums, sign: int = 1) -> Sums:
    """One with the other put in, or with -1 taken out."""
    return total(
        (key, by * figure.count, by * (figure.minor or 0))
        for sums, by in ((one, 1), (other, sign))
        for key, figure in sums.items()
    )


def total(rows: Iterable[tuple[Key, int, int]]) -> Sums:
    """The figures of keys, each key's counts and sums added up."""
    totals: dict[Key, list[int]] = {}
    for key, count, minor in rows:
        figure = totals.setdefault(key, [0, 0])
        figure[0] += count
        figure[1] += minor
    return {key: Figure(*figure) for key, figure in totals.items()}
