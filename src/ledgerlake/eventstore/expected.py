"""What a writer expects a stream to be: four named modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ExpectedVersion:
    """The version that a stream must have for an append to be accepted.

    Make one with `exact(n)` or `after(n)`, or take NO_STREAM, STREAM_EXISTS or ANY.
    """

    mode: str
    version: int | None = None

    def allows(self, actual: int | None) -> bool:
        """Whether an append that expects this may follow version `actual` (None: no stream)."""
        match self.mode:
            case "exact":
                return actual == self.version
            case "no_stream":
                return actual is None
            case "stream_exists":
                return actual is not None
            case _:
                return True

    def __str__(self) -> str:
        return f"version {self.version}" if self.mode == "exact" else self.mode.replace("_", " ")


def exact(version: int) -> ExpectedVersion:
    """The stream's last event has this version. (A stream that starts at 0 has version 0 after one event.)"""
    if version < 0:
        raise ValueError(f"A stream version is 0 or more, not {version}.")
    return ExpectedVersion("exact", version)


NO_STREAM: Final = ExpectedVersion("no_stream")
STREAM_EXISTS: Final = ExpectedVersion("stream_exists")
ANY: Final = ExpectedVersion("any")


def after(version: int) -> ExpectedVersion:
    """For aggregates that count their events from 1: nothing there yet (0), or exactly this version."""
    return exact(version) if version else NO_STREAM
