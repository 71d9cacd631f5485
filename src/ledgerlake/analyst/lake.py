"""`Lake`: what an analyst asks, as of one position of the event log."""

from __future__ import annotations

import html
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal

import duckdb
import polars as pl

from ledgerlake.analyst import payments, words
from ledgerlake.analyst.billing import Billing
from ledgerlake.analyst.moment import position_or_instant
from ledgerlake.analyst.source import NothingYet, compute, home_of, read_tables, segment_size
from ledgerlake.lake.definitions import REFUND_COHORTS
from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.pinned import PinnedLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.reports.books import Books
from ledgerlake.reports.noted import noted_books
from ledgerlake.settings import Settings

_EVERY: Final = {"day": "1d", "week": "1w", "month": "1mo"}
_KEYS: Final = ("period", "organization_id", "currency")


class Lake:
    """Lake and reports as of one position. Make one with `Lake.open()`."""

    def __init__(
        self,
        settings: Settings,
        pinned: PinnedLake,
        books: Books | None,
        tables: dict[str, pl.DataFrame] | None,
    ) -> None:
        """`books` are those as of the position, None where nobody knows them; missing `tables` are made."""
        self.settings = settings
        """Of the ledger that this lake belongs to: `LedgerLake.open(lake.settings)` opens it."""
        self.root = pinned.root
        self.position = pinned.position
        self._pinned = pinned
        self._books = books
        self._read = tables
        self._later: Lake | None = None

    @classmethod
    def open(cls, settings: Settings | None = None) -> Lake:
        """The lake of the given settings, else of LEDGERLAKE_HOME, else of the nearest folder `var`
        with a lake in it, in this folder or one above: a notebook may lie anywhere in the project.

        Raises NothingYet when there is no event to look at.
        """
        place = replace(settings or Settings.from_env(), home=home_of(settings))
        root = place.lake_dir
        size = segment_size(root)
        position, tables = read_tables(root)
        if not position:
            raise NothingYet(root)
        pinned = EventLake(root, size).pin(position)
        # After the position is known: a close before it must not be missed.
        books = noted_books(place.reports_dir)
        then = None if books is None else books.as_of(position=position)
        return cls(place, pinned, then, tables)

    def as_of(self, moment: int | str | date | datetime) -> Lake:
        """What this lake would have said then: the same methods, on the events that were recorded by then.

        `moment` is a position (1200, "1200"), an instant (an aware datetime, or "2011-12-01T09:30+01:00"; UTC
        without an offset), or a day (a date, or "2011-11-30"), which counts whole, in UTC. When the events
        happened plays no part: for that, `trends` and `events` take days.

        Raises:
            LakeError: it is none of these, it is still to come, or nothing was recorded by then.
        """
        given = position_or_instant(moment)
        if isinstance(given, int):
            if not 1 <= given <= self.position:
                raise LakeError(
                    f"There is no position {given:,} here: this lake has 1 to {self.position:,}.",
                    "Open it anew after a refresh, or name an earlier position.",
                )
            return self._at(given)
        recorded = pl.col("recorded_at")
        known = self._pinned.scan().select(
            pl.col("position").filter(recorded <= given).max().alias("position"),
            recorded.min().alias("first"),
        )
        position, first = known.collect().row(0)
        if position is None:
            raise LakeError(
                f"Nothing was recorded by {words.instant(given)}: the first event was on"
                f" {words.instant(first)}.",
                "`as_of` means what the ledger knew then. For what happened by then, give days to"
                " `lake.trends(last_day=...)` or `lake.events(last_day=...)`.",
            )
        return self._at(position, given)

    def _at(self, position: int, instant: datetime | None = None) -> Lake:
        books = None if self._books is None else self._books.as_of(position, instant)
        found = Lake(self.settings, self._pinned.at(position), books, None)
        found._later = self
        return found

    @property
    def tables(self) -> pl.DataFrame:
        """What SQL knows besides `events`: a row per table with its columns."""
        found = [(name, frame.height, ", ".join(frame.columns)) for name, frame in self._tables.items()]
        columns = ", ".join(self._pinned.scan().collect_schema().names())
        return pl.DataFrame(
            [("events", self.position, columns), *found], schema=["table", "rows", "columns"], orient="row"
        )

    def sql(self, query: str, **parameters: Any) -> pl.DataFrame:
        """The answer of DuckDB, in UTC; `$name` in the query stands for the parameter `name`.

        Knows the view `events` and the tables that `tables` lists. Nothing a query does changes the lake.

        Raises:
            LakeError: DuckDB does not understand the query, or can not answer it.
        """
        try:
            with self._pinned.naming_damage(), self._pinned.duckdb() as connection:
                connection.complete()  # whatever was asked while opening: registering waits for it
                for name, frame in self._tables.items():
                    connection.register(name, frame)
                # Else COPY could write over a file of the lake.
                connection.execute("SET enable_external_access = false; SET lock_configuration = true")
                found = connection.sql(query, params=parameters or None)
                if found is None:
                    raise LakeError("That is no question.", "Ask with SELECT.")
                answer = pl.from_arrow(found.to_arrow_table())
        except duckdb.Error as error:
            raise LakeError(
                f"DuckDB can not answer: {error}\n",
                "`lake.tables` names the tables with their columns; `$name` in a query needs name=... in the"
                " call.",
            ) from error
        assert isinstance(answer, pl.DataFrame)
        return answer

    def statistics(self) -> pl.DataFrame:
        """Per organization, status of the movement and currency: count, total, average, least and most."""
        return self._tables["payment_statistics"]

    def payment_states(self) -> pl.DataFrame:
        """Per present state of the payments and currency: count, amount and what was refunded."""
        return self._tables["payment_states"]

    def events(
        self,
        organization: str | None = None,
        first_day: date | str | None = None,
        last_day: date | str | None = None,
    ) -> pl.LazyFrame:
        """A row per event in position order, between two days (UTC, both included) if given.

        Raises:
            LakeError: no event is of that organization, or a day is none.
        """
        frame = self._pinned.scan()
        if self._known(organization) is not None:
            frame = frame.filter(pl.col("organization_id") == organization)
        if first_day is not None:
            frame = frame.filter(pl.col("occurred_at") >= words.midnight(first_day))
        if last_day is not None:
            frame = frame.filter(pl.col("occurred_at") < words.midnight(last_day) + timedelta(days=1))
        return frame

    def payments(self) -> pl.LazyFrame:
        """A row per payment with its present state, folded from its events.

        Columns: payment_id, organization_id, user_id, currency, exponent, status (failed, completed,
        partially_refunded, refunded), unreferenced, amount_minor (of a payment that never completed: of
        its last attempt; of a refund that names no payment: what was refunded), refunded_minor,
        net_minor, attempts, failures, refunds, failures_before, last_failure_reason, first_at, last_at,
        completed_at, first_refund_at.
        """
        return payments.fold(self._pinned.scan())

    def trends(
        self,
        granularity: Literal["day", "week", "month"] = "day",
        organization: str | None = None,
        first_day: date | str | None = None,
        last_day: date | str | None = None,
    ) -> pl.DataFrame:
        """A row per organization, period, currency and status, as the charts take it.

        Columns: period (first day of the day, week from Monday, or month; UTC), organization_id,
        currency, status (completed, failed, refunded), count, total_minor. With days given, only
        movements of these days count, also in the weeks and months at the edges.

        Raises:
            LakeError: no such granularity, no event is of that organization, or a day is none.
        """
        days = self._tables["payment_trends_day"].select(*_KEYS, "status", "count", "total_minor")
        return self._by_period(days, granularity, organization, first_day, last_day)

    def refund_cohorts(
        self,
        granularity: Literal["day", "week", "month"] = "month",
        organization: str | None = None,
        first_day: date | str | None = None,
        last_day: date | str | None = None,
    ) -> pl.DataFrame:
        """A row per organization, period in which payments completed, and currency: what went back of them.

        Columns: period (first day of the day, week from Monday, or month; UTC), organization_id, currency,
        payments, amount_minor (what they came to), refunded_payments, refunded_minor (since then, up to this
        lake's position). Refunds that name no payment are in no cohort. With days given, only payments that
        completed in these days count.

        Raises what `trends` does.
        """
        return self._by_period(self._cohorts, granularity, organization, first_day, last_day)

    def _by_period(
        self,
        days: pl.DataFrame,
        granularity: str,
        organization: str | None,
        first_day: date | str | None,
        last_day: date | str | None,
    ) -> pl.DataFrame:
        """Rows of days, put together: what is an integer is summed, by all other columns."""
        if granularity not in _EVERY:
            raise LakeError(f"There are no figures by {granularity!r}.", "Ask for day, week or month.")
        frame = days.lazy()
        if self._known(organization) is not None:
            frame = frame.filter(pl.col("organization_id") == organization)
        if first_day is not None:
            frame = frame.filter(pl.col("period") >= words.day(first_day))
        if last_day is not None:
            frame = frame.filter(pl.col("period") <= words.day(last_day))
        sums = [name for name, kind in days.schema.items() if kind.is_integer()]
        keys = [name for name in days.columns if name not in sums]
        return (
            frame.with_columns(pl.col("period").dt.truncate(_EVERY[granularity]))
            .group_by(keys)
            # A sum of int64 wraps silently; of Int128 it does not, and the cast back is checked.
            .agg(pl.col(sums).cast(pl.Int128).sum().cast(pl.Int64))
            .sort(keys)
            .collect()
        )

    def periods(self, organization: str | None = None) -> pl.DataFrame:
        """A row per month of the books and currency, in order.

        Columns: period ("2011-11"), state (open; closed; corrected: closed, and of its movements some became
        known later), revision (of the close that holds, else null), revisions (how many closes there were),
        closed_at, closed_by, position (as of which the month's lines stand), currency, exponent; of what is
        booked in the month: movements, charges, refunds, failures, gross, refunded (unreferenced credits
        included), net, corrections (how many movements are of earlier months); of what happened in the month
        and is booked in a later one: late (how many), late_net. Amounts in units, and as `*_minor`.

        Raises:
            LakeError: nobody knows which months are closed, or no event is of that organization.
        """
        return self._billing.periods(self._known(organization))

    def billing(
        self, period: str, organization: str | None = None, revision: int | None = None
    ) -> pl.DataFrame:
        """The lines of a billing report, as itemised.parquet has them, made from the events.

        `period` is a month ("2011-11"), quarter ("2011-Q4"), day or days ("2011-11-03..2011-11-20") of the
        books' zone. An open month has the lines so far, a closed one those that were closed; `revision` asks
        for those of an earlier close. Without `organization`, the reports of all, one after the other.

        Raises:
            LakeError: no such organization or revision, or nobody knows which months are closed.
            ReportError: no such period.
        """
        return self._billing.lines(period, self._known(organization), revision)

    def corrections(self, period: str | None = None, organization: str | None = None) -> pl.DataFrame:
        """The lines of movements that became known when their month was closed: `occurred_period` is that
        month, `period` the one in which they are booked. With a period given, only what happened in it.

        Raises what `billing` does.
        """
        return self._billing.corrections(period, self._known(organization))

    def reconciliation(
        self, period: str, organization: str | None = None, revision: int | None = None
    ) -> pl.DataFrame:
        """A month's reports, as they lie there, against the events: three rows per currency.

        `of` is reports (sums of what their manifests say), lake (computed from the events, as of the position
        of the reports), and difference. On its row `organizations` counts those whose figures differ, or
        whose files are not those that the manifest names; `differing` has up to five of their names.

        Raises:
            LakeError: the reports are missing, or newer than this lake; and what `billing` raises.
        """
        return self._billing.reconciliation(period, self._known(organization), revision)

    def audit(self, payment_id: str) -> pl.DataFrame:
        """What happened to a payment, a row per event in order.

        Columns: step, what (the event's type), who (user id; a token where that is personal), occurred_at,
        recorded_at, booked_in (month; null where nobody knows which are closed), currency, exponent, amount,
        reason, and after the step: status, refunded, left (what may still be refunded); then
        organization_id, position, event_id, command_id, correlation_id, causation_id and details (free keys,
        as JSON). Amounts in units, and as `*_minor`. Commands that were refused are not in the lake:
        `ledgerlake audit` shows them too.

        Raises:
            LakeError: no event is of that payment.
        """
        return payments.audit(self._pinned.scan(), payment_id, self._books)

    @staticmethod
    def readable(frame: pl.DataFrame) -> pl.DataFrame:
        """A frame of this lake for reading: amounts as text in units, instants to the minute, no ids.

        For a table in a notebook, not for sums.
        """
        return words.readable(frame)

    @cached_property
    def known_until(self) -> datetime:
        """The latest business time in the lake: of the day it lies in, more may still arrive."""
        return self._latest[0]

    @property
    def freshness(self) -> str:
        """What is in the lake and how fresh it is, in two sentences."""
        occurred, recorded = self._latest
        return (
            f"{self.position:,} events, up to position {self.position:,} of the log. The latest happened on"
            f" {words.instant(occurred)}, the last was recorded on {words.instant(recorded)}."
        )

    @cached_property
    def _latest(self) -> tuple[datetime, datetime]:
        times = self._pinned.scan().select(pl.col("occurred_at", "recorded_at").max()).collect()
        occurred, recorded = times.row(0)
        return occurred, recorded

    @cached_property
    def _tables(self) -> dict[str, pl.DataFrame]:
        return compute(self._pinned, TABLES.values()) if self._read is None else self._read

    @cached_property
    def _cohorts(self) -> pl.DataFrame:
        return compute(self._pinned, [REFUND_COHORTS])[REFUND_COHORTS.name].select(
            *_KEYS, "payments", "amount_minor", "refunded_payments", "refunded_minor"
        )

    @property
    def _billing(self) -> Billing:
        if self._books is None:
            raise LakeError(
                f"There is no list of closed months in {self.settings.reports_dir}.",
                "`ledgerlake refresh` writes it, beside the reports: take both along with the lake.",
            )
        return Billing(self._pinned, self._books, self.settings.reports_dir)

    @cached_property
    def _organizations(self) -> set[str]:
        """All that are known, also those that nobody knew yet as of an earlier position."""
        if self._later is not None:
            return self._later._organizations
        return set(self.statistics()["organization_id"])

    def _known(self, organization: str | None) -> str | None:
        """The organization that was asked for, if any event is of it."""
        if organization is not None and organization not in self._organizations:
            raise words.unknown("organization", organization, self._organizations)
        return organization

    def __repr__(self) -> str:
        age = words.ago(datetime.now(UTC) - self._latest[1])
        return (
            f"Lake {self.root} as of position {self.position:,}\n{self.freshness.removesuffix('.')}, {age}."
        )

    def _repr_html_(self) -> str:
        # Without an age: a page that is kept would go on saying "just now".
        found = self.statistics()
        first: Any = found["first_at"].min()
        facts = {
            "organizations": f"{found['organization_id'].n_unique():,}",
            "currencies": ", ".join(sorted(found["currency"].unique())),
            "first movement": words.instant(first),
            "last movement": words.instant(self.known_until),
            "closed months": self._closed(),
            "tables for SQL": ", ".join(["events", *self._tables]),
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(told)}</td></tr>" for name, told in facts.items()
        )
        return (
            f"<p><b>Lake</b> <code>{html.escape(str(self.root))}</code><br>{html.escape(self.freshness)}</p>"
            f"<table>{rows}</table>"
        )

    def _closed(self) -> str:
        if self._books is None:
            return "unknown: there is no list of them beside the reports"
        closed = [entry.period for entry in self._books.closed()]
        return f"{closed[0]} to {closed[-1]}" if closed[1:] else "".join(closed) or "none"
