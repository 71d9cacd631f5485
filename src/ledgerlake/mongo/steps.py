"""One body of driver calls for two drivers: written once as a generator, run by threads or by asyncio.

A body yields every call to MongoDB (`counter = yield counters.find_one(...)`) and is sent what came of it.
With the synchronous driver what it yields is the result already; with the asynchronous one it is awaited.
An error arrives at the `yield` either way, so the rules about errors are written once too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

# What is yielded and sent depends on the driver, so only the result has a type.
Steps: TypeAlias = Generator[Any, Any, T]


def run(steps: Steps[T]) -> T:
    """Run a body whose calls are synchronous; returns what it returns."""
    result: Any = None
    try:
        while True:
            result = steps.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


async def run_async(steps: Steps[T]) -> T:
    """Run a body whose calls are coroutines; returns what it returns.

    A cancellation of the task always arrives, at the call at which it was asked for: until Python 3.12
    `asyncio.wait_for`, by which the driver sends, keeps one to itself that comes as its own wait ends
    (python/cpython issue 86296), and a body that goes on waiting would never be told again.
    """
    task = asyncio.current_task()
    assert task is not None
    heard = task.cancelling()
    try:
        pending = next(steps)
        while True:
            try:
                result = await pending
                if task.cancelling() > heard:
                    raise asyncio.CancelledError
            except BaseException as error:  # noqa: BLE001 - the body decides, on a cancellation too
                if isinstance(error, asyncio.CancelledError):
                    heard = task.cancelling()
                pending = steps.throw(error)
            else:
                pending = steps.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
