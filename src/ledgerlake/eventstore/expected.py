"""What a writer expects a stream to be: four named modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ExpectedVersion:
    """The version that a stream must have for an append to be accepted.

    Make one with `exact(n)`, or take NO_STREAM, STREAM_EXISTS or ANY. A stream without events has
    version 0; its first event has version 1.
    """

    mode: str
    version: int | None = None

    def allows(self, actual: int) -> bool:
        """Whether an append that expects this may follow version `actual` (0: no stream)."""
        match self.mode:
            case "exact":
                return actual == self.version
            case "stream_exists":
                return actual > 0
            case _:
                return True

    def __str__(self) -> str:
        return f"version {self.version}" if self.mode == "exact" else self.mode.replace("_", " ")


def exact(version: int) -> ExpectedVersion:
    """The stream's last event has this version (0: the stream has no event yet)."""
    if version < 0:
        raise ValueError(f"A stream version is 0 or more, not {version}.")
    return ExpectedVersion("exact", version)


NO_STREAM: Final = exact(0)
STREAM_EXISTS: Final = ExpectedVersion("stream_exists")
ANY: Final = ExpectedVersion("any")
