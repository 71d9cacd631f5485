"""The analyst's view: the Parquet lake behind one import, without MongoDB.

    from ledgerlake import Lake
    lake = Lake.open()
    lake.sql("SELECT currency, count(*) FROM events GROUP BY currency")

Everything a `Lake` gives is as of one position in the event log, however long the session lasts and
whatever is refreshed meanwhile. Amounts are integers of minor units (`*_minor`) or exact decimals.
"""

from __future__ import annotations

import html
import json
import os
import time
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow.parquet as pq

from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.errors import LakeError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.tables import TABLES
from ledgerlake.settings import Settings

_EVERY = {"day": "1d", "week": "1w", "month": "1mo"}
_TRIES = 50  # of 0.1 s: a refresh replaces the tables one after the other


class NothingYet(LedgerLakeError):
    """There is no lake in a folder, or no event in it."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"There are no payments in {root} yet.",
            "Bring some in with `ledgerlake import FILE` (or `make demo`), then `ledgerlake refresh`, and"
            " open the lake again. A ledger elsewhere is named by LEDGERLAKE_HOME.",
        )


class Lake:
    """The lake as of one position. Make one with `Lake.open()`."""

    def __init__(self, root: Path, segment_size: int) -> None:
        self.root = root
        self.position, self._tables = _read_tables(root)
        if not self.position:
            raise NothingYet(root)
        self._pinned = EventLake(root, segment_size).pin(self.position)

    @classmethod
    def open(cls, settings: Settings | None = None) -> Lake:
        """The lake of the given settings, else of LEDGERLAKE_HOME, else of the nearest folder `var`
        with a lake in it, in this folder or one above: a notebook may lie anywhere in the project.

        Raises NothingYet when there is no event to look at.
        """
        root = (settings or Settings.from_env()).lake_dir
        if settings is None and not os.environ.get("LEDGERLAKE_HOME"):
            near = (folder / "var" / "lake" for folder in (Path.cwd(), *Path.cwd().parents))
            root = next((lake for lake in near if lake.is_dir()), root)
        return cls(root, _segment_size(root))

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
        """
        with self._pinned.duckdb() as connection:
            connection.complete()  # whatever was asked while opening: registering waits for it
            for name, frame in self._tables.items():
                connection.register(name, frame)
            answer = pl.from_arrow(connection.sql(query, params=parameters or None).to_arrow_table())
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
        """A row per event in position order, between two days (UTC, both included) if given."""
        frame = self._pinned.scan()
        if organization is not None:
            frame = frame.filter(pl.col("organization_id") == organization)
        if first_day is not None:
            frame = frame.filter(pl.col("occurred_at") >= _midnight(first_day))
        if last_day is not None:
            frame = frame.filter(pl.col("occurred_at") < _midnight(last_day) + timedelta(days=1))
        return frame

    def payments(self) -> pl.LazyFrame:
        """A row per payment with its present state, folded from its events.

        Columns: payment_id, organization_id, user_id, currency, exponent, status (failed, completed,
        partially_refunded, refunded), unreferenced, amount_minor (of a payment that never completed: of
        its last attempt; of a refund that names no payment: what was refunded), refunded_minor,
        net_minor, attempts, failures, refunds, last_failure_reason, first_at, last_at, completed_at.
        """
        kind, amount = pl.col("event_type"), pl.col("amount_minor")
        done, failed, back = (kind == f"Payment{what}" for what in ("Processed", "Failed", "Refunded"))
        return (
            self._pinned.scan()
            .group_by("payment_id", maintain_order=True)
            .agg(
                pl.col("organization_id", "currency", "exponent").first(),
                pl.col("user_id").drop_nulls().first(),
                pl.col("unreferenced").any(),
                # A sum of int64 wraps silently; of Int128 it does not, and the cast back is checked.
                amount.filter(done).last().alias("processed"),
                amount.filter(failed).last().alias("attempted"),
                amount.filter(back).cast(pl.Int128).sum().cast(pl.Int64).alias("refunded_minor"),
                (done | failed).sum().cast(pl.Int64).alias("attempts"),
                failed.sum().cast(pl.Int64).alias("failures"),
                back.sum().cast(pl.Int64).alias("refunds"),
                pl.col("reason").filter(failed).last().alias("last_failure_reason"),
                pl.col("occurred_at").min().alias("first_at"),
                pl.col("occurred_at").max().alias("last_at"),
                pl.col("occurred_at").filter(done).first().alias("completed_at"),
            )
            .with_columns(
                pl.when(pl.col("unreferenced"))
                .then(pl.col("refunded_minor"))
                .otherwise(pl.coalesce("processed", "attempted"))
                .alias("amount_minor"),
                (pl.col("processed").fill_null(0) - pl.col("refunded_minor")).alias("net_minor"),
                _status().alias("status"),
            )
            .select(
                "payment_id", "organization_id", "user_id", "currency", "exponent", "status", "unreferenced",
                "amount_minor", "refunded_minor", "net_minor", "attempts", "failures", "refunds",
                "last_failure_reason", "first_at", "last_at", "completed_at",
            )
        )  # fmt: skip

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
        """
        if granularity not in ("day", "week", "month"):
            raise LakeError(f"There are no trends by {granularity!r}.", "Ask for day, week or month.")
        frame = self._tables["payment_trends_day"].lazy()
        if organization is not None:
            frame = frame.filter(pl.col("organization_id") == organization)
        if first_day is not None:
            frame = frame.filter(pl.col("period") >= _day(first_day))
        if last_day is not None:
            frame = frame.filter(pl.col("period") <= _day(last_day))
        return (
            frame.with_columns(pl.col("period").dt.truncate(_EVERY[granularity]))
            .group_by("period", "organization_id", "currency", "status")
            # A sum of int64 wraps silently; of Int128 it does not, and the cast back is checked.
            .agg(pl.col("count").sum(), pl.col("total_minor").cast(pl.Int128).sum().cast(pl.Int64))
            .sort("period", "organization_id", "currency", "status")
            .collect()
        )

    @cached_property
    def known_until(self) -> datetime:
        """The latest business time in the lake: of the day it lies in, more may still arrive."""
        return self._latest[0]

    @property
    def as_of(self) -> str:
        """What is in the lake and how fresh it is, in two sentences."""
        occurred, recorded = self._latest
        return (
            f"{self.position:,} events, up to position {self.position:,} of the log. The latest happened on"
            f" {_instant(occurred)}, the last was recorded on {_instant(recorded)}."
        )

    @cached_property
    def _latest(self) -> tuple[datetime, datetime]:
        times = self._pinned.scan().select(pl.col("occurred_at", "recorded_at").max()).collect()
        occurred, recorded = times.row(0)
        return occurred, recorded

    def __repr__(self) -> str:
        age = _ago(datetime.now(UTC) - self._latest[1])
        return f"Lake {self.root}\n{self.as_of.removesuffix('.')}, {age}."

    def _repr_html_(self) -> str:
        # Without an age: a page that is kept would go on saying "just now".
        return f"<p><b>Lake</b> <code>{html.escape(str(self.root))}</code><br>{html.escape(self.as_of)}</p>"


def _status() -> pl.Expr:
    processed, refunded = pl.col("processed"), pl.col("refunded_minor")
    return (
        pl.when(pl.col("unreferenced"))
        .then(pl.lit("refunded"))
        .when(processed.is_null())
        .then(pl.lit("failed"))
        .when(refunded == 0)
        .then(pl.lit("completed"))
        .when(refunded < processed)
        .then(pl.lit("partially_refunded"))
        .otherwise(pl.lit("refunded"))
    )


def _read_tables(root: Path) -> tuple[int, dict[str, pl.DataFrame]]:
    """All tables as of the same position, and that position; 0 when there are none."""
    positions: set[int] = set()
    for _ in range(_TRIES):
        try:
            found = {table.name: _read_table(root / path) for path, table in TABLES.items()}
        except FileNotFoundError:
            return 0, {}
        positions = {position for position, _ in found.values()}
        if len(positions) == 1:
            return positions.pop(), {name: frame for name, (_, frame) in found.items()}
        time.sleep(0.1)
    raise LakeError(
        f"The tables in {root} are as of different positions: {sorted(positions)}.",
        "A refresh was cut short: run `ledgerlake refresh`.",
    )


def _read_table(path: Path) -> tuple[int, pl.DataFrame]:
    """A table's position and rows, through one handle: the file may be replaced meanwhile."""
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened, page_checksum_verification=True)
        position = int(file.metadata.metadata[b"ledgerlake.position"])
        frame = pl.from_arrow(file.read())
    assert isinstance(frame, pl.DataFrame)
    return position, frame


def _segment_size(root: Path) -> int:
    """As the lake itself states it: a reader need not know how it was set up."""
    try:
        return int(json.loads((root / "lake.json").read_text())["segmentSize"])
    except FileNotFoundError:
        raise NothingYet(root) from None


def _day(day: date | str) -> date:
    return date.fromisoformat(day) if isinstance(day, str) else day


def _midnight(day: date | str) -> datetime:
    return datetime.combine(_day(day), datetime.min.time(), UTC)


def _instant(time: datetime) -> str:
    return f"{time:%-d %B %Y at %H:%M} UTC"


def _ago(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return "just now" if seconds < 60 else f"{seconds} seconds ago"
