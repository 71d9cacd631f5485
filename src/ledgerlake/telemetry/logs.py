"""Logs of this program as text or as JSON lines, without secrets and without personal data."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from ledgerlake.errors import LedgerLakeError
from ledgerlake.settings import redacted

# What a record may say besides its message; anything else that is attached to it stays out.
FIELDS: Final = (
    "command",
    "commandId",
    "correlationId",
    "streamId",
    "position",
    "projection",
    "outcome",
    "milliseconds",
)


class TextLines(logging.Formatter):
    """`time LEVEL logger message`; an error as its types and the places it passed, without its text.

    What an error says may be anything, a refused document with a name in it for one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, and one more for each place that an error passed."""
        line = f"{_time(record)} {record.levelname} {record.name} {_message(record)}"
        return "\n".join([line, *_error(record)])


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, message, those of FIELDS that are known, and `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        told.update({name: value for name in FIELDS if (value := getattr(record, name, None)) is not None})
        if error := _error(record):
            told["error"] = error
        return json.dumps(told, ensure_ascii=False, default=lambda value: type(value).__name__)


def set_up(style: str, stream: TextIO | None = None) -> None:
    """Write the logs of `ledgerlake` from INFO up, as `text` or `json`, to `stream` (default: stderr).

    And nowhere else: another formatter would print the text of errors.
    """
    logger = logging.getLogger("ledgerlake")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    for old in [each for each in logger.handlers if isinstance(each.formatter, TextLines | JsonLines)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _message(record: logging.LogRecord) -> str:
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(map(_fit, arguments))
    text = str(_fit(record.msg))
    try:
        text = text % arguments if arguments else text
    except (TypeError, ValueError):
        pass
    return redacted(text).replace("\n", " ")


def _fit(value: object) -> object:
    """The value, unless it is an error whose text may hold anything: then its type."""
    if not isinstance(value, BaseException) or (isinstance(value, LedgerLakeError) and value.fit_for_logs):
        return value
    return type(value).__name__


def _error(record: logging.LogRecord) -> list[str]:
    """The types of an error and of those that led to it, each with its places in the code, last one first."""
    lines: list[str] = []
    error = record.exc_info[1] if record.exc_info else None
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}")
        frames = traceback.extract_tb(error.__traceback__, limit=-20)
        lines += [f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines
