"""LedgerLake: an event-sourced payment ledger on MongoDB with an incremental analytics lake beside it.

`LedgerLake` is the whole ledger, opened on a database; `Lake` is the analyst's read-only view of the
Parquet lake. Both are imported when first asked for, so that `import ledgerlake` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledgerlake.analyst import Lake
    from ledgerlake.application import LedgerLake

__all__ = ["Lake", "LedgerLake"]


def __getattr__(name: str) -> Any:
    if name == "Lake":
        from ledgerlake.analyst import Lake

        return Lake
    if name == "LedgerLake":
        from ledgerlake.application import LedgerLake

        return LedgerLake
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
