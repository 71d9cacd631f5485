"""Notebooks, executed on the lake into pages that anyone can open."""

from __future__ import annotations

from ledgerlake.notebook.execution import (
    ExecutedNotebook,
    NotebookError,
    execute,
    page_position,
    refresh_page,
)

__all__ = ["ExecutedNotebook", "NotebookError", "execute", "page_position", "refresh_page"]
