"""The collections and indexes of the ledger's database, each index with the query it serves.

Those of read models stand with their projections, which make them when they first run.

There is no TTL index on purpose: an event that expires would tear a hole in the audit trail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

EVENTS = "events"
COUNTERS = "counters"
REJECTIONS = "command_rejections"
CHECKPOINTS = "projections_metadata"
PAYMENTS = "payment_read_models"
STATISTICS = "payment_statistics"
TRENDS = "payment_trends"
DEAD_LETTERS = "projection_dead_letters"
SUBSCRIPTIONS = "subscriptions"
PARKED_EVENTS = "parked_events"
LOG_CHAIN = "log_chain"
PERSONAL_KEYS = "personal_keys"
SNAPSHOTS = "snapshots"
PERIODS = "billing_periods"
VERIFICATIONS = "verifications"
CONTROL_SUMS = "control_sums"
ACCESS_TOKENS = "access_tokens"

_NAMESPACE_EXISTS = 48

# Two transactions that both create a collection get in each other's way, so all exist beforehand.
COLLECTIONS = (
    EVENTS,
    COUNTERS,
    REJECTIONS,
    CHECKPOINTS,
    DEAD_LETTERS,
    SUBSCRIPTIONS,
    LOG_CHAIN,
    PARKED_EVENTS,
    PERSONAL_KEYS,
    SNAPSHOTS,
    PERIODS,
    VERIFICATIONS,
    CONTROL_SUMS,
    ACCESS_TOKENS,
)


@dataclass(frozen=True, slots=True)
class Index:
    """An index: `keys` as (field, direction) pairs, and in `serves` the query or rule it is there for."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    serves: str
    unique: bool = False
    partial: Mapping[str, Any] | None = None

    def model(self) -> IndexModel:
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.partial is not None:
            options["partialFilterExpression"] = dict(self.partial)
        return IndexModel(list(self.keys), **options)


INDEXES = (
    Index(
        EVENTS,
        "events_position",
        (("position", ASCENDING),),
        "read the log in order after a checkpoint; no position is given twice",
        unique=True,
    ),
    Index(
        EVENTS,
        "events_stream",
        (("aggregateId", ASCENDING), ("version", ASCENDING)),
        "load one payment's events in order, and its last version; no version is written twice",
        unique=True,
    ),
    Index(
        EVENTS,
        "events_command",
        (("commandId", ASCENDING),),
        "has this command been carried out already; no command is carried out twice",
        unique=True,
        partial={"commandId": {"$exists": True}},
    ),
    Index(
        EVENTS,
        "events_correlation",
        (("correlationId", ASCENDING), ("position", ASCENDING)),
        "all that came of one conversation, in order",
    ),
    Index(
        EVENTS,
        "events_archived",
        (("archived.file", ASCENDING), ("position", ASCENDING)),
        "the events that were archived, file by file; empty, and free, until there are any",
        partial={"archived": {"$exists": True}},
    ),
    Index(
        REJECTIONS,
        "rejections_reason",
        (("reasonCode", ASCENDING), ("rejectedAt", DESCENDING)),
        "the latest rejections of a reason, and how many there are of each",
    ),
    Index(
        REJECTIONS,
        "rejections_of_command",
        (("commandId", ASCENDING), ("rejectedAt", DESCENDING)),
        "the rejections of a command that was accepted after all; the latest ones of a credit note",
    ),
    Index(
        REJECTIONS,
        "rejections_of_payment",
        (("paymentId", ASCENDING), ("rejectedAt", DESCENDING), ("organizationId", ASCENDING)),
        "what was refused last on a payment, of all organizations or of some, for its audit",
    ),
    Index(
        REJECTIONS,
        "rejections_source",
        (("source.file", ASCENDING), ("source.line", ASCENDING)),
        "the rejections of one imported file, in the order of its lines",
    ),
    Index(
        PERSONAL_KEYS,
        "personal_keys_user",
        (("userId", ASCENDING),),
        "a person's key; nobody gets two; what is left of a forgotten one names no user",
        unique=True,
        partial={"userId": {"$exists": True}},
    ),
    Index(
        PARKED_EVENTS,
        "parked_in_order",
        (("subscription", ASCENDING), ("position", ASCENDING)),
        "what a subscription has parked, in order",
    ),
    Index(
        PARKED_EVENTS,
        "parked_of_stream",
        (("subscription", ASCENDING), ("aggregateId", ASCENDING)),
        "has a subscription parked an event of this stream",
    ),
    Index(
        DEAD_LETTERS,
        "dead_letters_in_order",
        (("projectionName", ASCENDING), ("position", ASCENDING)),
        "what a projection has set aside, in order",
    ),
    Index(
        DEAD_LETTERS,
        "dead_letters_of_stream",
        (("projectionName", ASCENDING), ("aggregateId", ASCENDING), ("position", ASCENDING)),
        "the streams of which a projection has set events aside, and these in order",
    ),
)


def ensure_schema(
    db: Database[dict[str, Any]],
    collections: Sequence[str] = COLLECTIONS,
    indexes: Sequence[Index] = INDEXES,
) -> None:
    """Creates what is missing of these collections, their indexes and the log's counter.

    Idempotent, safe to run from several processes at once, and a handful of reads when all is there.
    Raises pymongo.errors.OperationFailure if an index of the same name exists with another definition.
    """
    existing = set(db.list_collection_names())
    for name in collections:
        if name not in existing:
            _create_collection(db, name)
    for name in collections:
        wanted = [index for index in indexes if index.collection == name]
        if not wanted:
            continue
        present = {_identity(found) for found in db[name].list_indexes()}
        missing = [index.model() for index in wanted if _identity(index.model().document) not in present]
        if missing:
            db[name].create_indexes(missing, comment="ledgerlake schema")
    _ensure_counter(db)


def _create_collection(db: Database[dict[str, Any]], name: str) -> None:
    try:
        db.create_collection(name, check_exists=False)
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:  # another process was faster
            raise


def _identity(index: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal for an existing index to be the wanted one."""
    keys = tuple((field, int(direction)) for field, direction in index["key"].items())
    partial = index.get("partialFilterExpression")
    return (index["name"], keys, bool(index.get("unique", False)), repr(_plain(partial)))


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _ensure_counter(db: Database[dict[str, Any]]) -> None:
    if db[COUNTERS].find_one({"_id": EVENTS}, {"_id": 1}) is not None:
        return
    # A counter lost beside a log that is there must not start again at 0: every append would then collide.
    last = db[EVENTS].find_one({}, {"position": 1}, sort=[("position", DESCENDING)])
    head = 0 if last is None else int(last["position"])
    try:
        db[COUNTERS].update_one({"_id": EVENTS}, {"$setOnInsert": {"position": Int64(head)}}, upsert=True)
    except DuplicateKeyError:
        pass  # another process was faster
