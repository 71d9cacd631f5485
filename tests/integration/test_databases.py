"""A database that is used again is as a new one; one that cannot be is dropped, and nobody gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bson import encode
from pymongo.database import Database

from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.indexes import EVENTS, SNAPSHOTS
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history
from tests.databases import Databases

Db = Database[dict[str, Any]]

pytestmark = pytest.mark.own_database


def state(db: Db) -> dict[str, Any]:
    """Everything that is in it: collections with their options and indexes, and documents."""
    found = {}
    for each in db.list_collections():
        indexes = sorted(encode(index) for index in db[each["name"]].list_indexes())
        found[each["name"]] = each["options"], indexes, list(db[each["name"]].find())
    return found


def test_a_used_database_is_as_new_and_one_that_was_written_to_since_is_not(
    database: Db, settings: Settings
) -> None:
    kept = Databases()
    new = state(database)
    insert_events(database, payment_history(seed=1, events=20))
    for projection in PROJECTIONS.values():
        advance(database, projection)
    assert state(database).keys() > new.keys()
    kept.give_back(database)
    assert kept.some() == database.name

    again = open_database(settings)
    assert state(again) == new
    assert kept.is_sound(again)
    database[SNAPSHOTS].insert_one({"late": True})
    assert not kept.is_sound(again)
    again.client.close()


def rule(db: Db) -> None:
    db.command("collMod", EVENTS, validator={"position": {"$gt": 0}})


def index(db: Db) -> None:
    db[EVENTS].create_index("late")


def profile(db: Db) -> None:
    db.create_collection("system.profile", capped=True, size=4096)


@pytest.mark.parametrize("change", [lambda db: db[EVENTS].drop(), rule, index, profile])
def test_one_that_is_not_as_it_was_made_is_dropped(database: Db, change: Callable[[Db], None]) -> None:
    kept = Databases()
    change(database)
    kept.give_back(database)
    assert kept.some() != database.name
    assert database.name not in database.client.list_database_names()
    assert kept.is_sound(database)
