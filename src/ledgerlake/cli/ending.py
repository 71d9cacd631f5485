"""Ending a command that would go on for ever: SIGINT and SIGTERM end it after what it has in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signal(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at the first signal; a second one has its usual effect at once.

    Off the main thread, where no signal arrives, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        restore()
        end()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield
    finally:
        restore()
