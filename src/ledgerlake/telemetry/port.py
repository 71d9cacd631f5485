"""What the layers tell of their work to whoever observes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Written:
    """What one writer handed over: where it was then (see `Telemetry.here`), and what for."""

    here: Any
    correlation_ids: tuple[str, ...]
    appends: int
    events: int


class Outcome(Protocol):
    """Takes what became of the work that is observed; without a word it went well."""

    def came_to(self, outcome: str, **attributes: str | int) -> None:
        """`outcome` is a word of a small set (stored, duplicate, rejected ...): metrics are kept by it."""
        ...

    def failed(self, error: str) -> None:
        """The work failed with an error of that type; its text may hold anything, so it is not told."""
        ...


class BatchOutcome(Protocol):
    """Takes what became of a batch of appends."""

    def settled(self, outcomes: Sequence[Sequence[str]], last_position: int | None) -> None:
        """A word for each append of each writer; the last position that was stored, if any was."""
        ...

    def failed(self, error: str) -> None: ...


class Telemetry(Protocol):
    """Spans and metrics of a ledger. Safe for any thread; never raises, never blocks on the network."""

    def command(self, name: str, command_id: str, correlation_id: str) -> AbstractContextManager[Outcome]:
        """A command is being handled on this thread."""
        ...

    def here(self) -> Any:
        """When and in the midst of what this thread is: to be handed to the thread that does its work."""
        ...

    def committing(self, batch: Sequence[Written]) -> AbstractContextManager[BatchOutcome]:
        """A batch of what several writers handed over is being committed."""
        ...

    def projecting(
        self, name: str, after: int, up_to: int, correlation_ids: Sequence[str]
    ) -> AbstractContextManager[Outcome]:
        """A projection takes events after one position, up to another, which belong to these correlations."""
        ...

    def lag(self, name: str, events: int) -> None:
        """How far a consumer of the log is behind its head."""
        ...

    def close(self) -> None:
        """Hand over what is still held, and stop."""
        ...
