"""The composition root: every part wired to one database and one lake.

The command line, the Dagster assets, tests and scripts all open the ledger here, so that a thing is done
in one way. Parts are made when first asked for: a query needs no committer, a command no DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo.database import Database

from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from ledgerlake.commands.bus import CommandBus
    from ledgerlake.commands.payments import PaymentHandler
    from ledgerlake.commands.rejections import RejectionLog
    from ledgerlake.eventstore.snapshotting import Snapshots
    from ledgerlake.eventstore.store import EventStore
    from ledgerlake.ingest.importer import ImportProgress, ImportSummary
    from ledgerlake.lake.archive import EventArchive
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.lake.retention import Archived
    from ledgerlake.privacy import Forgotten, Protection
    from ledgerlake.queries import QueryBus
    from ledgerlake.reconciliation import NotedHead, Verification
    from ledgerlake.subscriptions.subscriptions import Subscriptions
    from ledgerlake.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One part that a refresh brought up to date: positions in the log, and events taken."""

    name: str
    from_position: int
    to_position: int
    events: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` events that a part of a refresh has taken."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Lag:
    """A part's checkpoint, and how far it is behind the head of the log."""

    name: str
    position: int
    lag: int
    status: str
    updated_at: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """The head of the log and every part's checkpoint."""

    head: int
    parts: tuple[Lag, ...]


class LedgerLake:
    """An open ledger. Use it as a context manager, or close it: that flushes what is being appended."""

    def __init__(self, settings: Settings, database: Database[dict[str, Any]]) -> None:
        self.settings = settings
        self.db = database

    @classmethod
    def open(cls, settings: Settings | None = None) -> LedgerLake:
        """Open the ledger that the settings name (default: from the environment).

        Starts the embedded server if no MongoDB is configured and none is running yet.
        """
        from ledgerlake.mongo.connection import open_database

        settings = Settings.from_env() if settings is None else settings
        if settings.log is not None:
            from ledgerlake.telemetry.logs import set_up

            set_up(settings.log)
        return cls(settings, open_database(settings))

    @cached_property
    def telemetry(self) -> Telemetry | None:
        """What is told of commands, appends and projections; None: nothing, and nothing is wrapped."""
        from ledgerlake.telemetry import telemetry_of

        return telemetry_of(self.settings)

    @cached_property
    def store(self) -> EventStore:
        """The event store: append, read streams, head."""
        from ledgerlake.eventstore.store import EventStore

        make: Callable[..., EventStore] = EventStore
        if self.telemetry is not None:
            from ledgerlake.eventstore.observed import ObservedEventStore

            make = partial(ObservedEventStore, telemetry=self.telemetry)
        return make(
            self.db,
            max_batch=self.settings.append_batch,
            linger_seconds=self.settings.append_linger_ms / 1000,
            archive=self.archive,
        )

    @cached_property
    def subscriptions(self) -> Subscriptions:
        """The log as an iterator that waits for more, and named consumers of it."""
        from ledgerlake.subscriptions.subscriptions import Subscriptions

        return Subscriptions(self.db, self.store)

    @cached_property
    def payments(self) -> PaymentHandler:
        """The handler of payment commands, for batches; single commands go through `commands`."""
        from ledgerlake.commands.payments import PaymentHandler

        return PaymentHandler(self.store, self.personal, self.snapshots)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Kept states of long payments, so that a command need not load all of their events."""
        from ledgerlake.domain.events import AGGREGATE_TYPE
        from ledgerlake.eventstore.snapshots import SnapshotPolicy
        from ledgerlake.eventstore.snapshotting import Snapshots

        every = self.settings.snapshot_every
        return Snapshots(self.db, SnapshotPolicy({AGGREGATE_TYPE: every} if every else {}))

    @cached_property
    def rejections(self) -> RejectionLog:
        """What the rules refused."""
        from ledgerlake.commands.rejections import RejectionLog

        return RejectionLog(self.db, self.personal)

    @cached_property
    def personal(self) -> Protection:
        """What is personal in events, and the keys that it is put under and opened with."""
        from ledgerlake.privacy import KeyRing, PersonalFields, Protection

        keys = KeyRing(self.db, master_key=self.settings.master_key)
        return Protection(PersonalFields.of(self.settings.personal_fields), keys)

    def forget(self, user_id: str) -> Forgotten:
        """Destroy a person's key: nothing personal of theirs can ever be read again, anywhere."""
        from ledgerlake.privacy import forget

        return forget(self.db, self.personal, user_id)

    @cached_property
    def commands(self) -> CommandBus:
        """The command bus with its middleware: logging, rejections, validation, correlation, retry."""
        from ledgerlake.commands.bus import CommandBus
        from ledgerlake.commands.middleware import (
            correlation_middleware,
            logging_middleware,
            retry_on_conflict,
            validation_middleware,
        )
        from ledgerlake.commands.rejections import rejections_middleware
        from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment

        observing = []
        if self.telemetry is not None:
            from ledgerlake.commands.observed import telemetry_middleware

            observing = [telemetry_middleware(self.telemetry)]
        handle = self.payments.handle
        return CommandBus(
            {ProcessPayment: handle, FailPayment: handle, RefundPayment: handle},
            [
                *observing,
                logging_middleware,
                rejections_middleware(self.rejections),
                validation_middleware,
                correlation_middleware,
                retry_on_conflict(),
            ],
        )

    @cached_property
    def queries(self) -> QueryBus:
        """The query bus over the read models and, for questions about the past, the log."""
        from ledgerlake.queries import QueryBus

        return QueryBus(self.db, log=lambda: self.store)

    @cached_property
    def queries_in_clear(self) -> QueryBus:
        """The same, with personal data in clear: for the screen of whoever may see it, never for a file."""
        from ledgerlake.queries import QueryBus
        from ledgerlake.queries.personal import opening

        return QueryBus(self.db, [opening(self.personal)], log=lambda: self.store)

    @cached_property
    def lake(self) -> EventLake:
        """The Parquet lake."""
        from ledgerlake.lake.event_lake import EventLake

        return EventLake(self.settings.lake_dir, self.settings.segment_size)

    @cached_property
    def archive(self) -> EventArchive:
        """The events that left MongoDB for the lake."""
        from ledgerlake.lake.archive import EventArchive

        return EventArchive(self.settings.lake_dir)

    def import_file(
        self, path: Path, on_progress: Callable[[ImportProgress], None] | None = None
    ) -> ImportSummary:
        """Import a file of commands; see `ledgerlake.ingest.importer.import_file`."""
        from ledgerlake.ingest.importer import import_file

        return import_file(
            path,
            self.payments,
            self.rejections,
            self.settings.imports_dir,
            batch=self.settings.append_batch,
            on_progress=on_progress,
        )

    def refresh(self, on_progress: Callable[[Progress], None] | None = None) -> list[Refreshed]:
        """Bring every projection, the lake, its tables and the billing reports up to the head.

        A part that is up to date costs a look at its checkpoint. A projection that stops holds up no
        other part: the rest is refreshed, then its error is raised.
        """
        from ledgerlake.lake.tables import refresh_tables
        from ledgerlake.projections import PROJECTIONS, ProjectionError, advance
        from ledgerlake.reports import refresh_billing

        def reporter(name: str) -> Callable[[int, int], None]:
            def report(done: int, total: int) -> None:
                if on_progress is not None:
                    on_progress(Progress(name, done, total))

            return report

        done: list[Refreshed] = []
        stopped: list[ProjectionError] = []
        for name, projection in PROJECTIONS.items():
            try:
                moved = advance(
                    self.db,
                    projection,
                    batch=self.settings.projection_batch,
                    on_progress=reporter(name),
                    archive=self.archive,
                    telemetry=self.telemetry,
                )
            except ProjectionError as error:
                stopped.append(error)
                continue
            done.append(Refreshed(name, moved.from_position, moved.to_position, moved.events))
        sealed = self.lake.refresh(self.db, on_progress=reporter("event_lake"))
        done.append(Refreshed("event_lake", sealed.from_position, sealed.to_position, sealed.events))
        refresh_tables(self.lake)
        refresh_billing(self.lake, self.settings.reports_dir)
        if stopped:
            raise stopped[0]
        return done

    def reset_projection(self, name: str) -> None:
        """Empty a projection's read model; the next refresh fills it. Queries see it empty until then.

        Raises:
            ProjectionError: there is no projection of that name.
        """
        from ledgerlake.projections import PROJECTIONS, ProjectionError, reset

        if name not in PROJECTIONS:
            raise ProjectionError(f"There is no projection {name!r}.", f"There are {', '.join(PROJECTIONS)}.")
        reset(self.db, PROJECTIONS[name])

    def archive_streams(
        self,
        before: datetime,
        *,
        refund_window: timedelta | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Archived:
        """Move the events of streams that ended before `before` out of MongoDB; see `lake.retention`."""
        from ledgerlake.lake.retention import REFUND_WINDOW, archive_streams

        return archive_streams(
            self.db,
            self.lake,
            before,
            refund_window=REFUND_WINDOW if refund_window is None else refund_window,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    def status(self) -> LedgerStatus:
        """The head of the log, each checkpoint, and how many events each part is behind."""
        from ledgerlake.projections import PROJECTIONS, checkpoint

        # Checkpoints first: read the other way round, an append in between would show a negative lag.
        found = {name: checkpoint(self.db, name) for name in PROJECTIONS}
        lake = self.lake.position()
        head = self.store.head()
        parts = [
            Lag(
                name,
                at.position,
                head - at.position,
                at.status,
                _instant(at.updated_at),
                at.last_error,
            )
            for name, at in found.items()
        ]
        parts.append(Lag("event_lake", lake, head - lake, "live", _instant(self.lake.updated_at()), None))
        parts.extend(self._subscription_lags())
        if self.telemetry is not None:
            for part in parts:
                self.telemetry.lag(part.name, part.lag)
        return LedgerStatus(head, tuple(parts))

    def _subscription_lags(self) -> list[Lag]:
        found = []
        for state in self.subscriptions.states():
            lag, parked = self.subscriptions.lag(state.name), self.subscriptions.parked_count(state.name)
            trouble = state.last_error or (f"{parked} parked" if parked else None)
            updated = _instant(state.updated_at)
            found.append(Lag(state.name, state.position, lag.events, state.status, updated, trouble))
        return found

    def verify(self, noted: NotedHead | None = None) -> Verification:
        """Whether log, read models, statistics, trends, Parquet and billing reports agree, to the cent.

        `noted` is a hash of the log that was noted outside before, to check the log against.
        """
        from ledgerlake.reconciliation import verify

        return verify(self.db, self.lake, reports=self.settings.reports_dir, noted=noted)

    def close(self) -> None:
        """Flush appends and let go of the database."""
        if "subscriptions" in self.__dict__:
            self.subscriptions.close()
        if "store" in self.__dict__:
            self.store.close()
        if "snapshots" in self.__dict__:
            self.snapshots.close()
        self.db.client.close()
        # Last: what the parts above told while they closed is handed over too.
        if "telemetry" in self.__dict__ and self.telemetry is not None:
            self.telemetry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
