"""The composition root: every part wired to one database and one lake.

The command line, the Dagster assets, tests and scripts all open the ledger here, so that a thing is done
in one way. Parts are made when first asked for: a query needs no committer, a command no DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo.database import Database

from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from ledgerlake.commands.bus import CommandBus
    from ledgerlake.commands.payments import PaymentHandler
    from ledgerlake.commands.rejections import RejectionLog
    from ledgerlake.eventstore.store import EventStore
    from ledgerlake.ingest.importer import ImportProgress, ImportSummary
    from ledgerlake.lake.event_lake import EventLake
    from ledgerlake.queries import QueryBus
    from ledgerlake.reconciliation import Verification


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
        return cls(settings, open_database(settings))

    @cached_property
    def store(self) -> EventStore:
        """The event store: append, read streams, head."""
        from ledgerlake.eventstore.store import EventStore

        return EventStore(
            self.db,
            max_batch=self.settings.append_batch,
            linger_seconds=self.settings.append_linger_ms / 1000,
        )

    @cached_property
    def payments(self) -> PaymentHandler:
        """The handler of payment commands, for batches; single commands go through `commands`."""
        from ledgerlake.commands.payments import PaymentHandler

        return PaymentHandler(self.store)

    @cached_property
    def rejections(self) -> RejectionLog:
        """What the rules refused."""
        from ledgerlake.commands.rejections import RejectionLog

        return RejectionLog(self.db)

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

        handle = self.payments.handle
        return CommandBus(
            {ProcessPayment: handle, FailPayment: handle, RefundPayment: handle},
            [
                logging_middleware,
                rejections_middleware(self.rejections),
                validation_middleware,
                correlation_middleware,
                retry_on_conflict(),
            ],
        )

    @cached_property
    def queries(self) -> QueryBus:
        """The query bus over the read models."""
        from ledgerlake.queries import QueryBus

        return QueryBus(self.db)

    @cached_property
    def lake(self) -> EventLake:
        """The Parquet lake."""
        from ledgerlake.lake.event_lake import EventLake

        return EventLake(self.settings.lake_dir, self.settings.segment_size)

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
                    self.db, projection, batch=self.settings.projection_batch, on_progress=reporter(name)
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
        return LedgerStatus(head, tuple(parts))

    def verify(self) -> Verification:
        """Whether log, read models, statistics, trends, Parquet and billing reports agree, to the cent."""
        from ledgerlake.reconciliation import verify

        return verify(self.db, self.lake, reports=self.settings.reports_dir)

    def close(self) -> None:
        """Flush appends and let go of the database."""
        if "store" in self.__dict__:
            self.store.close()
        self.db.client.close()

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
