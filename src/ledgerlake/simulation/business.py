"""The days of the simulated business: how many commands each day holds, and which organization pays when."""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate
from random import Random

from ledgerlake.errors import LedgerLakeError
from ledgerlake.simulation.organizations import ORGANIZATIONS, Organization
from ledgerlake.simulation.payment import DAY, HOUR, INCIDENT_DAY, INCIDENT_HOURS, Clock, Step, payment_steps

COLUMNS = (
    "command",
    "command_id",
    "payment_id",
    "organization_id",
    "user_id",
    "amount",
    "currency",
    "occurred_at",
    "reason",
)
DEFAULT_SEED = 7
DEFAULT_DAYS = 180
DEFAULT_COMMANDS = 61_000
LAST_DAY = date(2026, 6, 30)

VERSION = 1  # another one whenever the same arguments come to mean other commands
GROWTH_DAYS = 180  # Organization.growth is per so many days
INCIDENT_LOAD = 1.2  # retries make an incident's day busier


class SimulationError(LedgerLakeError):
    """The simulation was asked for something that can't be had."""


def simulate(
    seed: int = DEFAULT_SEED,
    days: int = DEFAULT_DAYS,
    commands: int = DEFAULT_COMMANDS,
    last_day: date = LAST_DAY,
) -> Iterator[dict[str, str]]:
    """Commands of `days` days up to and with `last_day`: `commands` of them, or up to a dozen more.

    A row has the keys COLUMNS, all text: `amount` is an exact decimal with the currency's own decimals (but
    for the few that must be refused), `occurred_at` is UTC to the second, an absent value is "". Rows are
    ordered by `occurred_at`. Memory holds only what is still to happen to payments already begun.
    Raises SimulationError when `days` or `commands` is below 1.
    """
    if days < 1 or commands < 1:
        raise SimulationError(
            f"Can't simulate {commands} commands in {days} days.", "Ask for at least 1 of each."
        )
    # Ids carry what decides the content, so two different simulations in one ledger never share an id.
    content = f"{VERSION}/{seed}/{days}/{commands}/{last_day.isoformat()}"
    tag = hashlib.sha256(content.encode()).hexdigest()[:6]
    rng = Random(seed)
    first_day = last_day - timedelta(days=days - 1)
    dates = [first_day + timedelta(days=day) for day in range(days)]
    incident = (INCIDENT_DAY - first_day).days * DAY
    clock = Clock(incident + INCIDENT_HOURS[0] * HOUR, incident + INCIDENT_HOURS[1] * HOUR)
    weights = [
        [_weight(organization, day, dates[day]) for organization in ORGANIZATIONS] for day in range(days)
    ]
    loads = [
        sum(row) * (0.94 + 0.12 * rng.random()) * (INCIDENT_LOAD if dates[day] == INCIDENT_DAY else 1.0)
        for day, row in enumerate(weights)
    ]
    hours = {organization.id: _hour_edges(organization) for organization in ORGANIZATIONS}
    pending: list[list[Step]] = [[] for _ in range(days)]
    emitted, number, load_so_far, load = 0, 0, 0.0, sum(loads)
    for day in range(days):
        load_so_far += loads[day]
        target = commands if day == days - 1 else int(commands * load_so_far / load)
        today = pending[day]
        edges = tuple(accumulate(weights[day]))
        while emitted + len(today) < target:
            organization = ORGANIZATIONS[min(bisect(edges, rng.random() * edges[-1]), len(edges) - 1)]
            number += 1
            at = day * DAY + _second_of_day(rng, hours[organization.id])
            for step in payment_steps(rng, clock, organization, f"pay-{tag}-{number:06d}", number, at):
                if step.at < days * DAY:
                    pending[step.at // DAY].append(step)
        # Stable, by time and payment only: one payment's steps in one second keep their order.
        today.sort(key=_when)
        pending[day] = []
        emitted += len(today)
        text = dates[day].isoformat()
        for step in today:
            yield _row(step, text)


def _when(step: Step) -> tuple[int, int]:
    return step.at, step.number


def _row(step: Step, day: str) -> dict[str, str]:
    minutes, second = divmod(step.at % DAY, 60)
    return {
        "command": step.command,
        "command_id": step.command_id,
        "payment_id": step.payment_id,
        "organization_id": step.organization_id,
        "user_id": step.user_id,
        "amount": step.amount,
        "currency": step.currency,
        "occurred_at": f"{day}T{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}Z",
        "reason": step.reason,
    }


def _weight(organization: Organization, day: int, on: date) -> float:
    """How much of the day's business is this organization's."""
    if day < organization.since_day:
        return 0.0
    grown = 1.0 + organization.growth * (day - organization.since_day) / GROWTH_DAYS
    return organization.volume * max(0.1, grown) * (organization.weekend if _rests(organization, on) else 1.0)


def _rests(organization: Organization, on: date) -> bool:
    return on.weekday() in organization.weekend_days


def _hour_edges(organization: Organization) -> tuple[int, ...]:
    local = (organization.hours[(hour + organization.utc_offset) % 24] for hour in range(24))
    return tuple(accumulate(local))


def _second_of_day(rng: Random, edges: tuple[int, ...]) -> int:
    hour = min(bisect(edges, rng.random() * edges[-1]), 23)
    return hour * HOUR + int(rng.random() * HOUR)
