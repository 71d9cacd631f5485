"""Time zones by their IANA names."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

# Names that stand for whatever the machine is set to: a figure would be another one elsewhere.
_NOT_ONE_ZONE: Final = ("localtime", "posixrules", "Factory")


def iana_zone(name: str) -> ZoneInfo:
    """The zone of that name.

    Raises:
        ValueError: there is none, or it is not the same one on every machine.
    """
    if name not in _NOT_ONE_ZONE:
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass
    raise ValueError(f"{name!r} is no IANA time zone")
