"""The composition root: every part wired to one database and one lake.

The command line, the Dagster assets, tests and scripts all open the ledger here, so that a thing is done
in one way. Parts are made when first asked for: a query needs no committer, a command no DuckDB.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo.database import Database

from ledgerlake.errors import LedgerLakeError
from ledgerlake.settings import Settings, SettingsError

if TYPE_CHECKING:
    from ledgerlake.commands.bus import CommandBus
    from ledgerlake.commands.payments import PaymentHandler
    from ledgerlake.commands.rejections import RejectionLog
    from ledgerlake.eventstore.snapshotting import Snapshots
    from ledgerlake.eventstore.store import EventStore
    from ledgerlake.ingest.importer import ImportProgress, ImportSummary
    from ledgerlake.lake.archive import EventArchive
    from ledgerlake.lake.engines import Engine
    from ledgerlake.lake.event_lake import EventLake, LakeRefresh
    from ledgerlake.lake.retention import Archived
    from ledgerlake.privacy import Forgotten, Protection
    from ledgerlake.projections import Projection
    from ledgerlake.projections.inline import InlineProjections
    from ledgerlake.projections.live import LiveRunner
    from ledgerlake.projections.rebuild import BroughtUp, RebuildProgress, Rebuilt
    from ledgerlake.queries import QueryBus
    from ledgerlake.queries.cache import Cache
    from ledgerlake.queries.freshness import Freshness
    from ledgerlake.queries.redis_cache import RedisAnswers
    from ledgerlake.reconciliation import Check, NotedHead, Reconciled, Recorded, Verification
    from ledgerlake.reconciliation.gate import Gate
    from ledgerlake.reports import BillingReport, ReportSpec
    from ledgerlake.reports.books import Books
    from ledgerlake.reports.close import Periods, Revision
    from ledgerlake.reports.months import MonthReports
    from ledgerlake.reports.rates import Rates
    from ledgerlake.reports.verify import VerifiedReports
    from ledgerlake.subscriptions.subscriptions import Subscriptions
    from ledgerlake.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One part that a refresh brought up to date: positions in the log, and events taken.

    `note` says what else was done: a projection of an older version was rebuilt.
    """

    name: str
    from_position: int
    to_position: int
    events: int
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` events that a part of a refresh has taken."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Lag:
    """A part's checkpoint, and how far it is behind the head of the log.

    A rebuild that is under way is a part of its own, NAME#shadow.
    `lag` counts the events that it has not taken, `lag_seconds` is how long the oldest of them has been
    stored; `rate` is events a second since an earlier status, None without one; `dead_letters` counts the
    events that it has set aside. `status` is that of the checkpoint, or "outdated" or "newer" where another
    `version` of the definition has filled it than this program has.
    """

    name: str
    position: int
    lag: int
    status: str
    updated_at: str | None
    last_error: str | None
    lag_seconds: float = 0.0
    rate: float | None = None
    dead_letters: int = 0
    version: int | None = None


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """The head of the log and every part's checkpoint, at one instant; `rate` as of a part."""

    head: int
    parts: tuple[Lag, ...]
    at: datetime
    rate: float | None = None

    def since(self, earlier: LedgerStatus) -> LedgerStatus:
        """This status with rates: events a second since the earlier one."""
        seconds = (self.at - earlier.at).total_seconds()
        before = {part.name: part.position for part in earlier.parts}

        def rate(position: int, from_position: int | None) -> float | None:
            # A part that is filled anew has gone back: that is no speed.
            if from_position is None or position < from_position or seconds <= 0:
                return None
            return round((position - from_position) / seconds, 1)

        parts = tuple(replace(part, rate=rate(part.position, before.get(part.name))) for part in self.parts)
        return replace(self, parts=parts, rate=rate(self.head, earlier.head))


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
            inline=self._inline(),
        )

    def _inline(self) -> InlineProjections | None:
        """The projections that LEDGERLAKE_INLINE names, for the store."""
        if not self.settings.inline:
            return None
        from ledgerlake.projections import OnPoison
        from ledgerlake.projections.inline import InlineProjections

        unknown = [name for name in self.settings.inline if name not in self.projections]
        if unknown:
            raise SettingsError(
                f"LEDGERLAKE_INLINE names {unknown[0]!r}, which is no projection.",
                f"There are {', '.join(self.projections)}.",
            )
        return InlineProjections(
            self.db,
            [self.projections[name] for name in self.settings.inline],
            archive=self.archive,
            batch=self.settings.projection_batch,
            on_poison=OnPoison(self.settings.on_poison),
            on_moved=self.freshness.noted,
            telemetry=self.telemetry,
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
        """The command bus with its middleware: telemetry, logging, rejections, validation."""
        from ledgerlake.commands.bus import CommandBus
        from ledgerlake.commands.middleware import logging_batches, logging_middleware, validation_batches
        from ledgerlake.commands.rejections import rejections_batches
        from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment

        observing, observing_batches = [], []
        if self.telemetry is not None:
            from ledgerlake.commands.observed import telemetry_batches, telemetry_middleware

            observing = [telemetry_middleware(self.telemetry)]
            observing_batches = [telemetry_batches(self.telemetry)]
        handle = self.payments.handle_batch
        return CommandBus(
            {ProcessPayment: handle, FailPayment: handle, RefundPayment: handle},
            [*observing, logging_middleware],
            batch_middleware=[*observing_batches, logging_batches],
            shared=[rejections_batches(self.rejections), validation_batches],
            largest=self.settings.append_batch,
        )

    @cached_property
    def projections(self) -> dict[str, Projection]:
        """The projections by name: ours, and those that LEDGERLAKE_PROJECTIONS adds."""
        from ledgerlake.projections import add_projections

        return add_projections(self.settings.projections)

    def projection(self, name: str) -> Projection:
        """The projection of that name.

        Raises:
            ProjectionError: there is none.
        """
        from ledgerlake.projections import ProjectionError

        if name not in self.projections:
            there = ", ".join(self.projections)
            raise ProjectionError(f"There is no projection {name!r}.", f"There are {there}.")
        return self.projections[name]

    @cached_property
    def freshness(self) -> Freshness:
        """The board of checkpoints. What moves a read model in this process tells it (`noted`)."""
        from ledgerlake.queries.freshness import Freshness

        return Freshness(self.db, self.settings.freshness_ms / 1000)

    @cached_property
    def answers(self) -> Cache:
        """The answers to queries that are kept, with tokens in the place of personal data."""
        from ledgerlake.queries.cache import Cache

        return Cache(
            self.freshness,
            entries=self.settings.cache_entries,
            max_bytes=self.settings.cache_mb * 1_000_000,
            seconds=self.settings.cache_seconds,
            shared=self._shared_answers,
        )

    @cached_property
    def _shared_answers(self) -> RedisAnswers | None:
        if self.settings.redis_url is None:
            return None
        from ledgerlake.queries.redis_cache import RedisAnswers

        return RedisAnswers(self.settings.redis_url, self.db.name, seconds=self.settings.cache_seconds)

    @cached_property
    def queries(self) -> QueryBus:
        """The query bus over the read models and, for questions about the past, the log."""
        from ledgerlake.queries import QueryBus

        return QueryBus(self.db, [self.answers], log=lambda: self.store, freshness=self.freshness)

    @cached_property
    def queries_in_clear(self) -> QueryBus:
        """The same, with personal data in clear: for the screen of whoever may see it, never for a file."""
        from ledgerlake.queries import QueryBus
        from ledgerlake.queries.personal import opening

        return QueryBus(
            self.db,
            [opening(self.personal), self.answers],
            log=lambda: self.store,
            freshness=self.freshness,
        )

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

    @cached_property
    def engine(self) -> Engine:
        """What computes tables and reports from the lake."""
        from ledgerlake.lake.engines import engine_of

        return engine_of(self.settings)

    @cached_property
    def gate(self) -> Gate:
        """Lets a report be published, or says what in it is not what the log says."""
        from ledgerlake.reconciliation.gate import Gate

        return Gate(self.db, self.lake)

    @cached_property
    def periods(self) -> Periods:
        """The months of the books: what is closed, and reopening."""
        from ledgerlake.reports.close import Periods

        out, zone = self.settings.reports_dir, self.settings.books_zone
        return Periods(self.db, self.lake, out, zone, self.gate, self.engine)

    def close_period(
        self,
        period: str,
        *,
        by: str,
        through: bool = False,
        formats: Sequence[str] = ("parquet",),
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[Revision]:
        """Close a month of the books: all is brought up, reconciled with the log, and written for good.

        See `reports.close.Periods.close` for what it does and raises.
        """
        from ledgerlake.lake.tables import refresh_tables

        def reporter(name: str) -> Callable[[int, int], None]:
            def report(done: int, total: int) -> None:
                if on_progress is not None:
                    on_progress(Progress(name, done, total))

            return report

        self.periods.books()  # in another zone, nothing is to be done first
        self.lake.refresh(self.db, on_progress=reporter("event_lake"))
        # Pinned before the projections move: so each comes as far at least.
        position = self.lake.position()
        for name, projection in self.projections.items():
            self._bring_up(projection, reporter(name))
        refresh_tables(self.lake, self.engine)
        return self.periods.close(
            period, position, by=by, through=through, formats=formats, on_progress=reporter("periods")
        )

    def verify_reports(self, folder: Path, rates: Rates | None = None) -> VerifiedReports:
        """Whether the reports in a folder are as they were written, and say what lake and log say.

        See `reports.verify.verify_reports`. `rates` are those of the reports that were converted.
        """
        from ledgerlake.reports.verify import verify_reports

        found = verify_reports(folder, self.lake, self.periods.books(), rates, self.settings.reports_dir)
        return replace(found, differences=(*found.differences, *self._lake_differences(found.position)))

    def _lake_differences(self, position: int) -> list[str]:
        """How the lake up to a position that it has reached differs from the log, in words."""
        try:
            return self.gate.lake(position) if position <= self.lake.position() else []
        except LedgerLakeError as error:  # what else differs is to be told, too
            return [str(error)]

    def bring_months(
        self, months: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> list[MonthReports]:
        """Make the reports of these months, such as "2011-11", right, as of the lake's position.

        The draft of an open month is written anew, and is compared with the log before. The revision of a
        closed one is compared with what was closed, with lake and log, and never written again, unless it
        is missing.

        Raises:
            PublicationBlocked: a draft would not be what the log says; nothing is written.
            ReportError: a closed month's reports are not what they were, or no text names a month.
        """
        from ledgerlake.reports import Interval, ReportError, refresh_billing
        from ledgerlake.reports.months import month_reports
        from ledgerlake.reports.verify import verify_reports

        out, zone = self.settings.reports_dir, self.settings.books_zone
        labels = [Interval.parse(month, zone).label for month in months]
        closed = {entry.period: entry for entry in self.periods.books().closed()}
        drafts = [label for label in labels if label not in closed]
        if drafts:
            books: Callable[[], Books] = self.periods.books
            refresh_billing(self.lake, out, books, on_progress, self.engine, anew=drafts, gate=self.gate)
        else:
            self.periods.complete()
        known = self.periods.books()
        revisions = [out / entry.folder for label in labels if (entry := closed.get(label)) is not None]
        verified = [verify_reports(folder, self.lake, known, home=out) for folder in revisions]
        differences = [each for found in verified for each in found.differences]
        if verified:
            differences += self._lake_differences(max(found.position for found in verified))
        if differences:
            told = "".join(f"\n  {each}" for each in differences)
            raise ReportError(
                f"What was closed is not what lies there:{told}\n",
                "Run `ledgerlake verify`. If the lake is in order, move the damaged revision away:"
                " `ledgerlake refresh` writes it again, with the rows that were closed.",
            )
        return [month_reports(out, label, known) for label in labels]

    def write_bill(
        self,
        spec: ReportSpec,
        out: Path,
        *,
        as_of: str | None = None,
        formats: Sequence[str] = ("parquet",),
        refresh: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> BillingReport:
        """Write the billing reports of any interval into a folder of one's own; see `reports.billing`.

        With `refresh` the lake is brought up to the head of the log first, and always where `as_of` is an
        instant: as of an instant is as of what was recorded by then, and a lake that is behind does not
        know. The books are the ledger's, whatever the spec has.
        """
        from ledgerlake.reports import billing

        def reporter(name: str) -> Callable[[int, int], None]:
            return lambda done, total: on_progress(Progress(name, done, total)) if on_progress else None

        if refresh or (as_of is not None and not as_of.isdecimal()):
            self.lake.refresh(self.db, reporter("event_lake"))
        return billing(
            self.lake,
            spec,
            out,
            as_of=as_of,
            formats=formats,
            on_progress=reporter("billing"),
            gate=self.gate,
            engine=self.engine,
            books=self.periods.books,
        )

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

        A part that is up to date costs a look at its checkpoint. A part that fails holds up no other: the
        rest is refreshed, then the first error is raised; further ones are logged.
        """

        def reporter(name: str) -> Callable[[int, int], None]:
            def report(done: int, total: int) -> None:
                if on_progress is not None:
                    on_progress(Progress(name, done, total))

            return report

        done: list[Refreshed] = []
        failed: list[LedgerLakeError] = []
        for name, projection in self.projections.items():
            try:
                brought = self._bring_up(projection, reporter(name))
            except LedgerLakeError as error:
                failed.append(error)
                continue
            moved = brought.moved
            done.append(
                Refreshed(name, moved.from_position, moved.to_position, moved.events, brought.rebuilt_as)
            )
        try:
            sealed = self._refresh_lake(reporter("event_lake"))
        except LedgerLakeError as error:
            failed.append(error)
        else:
            done.append(Refreshed("event_lake", sealed.from_position, sealed.to_position, sealed.events))
        for other in failed[1:]:
            log.warning(
                "A refresh failed for more than one reason (%s).", type(other).__name__, exc_info=other
            )
        if failed:
            raise failed[0]
        return done

    def follow(self) -> LiveRunner:
        """Keeps the projections at the head of the log, within a second, while the context manager is open.

        What fails is tried again, and holds up nothing else.
        """
        from ledgerlake.projections.live import LiveRunner, Part

        def projected(projection: Projection, on_progress: Callable[[int, int], None]) -> int:
            return self._bring_up(projection, on_progress).moved.to_position

        parts = [Part(name, partial(projected, each)) for name, each in self.projections.items()]
        return LiveRunner(self.db, parts)

    def follow_lake(self, every: float) -> LiveRunner:
        """Keeps the lake, its tables and the reports near the head, with a refresh every so many seconds.

        Best in a process of its own: what it computes would keep the projections from following at once.
        """
        from ledgerlake.projections.live import LiveRunner, Part

        lake = Part("event_lake", lambda told: self._refresh_lake(told).to_position, every)
        return LiveRunner(self.db, [lake])

    def bring_up(self, name: str, on_progress: Callable[[int, int], None]) -> BroughtUp:
        """Bring one projection up to the head; see `projections.rebuild.bring_up`.

        Raises:
            ProjectionError: there is none of that name, or it stopped.
        """
        return self._bring_up(self.projection(name), on_progress)

    def _bring_up(self, projection: Projection, on_progress: Callable[[int, int], None]) -> BroughtUp:
        from ledgerlake.projections import OnPoison
        from ledgerlake.projections.rebuild import bring_up

        def taken(done: int, total: int) -> None:
            self.freshness.noted()
            on_progress(done, total)

        try:
            return bring_up(
                self.db,
                projection,
                batch=self.settings.projection_batch,
                on_progress=taken,
                archive=self.archive,
                telemetry=self.telemetry,
                on_poison=OnPoison(self.settings.on_poison),
            )
        finally:
            self.freshness.noted()

    def _refresh_lake(self, on_progress: Callable[[int, int], None]) -> LakeRefresh:
        """The lake, then what is made of it."""
        from ledgerlake.lake.tables import refresh_tables
        from ledgerlake.reports import refresh_billing

        refreshed = self.lake.refresh(self.db, on_progress=on_progress)
        refresh_tables(self.lake, self.engine)
        refresh_billing(self.lake, self.settings.reports_dir, self.periods.books, engine=self.engine)
        return refreshed

    def rebuild_projection(
        self,
        name: str,
        *,
        swap: bool = True,
        on_progress: Callable[[RebuildProgress], None] | None = None,
    ) -> Rebuilt:
        """Fill a projection anew while it is read, compare, and swap; see `projections.rebuild.rebuild`.

        Raises:
            ProjectionError: there is no projection of that name, or it can not be rebuilt.
        """
        from ledgerlake.projections import OnPoison
        from ledgerlake.projections.rebuild import rebuild

        try:
            return rebuild(
                self.db,
                self.projection(name),
                swap=swap,
                batch=self.settings.projection_batch,
                on_progress=on_progress,
                archive=self.archive,
                on_poison=OnPoison(self.settings.on_poison),
            )
        finally:
            self.freshness.noted()

    def abandon_rebuild(self, name: str) -> bool:
        """Give a projection's rebuild up and drop what it filled; False if there is none."""
        from ledgerlake.projections.rebuild import abandon

        return abandon(self.db, self.projection(name))

    def drop_replaced(self, name: str) -> tuple[int, ...]:
        """Drop the generations of a projection that rebuilds have replaced; which these were."""
        from ledgerlake.projections.rebuild import drop_replaced

        return drop_replaced(self.db, self.projection(name))

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

    def status(self, earlier: LedgerStatus | None = None) -> LedgerStatus:
        """The head of the log, each checkpoint, how far it is behind and, with an earlier one, the rates."""
        from ledgerlake.mongo.indexes import CHECKPOINTS
        from ledgerlake.projections import Checkpoint
        from ledgerlake.projections.checkpoints import live_checkpoints, shadow_checkpoints
        from ledgerlake.projections.dead_letters import counts

        # Checkpoints first: read the other way round, an append in between would show a negative lag.
        documents = list(self.db[CHECKPOINTS].find())
        live = live_checkpoints(documents)
        found = {name: live.get(name, Checkpoint()) for name in self.projections}
        found.update(shadow_checkpoints(documents))
        lake = self.lake.position()
        head = self.store.head()
        aside = counts(self.db)
        parts = [
            Lag(
                name,
                at.position,
                head - at.position,
                at.status,
                _instant(at.updated_at),
                at.last_error,
                dead_letters=aside.get(name, 0),
                version=at.version,
            )
            for name, at in found.items()
        ]
        parts = [self._of_this_version(part) for part in parts]
        parts.append(Lag("event_lake", lake, head - lake, "live", _instant(self.lake.updated_at()), None))
        now = datetime.now(UTC)
        stored = self._stored_at({part.position + 1 for part in parts if part.lag})
        parts = [
            replace(part, lag_seconds=_age(now, stored.get(part.position + 1))) if part.lag else part
            for part in parts
        ]
        parts.extend(self._subscription_lags())
        if self.telemetry is not None:
            for part in parts:
                self.telemetry.lag(part.name, part.lag)
        status = LedgerStatus(head, tuple(parts), now)
        return status if earlier is None else status.since(earlier)

    def _of_this_version(self, part: Lag) -> Lag:
        """The part as it is, or what is to be done about one that this program can not advance."""
        projection = self.projections.get(part.name)
        if projection is None or part.version in (None, projection.version) or part.status == "stopped":
            return part
        filled = f"Filled by version {part.version} of its definition; this program has {projection.version}."
        if part.version is not None and part.version > projection.version:
            return replace(part, status="newer", last_error=f"{filled} Upgrade this program.")
        todo = "`ledgerlake refresh` fills it anew; until then it answers, and does not move."
        return replace(part, status="outdated", last_error=f"{filled} {todo}")

    def _stored_at(self, positions: set[int]) -> dict[int, datetime]:
        from ledgerlake.mongo.indexes import EVENTS

        if not positions:
            return {}
        fields = {"_id": 0, "position": 1, "recordedAt": 1}
        events = self.db[EVENTS].find({"position": {"$in": sorted(positions)}}, fields)
        return {event["position"]: event["recordedAt"] for event in events}

    def _subscription_lags(self) -> list[Lag]:
        found = []
        for state in self.subscriptions.states():
            lag, parked = self.subscriptions.lag(state.name), self.subscriptions.parked_count(state.name)
            trouble = state.last_error or (f"{parked} parked" if parked else None)
            updated = _instant(state.updated_at)
            age = round(lag.seconds, 3)
            found.append(Lag(state.name, state.position, lag.events, state.status, updated, trouble, age))
        return found

    def verify(self, noted: NotedHead | None = None) -> Verification:
        """Whether log, read models, statistics, trends, Parquet and billing reports agree, to the cent.

        `noted` is a hash of the log that was noted outside before, to check the log against. What was found
        is written down (`reconciliation.last_verifications`), but for a comparison with a noted hash.
        """
        from ledgerlake.reconciliation import record_verification, verify
        from ledgerlake.reports.books import read_books

        started = time.monotonic()
        books = len(read_books(self.db).entries)
        found = verify(self.db, self.lake, reports=self.settings.reports_dir, noted=noted)
        if noted is None:
            record_verification(self.db, found, time.monotonic() - started, books)
        return found

    def reconcile(self) -> Reconciled:
        """As `verify` but for the reports; by control sums alone where that is enough for today.

        See `reconciliation.reconcile`; LEDGERLAKE_VERIFY_HOURS is how long they are enough.
        """
        from ledgerlake.reconciliation import reconcile

        return reconcile(self.db, self.lake, timedelta(hours=self.settings.verify_hours))

    def check_reports(self) -> tuple[Check | None, Recorded]:
        """The billing reports against the lake; None if they were not written since they last agreed.

        That is enough for LEDGERLAKE_VERIFY_HOURS. With what was written down of the last comparison.
        """
        from ledgerlake.reconciliation import last_verification, record
        from ledgerlake.reconciliation.lake_side import LakeViews
        from ledgerlake.reconciliation.log import Log
        from ledgerlake.reconciliation.report_side import check_reports
        from ledgerlake.reports.books import read_books
        from ledgerlake.reports.refresh import read_checkpoint

        folder = self.settings.reports_dir
        last, books = last_verification(self.db, "reports"), len(read_books(self.db).entries)
        unchanged = (read_checkpoint(folder).position, books)
        enough = timedelta(hours=self.settings.verify_hours)
        if (
            last is not None
            and last.ok
            and (last.position, last.books) == unchanged
            and timedelta(0) <= datetime.now(UTC) - last.at < enough
        ):
            return None, last
        started = time.monotonic()
        with self.db.client.start_session(snapshot=True) as session, LakeViews(self.lake) as views:
            found = check_reports(Log(self.db, session, self.lake.archive), views, folder)
        seconds = time.monotonic() - started
        return found, record(self.db, "reports", found.position or 0, [found], seconds, books)

    def close(self) -> None:
        """Flush appends and let go of the database."""
        if "subscriptions" in self.__dict__:
            self.subscriptions.close()
        if "store" in self.__dict__:
            self.store.close()
        if "snapshots" in self.__dict__:
            self.snapshots.close()
        if "_shared_answers" in self.__dict__ and self._shared_answers is not None:
            self._shared_answers.close()
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


def _age(now: datetime, stored: datetime | None) -> float:
    """Seconds since; never below 0, since two machines' clocks may differ."""
    return 0.0 if stored is None else round(max(0.0, (now - stored).total_seconds()), 3)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
