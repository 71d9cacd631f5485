"""The root of every error that LedgerLake raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class LedgerLakeError(Exception):
    """An error whose text is meant for the person who can mend it.

    `message` says what is wrong and names the thing (file, line, field, stream ...);
    `remedy`, when there is one, says what to do next. Its text may quote what was given, and with it
    personal data; a kind of error that never does is `fit_for_logs`.
    """

    fit_for_logs: ClassVar[bool] = False

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message} {remedy}")
        self.message = message
        self.remedy = remedy
