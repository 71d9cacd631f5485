"""How far each asset has taken the event log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import Checkpoint, Projection

READ_MODELS = (
    "payment_read_models",
    "payment_statistics",
    "payment_trends",
    "payment_quarters",
    "failure_reasons",
)

LAKE_PAGES = {
    "payment_trends": "gross, refunds and net over time, success and refund rates, the largest organizations",
    "failures_and_retries": "why attempts fail, what retries recover, how long it takes",
    "organizations": "who moves the money, how concentrated it is, who stays, whose refunds stand out",
    "data_access": "a tour of the ways to ask the ledger",
}
"""Notebooks whose pages show the lake, with what each shows."""

REPORT_PAGES = {"billing_review": "months as they were billed, their corrections, and what agrees with what"}
"""Those that show billing reports, too."""


def page_asset(notebook: str) -> str:
    """The name of the asset that is the notebook's page."""
    return f"{notebook}_notebook"


@dataclass(frozen=True, slots=True)
class Positions:
    """The head of the log, and the position of each asset by its name.

    `resting` are the pages that are too young to be made anew, however much is new.
    """

    head: int
    assets: dict[str, int]
    resting: frozenset[str] = frozenset()

    @property
    def behind(self) -> dict[str, int]:
        """Assets that are not at the head and not at rest, with the number of events that they lack."""
        return {
            name: self.head - at
            for name, at in self.assets.items()
            if at < self.head and name not in self.resting
        }

    def __str__(self) -> str:
        return ", ".join([f"head {self.head:,}", *(f"{name} {at:,}" for name, at in self.assets.items())])


def positions(ledger: LedgerLake) -> Positions:
    """Where every asset stands; costs a few milliseconds, whatever the size of the log."""
    from ledgerlake.eventstore.columnar import head
    from ledgerlake.lake.errors import CorruptFileError
    from ledgerlake.lake.parquet import read_footer
    from ledgerlake.lake.tables import TABLES
    from ledgerlake.notebook import at_rest, page_of, page_position
    from ledgerlake.projections import PROJECTIONS, checkpoint
    from ledgerlake.reports.refresh import read_checkpoint, usable

    def table(path: str) -> int:
        try:
            return int(read_footer(ledger.settings.lake_dir / path).stated["position"])
        except (FileNotFoundError, CorruptFileError, KeyError):
            return 0

    pages = {page_asset(name): page_of(ledger.settings, name) for name in (*LAKE_PAGES, *REPORT_PAGES)}
    # The head last: read first, an append in between would show an asset ahead of the log.
    assets = {
        **{name: _position(checkpoint(ledger.db, name), PROJECTIONS[name]) for name in READ_MODELS},
        "event_lake": ledger.lake.position(),
        "lake_statistics": min(table(path) for path in TABLES if path.startswith("statistics/")),
        "lake_trends": min(table(path) for path in TABLES if path.startswith("trends/")),
        "billing_reports": usable(
            read_checkpoint(ledger.settings.reports_dir), ledger.periods.books()
        ).position,
        **{name: page_position(page) or 0 for name, page in pages.items()},
    }
    resting = frozenset(name for name, page in pages.items() if at_rest(page, ledger.settings))
    return Positions(head(ledger.db), assets, resting)


def _position(found: Checkpoint, projection: Projection) -> int:
    """The position of a read model. One of an older version is behind, wherever it stands: it is rebuilt."""
    outdated = found.version is not None and found.version < projection.version
    return 0 if outdated else found.position
