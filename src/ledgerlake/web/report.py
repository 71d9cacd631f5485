"""One organization's report of a month, as its manifest and its lines have it, and what the month came to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import pyarrow.parquet as pq

from ledgerlake.reports.books import Entry
from ledgerlake.reports.manifest import TABLES, Manifest
from ledgerlake.reports.revisions import DRAFT
from ledgerlake.web.exports import ReportReplaced

if TYPE_CHECKING:
    import polars as pl

    from ledgerlake.reports.formats.totals import CurrencyTotals

State: TypeAlias = Literal["open", "closed", "corrected", "damaged"]

_SUMS: Final = ("count", "gross_minor", "refunds", "refunded_minor", "net_minor", "failures", "failed_minor")


@dataclass(frozen=True, slots=True)
class Late:
    """Movements of a closed month that are booked in a later one: how many, and what they come to."""

    booked_in: str
    currency: str
    exponent: int
    count: int
    amount_minor: int


@dataclass(frozen=True)
class Report:
    """One organization's report of a month: a draft, or a revision of a closed month."""

    organization: str
    period: str
    edition: str
    folder: Path
    manifest: Manifest

    @cached_property
    def totals(self) -> list[CurrencyTotals]:
        """What it comes to per currency, in the order of the summary."""
        from ledgerlake.reports.formats.totals import CurrencyTotals

        found: dict[str, dict[str, Any]] = {}
        for row in self.manifest.content["totals"]:
            sums = found.setdefault(row["currency"], {**row, **dict.fromkeys(_SUMS, 0)})
            for name in _SUMS:
                sums[name] += row[name]
        return [
            CurrencyTotals(
                currency=currency,
                digits=sums["exponent"],
                opening_minor=sums["opening_minor"],
                closing_minor=sums["closing_minor"],
                **{name: sums[name] for name in _SUMS},
            )
            for currency, sums in found.items()
        ]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The rows of its summary: currency, category, exponent, counts and sums of minor units."""
        rows: list[dict[str, Any]] = self.manifest.content["totals"]
        return rows

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return int(self.manifest.content["tables"][TABLES[0]]["rows"])

    @property
    def position(self) -> int:
        """Up to which event of the log it was made."""
        return int(self.manifest.facts["position"])

    @property
    def zone(self) -> str:
        """The IANA zone whose month it is."""
        return str(self.manifest.facts["interval"]["zone"])

    @property
    def corrections(self) -> int:
        """How many of its lines are movements of months that were closed when they came."""
        return sum(row["count"] for row in self.categories if row["category"] == "correction")

    def daily(self) -> pl.DataFrame:
        """The lines as the charts take them: day (in its zone, when booked) by status; `last`: the latest."""
        import polars as pl

        kind = pl.col("movement")
        failed = kind == "failure"
        names = ("booked_at", "organization_id", "currency", "movement", "failed_minor", "amount_minor")
        return (
            self._columns(names)
            .select(
                pl.col("booked_at").dt.convert_time_zone(self.zone).dt.date().alias("period"),
                "organization_id",
                "currency",
                pl.when(kind == "charge").then(pl.lit("completed"))
                .when(failed).then(pl.lit("failed"))
                .otherwise(pl.lit("refunded")).alias("status"),
                pl.when(failed).then("failed_minor").otherwise(pl.col("amount_minor").abs()).alias("minor"),
                "booked_at",
            )
            .group_by("period", "organization_id", "currency", "status")
            .agg(
                pl.len().cast(pl.Int64).alias("count"),
                pl.col("minor").cast(pl.Int128).sum().cast(pl.Int64).alias("total_minor"),
                pl.col("booked_at").max().alias("last"),
            )
            .sort("period", "currency", "status")
        )  # fmt: skip

    def first_corrections(self, most: int) -> list[dict[str, Any]]:
        """The first `most` lines that are corrections, as rows of what a page shows of them."""
        if not self.corrections:
            return []
        names = ("payment_id", "occurred_period", "occurred_at", "movement", "currency", "exponent",
                 "amount_minor", "reason")  # fmt: skip
        return self._corrections(names).head(most).to_dicts()

    def late(self) -> tuple[tuple[str, Late], ...]:
        """Of which months it has corrections, month by month."""
        import polars as pl

        found = (
            self._corrections(("occurred_period", "currency", "exponent", "amount_minor"))
            .group_by("occurred_period", "currency", "exponent")
            .agg(pl.len().alias("count"), pl.col("amount_minor").cast(pl.Int128).sum())
            .sort("occurred_period", "currency")
        )
        return tuple(
            (period, Late(self.period, currency, exponent, count, int(amount)))
            for period, currency, exponent, count, amount in found.iter_rows()
        )

    def _corrections(self, names: Sequence[str]) -> pl.DataFrame:
        import polars as pl

        return self._columns([*names, "category"]).filter(pl.col("category") == "correction")

    def _columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Columns of the lines, through one handle: a draft may be written anew meanwhile.

        Raises:
            ReportReplaced: they are not those of the manifest.
        """
        import polars as pl

        try:
            with (self.folder / TABLES[0]).open("rb") as opened:
                if (
                    hashlib.file_digest(opened, "sha256").hexdigest()
                    != self.manifest.files[TABLES[0]]["sha256"]
                ):
                    raise ReportReplaced(f"{self.folder} is not what its manifest says.", "Ask again.")
                opened.seek(0)
                lines = pq.ParquetFile(opened).read(columns=list(names))
        except FileNotFoundError:
            raise ReportReplaced(f"{self.folder} is gone.", "Ask again.") from None
        return cast("pl.DataFrame", pl.from_arrow(lines))


@dataclass(frozen=True, slots=True)
class Month:
    """A month of an organization as it stands.

    `closed` is the close that holds, None of an open month; `corrected` is a closed month of which movements
    came `late`; of a `damaged` one files are not as they were written. `report` is None where its files are
    still to be written, or its manifest is damaged. `history` are the closes and reopenings, in order.
    """

    period: str
    state: State
    closed: Entry | None
    report: Report | None
    late: tuple[Late, ...]
    history: tuple[Entry, ...]

    @property
    def edition(self) -> str:
        """The name of the folder of its present report: draft, or revision-2."""
        return DRAFT if self.closed is None else f"revision-{self.closed.revision}"
