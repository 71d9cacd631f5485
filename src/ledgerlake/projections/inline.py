"""Inline: projections that take events in the transaction that stores them.

Whoever has appended finds the events in the read model at once, and nobody ever finds the ones without the
other. It is the fold and the write of `advance`, on the documents that the append has in hand.

The append comes first. What a projection can not take is left to an advance right after the commit, with its
retries and its policy for poison; one that has stopped takes no part until it is live again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.archived import NO_ARCHIVE, ArchivedEvents
from ledgerlake.eventstore.columnar import columns_of_documents
from ledgerlake.eventstore.inline import NotWritten
from ledgerlake.mongo.indexes import CHECKPOINTS, EVENTS
from ledgerlake.mongo.steps import Steps
from ledgerlake.mongo.transactions import is_transient
from ledgerlake.projections import checkpoints, dead_letters
from ledgerlake.projections.batch import Prepared, columns_of, prepare, write
from ledgerlake.projections.checkpoints import LIVE, Checkpoint, Slot
from ledgerlake.projections.engine import POISON, advance
from ledgerlake.projections.model import OnPoison, Projection
from ledgerlake.settings import PROJECTION_BATCH
from ledgerlake.telemetry.port import Telemetry

log = logging.getLogger(__name__)

Document: TypeAlias = dict[str, Any]

# So many events that others have stored without the projection are taken along in the append's transaction:
# between two appends nobody would catch up with a busy writer. More of them are caught up with before it.
MOST_BEHIND: Final = 1_000
# After so many tries that were lost with read models written, to errors that pass, the append goes without:
# it must not wait for a runner that moves the same checkpoints, nor ever be too long for the server.
MOST_TRIES: Final = 8

_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)


def _at_once(work: Callable[[], Any]) -> Any:
    return work()


class InlineProjections:
    """The projections that are written in the transactions of one event store; give it as its `inline`.

    They may be advanced by anybody else besides, and other processes may append without them: what these have
    stored is taken along by the next append here.

    Args:
        db: of the blocking driver, also where the store is asyncio's.
        call: does a piece of work in Python; `asyncio.to_thread`, where the store is asyncio's.
        archive, batch, on_poison: as for `advance`, with which projections catch up.
        on_moved: called after each commit that has moved a read model.
        telemetry: told of the lag that is left, if given.
    """

    def __init__(
        self,
        db: Database[Document],
        projections: Sequence[Projection],
        *,
        call: Callable[[Callable[[], Any]], Any] = _at_once,
        archive: ArchivedEvents = NO_ARCHIVE,
        batch: int = PROJECTION_BATCH,
        on_poison: OnPoison = OnPoison.PARK,
        on_moved: Callable[[], None] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.projections = {projection.name: projection for projection in projections}
        self.call = call
        self._db = db
        self._archive = archive
        self._batch = batch
        self._on_poison = on_poison
        self._on_moved = on_moved
        self._telemetry = telemetry
        self._told: set[str] = set()

    def batch(self) -> InlineBatch:
        """For one batch of events."""
        return InlineBatch(self)

    def catch_up(self, name: str) -> bool:
        """Advance a projection to the head of the log; False if that failed, and not for its events."""
        try:
            advance(
                self._db,
                self.projections[name],
                batch=self._batch,
                archive=self._archive,
                on_poison=self._on_poison,
            )
        except LedgerLakeError as error:
            # It says so itself, in its checkpoint.
            self.tell(name, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the append must not fail by it
            self.tell(name, error)
            return False
        else:
            self._told.discard(name)
        return True

    def moved(self, names: Sequence[str]) -> None:
        """These were written, and are at the head."""
        if self._on_moved is not None:
            self._on_moved()
        if self._telemetry is not None:
            for name in names:
                self._telemetry.lag(name, 0)

    def tell(self, name: str, error: BaseException) -> None:
        """Log that an append goes without a projection: once, until it goes with it again."""
        if name not in self._told:
            self._told.add(name)
            log.warning(
                "%s takes no part in appends (%s) until it is live again.",
                name,
                type(error).__name__,
                exc_info=error,
                extra={"projection": name},
            )


class InlineBatch:
    """The port's InlineBatch."""

    def __init__(self, inline: InlineProjections) -> None:
        self._inline = inline
        self._left_out: set[str] = set()
        self._behind: str | None = None
        self._caught_up: set[str] = set()
        self._written: list[str] = []
        self._tries = 0

    def write(
        self, database: Any, session: Any, documents: Sequence[RawBSONDocument], after: int
    ) -> Steps[None]:
        """Write every projection that is live, each from where it stands. See the port."""
        self._written = []
        if self._tries >= MOST_TRIES:
            self._left_out.update(self._inline.projections)
        self._tries += 1
        wanted = [name for name in self._inline.projections if name not in self._left_out]
        if not wanted:
            return
        try:
            found = yield from _documents(database, wanted, session)
            live = self._taking_part(wanted, checkpoints.slots_of(found), after)
            least = min((at.position for _, _, at in live), default=after)
            earlier = (yield from _stored(database, least, after, session)) if least < after else ()
        except PyMongoError as error:
            self._failed(wanted, error)
        for name, slot, at in live:
            own = [*earlier[at.position - least :], *documents]
            try:
                taken = yield from self._take(name, slot, at, own, database, session)
            except (PyMongoError, *POISON) as error:
                self._failed([name], error)
            if not taken:
                # Seen in this snapshot, so nobody else was there: its dead letters are not what they were.
                self._left_out.add(name)
                raise NotWritten
            self._written.append(name)

    def mend(self) -> Steps[None]:
        """See the port."""
        self._tries -= 1  # it was lost for a reason that is gone now
        if self._behind is None:
            return  # what failed is left out by now
        name, self._behind = self._behind, None
        self._caught_up.add(name)
        if not (yield self._inline.call(partial(self._inline.catch_up, name))):
            self._left_out.add(name)

    def committed(self) -> Steps[None]:
        """See the port."""
        for name in sorted(self._left_out):
            yield self._inline.call(partial(self._inline.catch_up, name))
        self._inline.moved(self._written)

    def _taking_part(
        self, names: Sequence[str], standing: Mapping[str, list[tuple[Slot, Checkpoint]]], after: int
    ) -> list[tuple[str, Slot, Checkpoint]]:
        """The slots that are live, and stand where the batch begins or not far before it."""
        live = []
        for name in names:
            if name not in standing:  # it has never run
                self._catch_up(name)
            for slot, at in standing[name]:
                known = at.version == self._inline.projections[name].version
                if known and at.status == LIVE and at.position <= after:
                    if after - at.position > MOST_BEHIND:
                        self._catch_up(name)
                    live.append((name, slot, at))
        return live

    def _catch_up(self, name: str) -> NoReturn:
        """Ask for an advance before the batch; if there was one, after it."""
        if name in self._caught_up:
            self._left_out.add(name)
        else:
            self._behind = name
        raise NotWritten

    def _take(
        self,
        name: str,
        slot: Slot,
        at: Checkpoint,
        documents: Sequence[RawBSONDocument],
        database: Any,
        session: Any,
    ) -> Steps[bool]:
        projection = self._inline.projections[name]
        aside = yield from dead_letters.set_aside(database, slot, at, session)

        def fold() -> Prepared:
            table = columns_of_documents(documents, at.position, columns_of(projection, slot, aside))
            return prepare(projection, slot, table, at.position, at.position + len(documents), aside)

        prepared = yield self._inline.call(fold)
        return (yield from write(database, projection, slot, prepared, session))

    def _failed(self, names: Sequence[str], error: BaseException) -> NoReturn:
        """Let an error that passes pass on; for another one, leave these projections out of the batch."""
        if isinstance(error, PyMongoError) and is_transient(error):
            raise error
        for name in names:
            self._inline.tell(name, error)
        self._left_out.update(names)
        raise NotWritten from error


def _documents(database: Any, names: Sequence[str], session: Any) -> Steps[list[Document]]:
    wanted = {"projectionName": {"$in": list(names)}}
    found: list[Document] = yield database[CHECKPOINTS].find(wanted, session=session).to_list()
    return found


def _stored(database: Any, after: int, up_to: int, session: Any) -> Steps[Sequence[RawBSONDocument]]:
    events = database.get_collection(EVENTS, codec_options=_RAW)
    found = events.find({"position": {"$gt": after, "$lte": up_to}}, session=session).sort("position", 1)
    stored: Sequence[RawBSONDocument] = yield found.to_list()
    return stored
