"""What rows of commands come to by the domain's rules alone: no store, no projection, no lake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from ledgerlake.domain.commands import COMMANDS
from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.domain.money import Money, MoneyError
from ledgerlake.domain.payment import NOTHING, CommandRejected, Payment, decide, evolve


@dataclass
class Replay:
    """States of payments; counts and sums of movements by (currency, status); refusals by code."""

    states: dict[str, Payment] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    sums: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    @property
    def events(self) -> int:
        return self.counts.total()


def replay(rows: Iterable[dict[str, str]]) -> Replay:
    """Decide each row once on what the rows before it came to."""
    found = Replay()
    seen: set[str] = set()
    for row in rows:
        if row["command_id"] in seen:
            found.duplicates += 1
            continue
        seen.add(row["command_id"])
        try:
            command = COMMANDS[row["command"]](
                command_id=row["command_id"],
                payment_id=row["payment_id"] or None,  # type: ignore[arg-type]  # None only where a refund
                organization_id=row["organization_id"],
                user_id=row["user_id"] or None,
                amount=Money.parse(row["amount"], row["currency"]),
                occurred_at=datetime.fromisoformat(row["occurred_at"]),
                reason=row["reason"] or None,
            )
            state = found.states.get(command.stream_id, NOTHING)
            event = decide(state, command)
        except (MoneyError, CommandRejected) as refused:
            found.refused[refused.code] += 1
        else:
            movement = (event.amount.currency, EVENT_STATUS[type(event).__name__])
            found.counts[movement] += 1
            found.sums[movement] += event.amount.minor
            found.states[command.stream_id] = evolve(state, event, command.organization_id)
    return found
