"""A body of driver calls that is run by asyncio: what becomes of a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from ledgerlake.mongo.steps import Steps, run_async


async def deaf(seconds: float) -> str:
    """As `asyncio.wait_for` may before Python 3.12: a cancellation ends the wait, and is told to nobody."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return "sent"
    return "slept"


def test_a_cancellation_that_a_call_keeps_to_itself_arrives_all_the_same() -> None:
    told: list[object] = []

    def body() -> Steps[None]:
        try:
            told.append((yield deaf(60)))
            yield asyncio.sleep(60)
        finally:
            # What a body does to end in order is not cancelled again.
            told.append((yield deaf(0)))

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_async(body()), 0.01)

    asyncio.run(asyncio.wait_for(scenario(), 5))
    assert told == ["slept"]


def test_a_body_begun_in_a_task_that_ends_runs_to_its_end() -> None:
    told: list[object] = []

    def ending() -> Steps[None]:
        told.append((yield deaf(0)))

    async def scenario() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await run_async(ending())

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scenario(), 0.01)

    asyncio.run(cancelled())
    assert told == ["slept"]


def test_a_timeout_inside_of_a_call_is_no_cancellation() -> None:
    async def call() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            return "timed out"
        return "slept"

    def body() -> Steps[list[str]]:
        first: str = yield call()
        second: str = yield call()
        return [first, second]

    assert asyncio.run(run_async(body())) == ["timed out", "timed out"]
