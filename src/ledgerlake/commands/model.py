"""What comes of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ledgerlake.domain.payment import CommandRejected


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The command's event stands at `version` of its stream and at `position` of the log.

    `duplicate`: the same command had been done before, and this is where its event stands.
    """

    command_id: str
    stream_id: str
    version: int
    position: int
    duplicate: bool


CommandOutcome: TypeAlias = CommandResult | CommandRejected
