"""Organization names as folder names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

_LONGEST: Final = 48
_PLAIN: Final = re.compile(r"[a-z0-9]+([_-]+[a-z0-9]+)*")
_HASHED: Final = re.compile(r".*-[0-9a-f]{16}")
# Names that Windows gives to devices, whatever their extension.
_RESERVED: Final = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)


def slug(organization: str) -> str:
    """A folder name for the organization: the name itself where that is safe, else cleaned and hashed.

    Different names give different slugs, also on file systems that ignore case or Unicode form. The
    slug holds only a-z, 0-9, `-` and `_`, so it can name neither another folder nor a device. A name that
    looks like a hashed one is hashed too, so that none can pass itself off as another.
    """
    safe = (
        _PLAIN.fullmatch(organization) is not None
        and len(organization) <= _LONGEST
        and organization not in _RESERVED
        and _HASHED.fullmatch(organization) is None
    )
    if safe:
        return organization
    ascii_only = unicodedata.normalize("NFKD", organization).encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9_]+", "-", ascii_only)[:_LONGEST].strip("-_") or "organization"
    digest = hashlib.sha256(organization.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{cleaned}-{digest[:16]}"
