"""The collection personal_keys: a random key for each person of whom the ledger holds something personal.

A key is made when it is first needed, and is durable before an event that needs it can be. It is cached for
some seconds, so destroying it takes effect in every other process within that time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from bson import Binary
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.indexes import PERSONAL_KEYS
from ledgerlake.privacy.cipher import MasterKey, new_key

Document = dict[str, Any]

# For writing only: what is shown is opened by keys that are asked for at that moment.
CACHE_SECONDS: Final = 5.0
CACHED_KEYS: Final = 50_000
_GIVE_UP_AFTER_SECONDS: Final = 10.0
_DUPLICATE_KEY: Final = 11000
# The document that says which master key the others are wrapped by, or that there is none.
_MASTER: Final = "master"


class MasterKeyError(LedgerLakeError):
    """The keys of this ledger are under another master key than this process has, or under none."""


class KeysUnavailable(LedgerLakeError):
    """A key could not be made or found in time; nothing was stored."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A person's key, and the random name that stands for the person in tokens."""

    subject: str
    key: bytes = field(repr=False)


class KeyRing:
    """The keys of one ledger. Thread-safe; several processes may share a ledger.

    Args:
        master_key: 32 bytes that the keys are wrapped by; None: they lie in the database as they are. A
            ledger keeps the one it began with.
        cache_seconds: for how long a key is used without asking whether it still exists.
    """

    def __init__(
        self,
        database: Database[Document],
        *,
        master_key: bytes | None = None,
        cache_seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A key that a failover takes back would leave values behind that nobody can open.
        self._keys = database.get_collection(
            PERSONAL_KEYS,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        )
        self._master = None if master_key is None else MasterKey(master_key)
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._users: dict[str, tuple[float, SubjectKey]] = {}
        self._agreed = False

    def of_users(self, user_ids: Collection[str]) -> dict[str, SubjectKey]:
        """The key of each user, made where there is none: two round trips at most, if nobody interferes.

        Raises:
            MasterKeyError, KeysUnavailable.
        """
        found = self._cached(user_ids)
        missing = [user_id for user_id in dict.fromkeys(user_ids) if user_id not in found]
        deadline = time.monotonic() + _GIVE_UP_AFTER_SECONDS
        while missing:
            self._agree(begin=True)
            started = self._clock()
            names = {self._name(user_id): user_id for user_id in missing}
            fresh = {
                names[document["userId"]]: self._unwrapped(document)
                for document in self._keys.find({"userId": {"$in": list(names)}})
            }
            fresh |= self._make([user_id for user_id in missing if user_id not in fresh])
            self._remember(fresh, started)
            found |= fresh
            missing = [user_id for user_id in missing if user_id not in found]
            if missing:
                # Another process is making it: it can be read as soon as a majority has it.
                if time.monotonic() > deadline:
                    raise KeysUnavailable("MongoDB did not confirm a personal key in time.", "Try again.")
                time.sleep(0.005)
        return found

    def of_subjects(self, subjects: Collection[str]) -> dict[str, SubjectKey | None]:
        """The key of each subject, None where it was destroyed; a subject that was never here is left out.

        Raises:
            MasterKeyError.
        """
        self._agree(begin=False)
        return {
            document["_id"]: self._unwrapped(document) if "key" in document else None
            for document in self._keys.find({"_id": {"$in": list(subjects)}})
        }

    def destroy(self, user_id: str) -> str | None:
        """Destroy the user's key; the subject that it belonged to, None if there was no key.

        What remains says that the subject was forgotten and when, and not who it was.

        Raises:
            MasterKeyError.
        """
        self._agree(begin=False)
        found = self._keys.find_one_and_update(
            {"userId": self._name(user_id)},
            {"$unset": {"userId": "", "key": ""}, "$set": {"forgottenAt": datetime.now(UTC)}},
        )
        self._users.pop(user_id, None)
        return None if found is None else str(found["_id"])

    def _make(self, user_ids: list[str]) -> dict[str, SubjectKey]:
        """Keys for these users, but for those whose key another process is making at this moment."""
        if not user_ids:
            return {}
        made = {user_id: SubjectKey(secrets.token_hex(16), new_key()) for user_id in user_ids}
        now = datetime.now(UTC)
        try:
            self._keys.insert_many(
                [
                    {
                        "_id": made[user_id].subject,
                        "userId": self._name(user_id),
                        "key": Binary(self._wrapped(made[user_id])),
                        "createdAt": now,
                    }
                    for user_id in user_ids
                ],
                ordered=False,
            )
        except BulkWriteError as error:
            details = error.details or {}
            failures = details.get("writeErrors", ())
            others = [failure["code"] for failure in failures if failure["code"] != _DUPLICATE_KEY]
            if others:
                # The driver's text quotes what it could not insert: the key, and whose it is.
                raise KeysUnavailable(f"MongoDB refused a personal key (code {others[0]}).") from None
            if details.get("writeConcernErrors"):
                return {}
            for failure in failures:
                del made[user_ids[failure["index"]]]
        return made

    def _agree(self, *, begin: bool) -> None:
        """See that process and ledger mean the same master key; `begin`: the first to ask settles it."""
        if self._agreed:
            return
        mine = None if self._master is None else self._master.fingerprint
        if begin:
            with suppress(DuplicateKeyError):  # another process was faster
                self._keys.update_one(
                    {"_id": _MASTER},
                    {"$setOnInsert": {"fingerprint": None if mine is None else Binary(mine)}},
                    upsert=True,
                )
        found = self._keys.find_one({"_id": _MASTER})
        if found is None:
            return
        theirs = found["fingerprint"]
        if mine is None and theirs is not None:
            raise MasterKeyError(
                "The personal keys of this ledger are under a master key; LEDGERLAKE_MASTER_KEY is not set.",
                "Set it to the key that the ledger began with.",
            )
        if theirs is None and mine is not None:
            raise MasterKeyError(
                "The personal keys of this ledger are under no master key; LEDGERLAKE_MASTER_KEY is set.",
                "Unset it: a ledger that began without one goes on without one.",
            )
        if mine != theirs:
            raise MasterKeyError(
                "LEDGERLAKE_MASTER_KEY is not the key that the personal keys of this ledger are under.",
                "Set it to the key that the ledger began with.",
            )
        self._agreed = True

    def _name(self, user_id: str) -> str:
        return user_id if self._master is None else self._master.name(user_id)

    def _wrapped(self, made: SubjectKey) -> bytes:
        return made.key if self._master is None else self._master.wrap(made.subject, made.key)

    def _unwrapped(self, document: Document) -> SubjectKey:
        subject, key = str(document["_id"]), bytes(document["key"])
        if self._master is None:
            return SubjectKey(subject, key)
        unwrapped = self._master.unwrap(subject, key)
        if unwrapped is None:
            raise MasterKeyError(
                f"The key of subject {subject} does not open under LEDGERLAKE_MASTER_KEY.",
                "It was changed, or comes from another ledger: restore personal_keys from its last backup.",
            )
        return SubjectKey(subject, unwrapped)

    def _cached(self, user_ids: Collection[str]) -> dict[str, SubjectKey]:
        oldest = self._clock() - self._cache_seconds
        kept = {user_id: self._users.get(user_id) for user_id in user_ids}
        return {user_id: entry[1] for user_id, entry in kept.items() if entry and entry[0] > oldest}

    def _remember(self, fresh: dict[str, SubjectKey], since: float) -> None:
        if len(self._users) > CACHED_KEYS:
            self._users = {}
        self._users |= {user_id: (since, found) for user_id, found in fresh.items()}
