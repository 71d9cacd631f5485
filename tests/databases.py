"""Databases that are used again: to make one, with its tables and indexes, costs more than most tests do."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from ledgerlake.mongo.indexes import COLLECTIONS, INDEXES

Db = Database[dict[str, Any]]

_MANY = 2_000  # documents: to delete more costs more than a new database
_PATIENCE_MS = 1_000  # for what a test has left under way, such as a transaction; a database is dropped then


class Databases:
    """Names of databases on one server: new ones, and those that tests have given back."""

    def __init__(self) -> None:
        self._emptied: list[str] = []
        self._used: set[str] = set()

    def new(self) -> str:
        """A name that nobody has used."""
        return f"test_{uuid.uuid4().hex[:16]}"

    def some(self) -> str:
        """That of an empty database with the ledger's collections and indexes; a new one if there is none."""
        return self._emptied.pop() if self._emptied else self.new()

    def is_sound(self, db: Db) -> bool:
        """Whether nobody has written to it, now opened again, since it was emptied; a new one always is."""
        return db.name not in self._used or db.command("dbStats")["objects"] == 1  # the log's counter

    def give_back(self, db: Db, again: bool = True) -> None:
        """Empties it, to be used `again`; drops it where that is not wanted, or it is not as it was made."""
        with suppress(PyMongoError):
            if again and emptied(db.client.get_database(db.name, write_concern=WriteConcern(1))):
                self._emptied.append(db.name)
                self._used.add(db.name)
                return
        self.drop(db)

    def drop(self, db: Db) -> None:
        """Whoever opens it then makes it anew."""
        self._used.discard(db.name)
        db.client.get_database(db.name, write_concern=WriteConcern(1)).command("dropDatabase")


def emptied(db: Db) -> bool:
    """Deletes all documents, and the collections that are not the ledger's own; whether it is as new then."""
    found = {each["name"]: each for each in db.list_collections()}
    if any(name not in found or found[name]["options"] for name in COLLECTIONS):
        return False
    if any(name.startswith("system.") for name in found) or db.command("dbStats")["objects"] > _MANY:
        return False
    for name in found.keys() - set(COLLECTIONS):
        db[name].drop()
    everything = [{"q": {}, "limit": 0}]
    for name in COLLECTIONS:
        db.command("delete", name, deletes=everything, maxTimeMS=_PATIENCE_MS)
    return is_as_new(db)


def is_as_new(db: Db) -> bool:
    """Whether it holds no document, and the ledger's collections and indexes only."""
    stats = db.command("dbStats")
    indexes = len(COLLECTIONS) + len(INDEXES)  # each collection has one by _id
    return (stats["objects"], stats["collections"], stats["indexes"]) == (0, len(COLLECTIONS), indexes)
