"""Finds the mongod to start: the one in the `embedded` extra's wheel, else one on PATH."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from ledgerlake.errors import LedgerLakeError


class EmbeddedUnavailable(LedgerLakeError):
    """There is no mongod to start on this machine."""


def find_mongod() -> Path:
    """The path of the mongod to use. Raises EmbeddedUnavailable, which says what to do instead."""
    found = _in_wheel() or shutil.which("mongod")
    if found is None:
        raise EmbeddedUnavailable(
            f"There is no bundled mongod for this platform ({platform.system()} {platform.machine()}), "
            "and none on PATH:",
            "set LEDGERLAKE_MONGODB_URI to a MongoDB replica set (6.0 or later), "
            "or install MongoDB so that mongod is on PATH.",
        )
    return Path(found)


def _in_wheel() -> Path | None:
    # Only the folder is looked up: importing the package would run its code, and take its time.
    try:
        spec = importlib.util.find_spec("fiftyone")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / "db" / "bin" / "mongod"
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    return None
