"""How far each asset has taken the event log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake
    from ledgerlake.projections import Checkpoint, Projection
    from ledgerlake.settings import Settings

READ_MODELS = (
    "payment_read_models",
    "payment_statistics",
    "payment_trends",
    "payment_quarters",
    "failure_reasons",
)


@dataclass(frozen=True, slots=True)
class Positions:
    """The head of the log, and the position of each asset by its name."""

    head: int
    assets: dict[str, int]

    @property
    def behind(self) -> dict[str, int]:
        """Assets that are not at the head, with the number of events that they lack."""
        return {name: self.head - at for name, at in self.assets.items() if at < self.head}

    def __str__(self) -> str:
        return ", ".join([f"head {self.head:,}", *(f"{name} {at:,}" for name, at in self.assets.items())])


def notebook_page(settings: Settings) -> Path:
    """Where the executed notebook lies."""
    return settings.notebooks_dir / "payment_trends.html"


def positions(ledger: LedgerLake) -> Positions:
    """Where every asset stands; costs a few milliseconds, whatever the size of the log."""
    from ledgerlake.eventstore.columnar import head
    from ledgerlake.lake.errors import CorruptFileError
    from ledgerlake.lake.parquet import read_footer
    from ledgerlake.lake.tables import TABLES
    from ledgerlake.notebook import page_position
    from ledgerlake.projections import PROJECTIONS, checkpoint
    from ledgerlake.reports.refresh import read_checkpoint, usable

    def table(path: str) -> int:
        try:
            return int(read_footer(ledger.settings.lake_dir / path).stated["position"])
        except (FileNotFoundError, CorruptFileError, KeyError):
            return 0

    # The head last: read first, an append in between would show an asset ahead of the log.
    assets = {
        **{name: _position(checkpoint(ledger.db, name), PROJECTIONS[name]) for name in READ_MODELS},
        "event_lake": ledger.lake.position(),
        "lake_statistics": min(table(path) for path in TABLES if path.startswith("statistics/")),
        "lake_trends": min(table(path) for path in TABLES if path.startswith("trends/")),
        "billing_reports": usable(
            read_checkpoint(ledger.settings.reports_dir), ledger.periods.books()
        ).position,
        "payment_trends_notebook": page_position(notebook_page(ledger.settings)) or 0,
    }
    return Positions(head(ledger.db), assets)


def _position(found: Checkpoint, projection: Projection) -> int:
    """The position of a read model. One of an older version is behind, wherever it stands: it is rebuilt."""
    outdated = found.version is not None and found.version < projection.version
    return 0 if outdated else found.position
