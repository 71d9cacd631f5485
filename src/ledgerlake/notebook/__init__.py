"""Notebooks, executed on the lake into pages that anyone can open."""

from __future__ import annotations

from ledgerlake.notebook.execution import (
    ExecutedNotebook,
    NotebookError,
    at_rest,
    execute,
    page_of,
    page_position,
    refresh_page,
    refresh_pages,
)

__all__ = [
    "ExecutedNotebook",
    "NotebookError",
    "at_rest",
    "execute",
    "page_of",
    "page_position",
    "refresh_page",
    "refresh_pages",
]
