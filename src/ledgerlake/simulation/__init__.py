"""A simulated payment business: the same commands every time for the same seed, on every machine and Python.

`simulate` yields rows with the columns of an import, ordered by `occurred_at`; `write_commands` puts them in
a file.
"""

from __future__ import annotations

from ledgerlake.simulation.business import (
    COLUMNS,
    DEFAULT_COMMANDS,
    DEFAULT_DAYS,
    DEFAULT_SEED,
    LAST_DAY,
    simulate,
)
from ledgerlake.simulation.files import write_commands
from ledgerlake.simulation.organizations import ORGANIZATIONS
from ledgerlake.simulation.payment import INCIDENT_DAY, INCIDENT_HOURS

__all__ = [
    "COLUMNS",
    "DEFAULT_COMMANDS",
    "DEFAULT_DAYS",
    "DEFAULT_SEED",
    "INCIDENT_DAY",
    "INCIDENT_HOURS",
    "LAST_DAY",
    "ORGANIZATIONS",
    "simulate",
    "write_commands",
]
