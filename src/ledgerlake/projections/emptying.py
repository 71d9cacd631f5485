"""Emptying a read model, so that the next advance fills it from the start of the log."""

from __future__ import annotations

import uuid
from typing import Any, Final

from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.projections import checkpoints
from ledgerlake.projections.model import Projection
from ledgerlake.projections.transaction import TooLarge, in_transaction

_CHUNK: Final = 2_000


def reset(db: Database[dict[str, Any]], projection: Projection) -> None:
    """Empty the read model and set its checkpoint back to 0.

    The checkpoint is fenced first, and every deletion checks the fence in its own transaction: neither
    a runner in mid-batch nor a second reset can leave documents behind that the refill would count
    again, or delete what the refill has written. After a crash the next advance finishes the work.
    """
    token = uuid.uuid4().hex
    checkpoints.fence(db, projection, token)
    model = db[projection.name]
    chunk = _CHUNK
    while keys := [document["_id"] for document in model.find({}, {"_id": 1}).limit(chunk)]:

        def delete(session: ClientSession, keys: list[str] = keys) -> bool:
            if not checkpoints.holds(db, projection, token, session):
                return False
            model.delete_many({"_id": {"$in": keys}}, session=session)
            return True

        try:
            if not in_transaction(db, delete):
                return  # another reset has taken over
        except TooLarge:
            if chunk == 1:
                raise
            chunk //= 2
    checkpoints.lift(db, projection, token)
