"""What assets, checks and sensors work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake


@dataclass(frozen=True)
class Ledger:
    """The ledger of the given settings, else of the environment as it is when the ledger is opened."""

    given: Settings | None = None

    @property
    def settings(self) -> Settings:
        return Settings.from_env() if self.given is None else self.given

    @contextmanager
    def open(self) -> Iterator[LedgerLake]:
        """The open ledger; starts the embedded MongoDB if that is what the settings say."""
        from ledgerlake.application import LedgerLake

        with LedgerLake.open(self.settings) as ledger:
            yield ledger
