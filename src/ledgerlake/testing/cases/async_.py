"""What an event store for asyncio promises beside all that the other cases say.

Those run on it too: `Blocking` makes an AsyncStore a Store, so that nothing is written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from ledgerlake.eventstore.expected import ANY, NO_STREAM, exact
from ledgerlake.eventstore.model import Appended, ConcurrencyError, EventStoreError
from ledgerlake.testing.cases.sample import AsyncStore, append

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncStore]]


class AsyncCases:
    """Tasks that append and read at once, and give up.

    `opened()` is an `async with` that gives a store on the log of this test, empty at first, and closes it.
    """

    def test_tasks_that_append_at_once_get_positions_without_a_gap(self, opened: Open) -> None:
        async def scenario() -> None:
            async with opened() as store:
                appends = [store.append(append(f"s{number % 7}", ANY, f"c{number}")) for number in range(100)]
                positions = [each.position for each in await asyncio.gather(*appends)]
                assert sorted(positions) == list(range(1, 101))
                assert [each.position async for each in store.read_all()] == list(range(1, 101))

        asyncio.run(scenario())

    def test_of_tasks_that_expect_the_same_version_one_wins(self, opened: Open) -> None:
        async def scenario() -> None:
            async with opened() as store:
                await store.append(append("a", NO_STREAM))
                outcomes = await asyncio.gather(
                    *(store.append(append("a", exact(1))) for _ in range(8)), return_exceptions=True
                )
                conflicts = [each for each in outcomes if isinstance(each, ConcurrencyError)]
                assert [each.actual for each in conflicts] == [2] * 7
                assert await store.stream_version("a") == 2

        asyncio.run(scenario())

    def test_a_task_that_is_cancelled_harms_nobody_and_can_be_sent_again(self, opened: Open) -> None:
        """Whether its append is stored is open, as with any lost answer; that it is stored once is not."""

        async def scenario() -> None:
            async with opened() as store:
                tasks = [
                    asyncio.ensure_future(store.append(append(f"s{number}", NO_STREAM, f"c{number}")))
                    for number in range(20)
                ]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(each, Appended) for each in done[1::2]), done
                for number in range(20):
                    again = await store.append(append(f"s{number}", NO_STREAM, f"c{number}"))
                    assert again.version == 1
                assert sorted([each.position async for each in store.read_all()]) == list(range(1, 21))

        asyncio.run(scenario())

    def test_the_end_of_the_block_closes_the_store_and_keeps_what_it_was_given(self, opened: Open) -> None:
        async def scenario() -> None:
            async with opened() as store:
                pending = [await store.submit([append(f"s{number}")]) for number in range(20)]
            outcomes = [(await each.wait())[0] for each in pending]
            assert all(isinstance(each, Appended) for each in outcomes)
            (late,) = await asyncio.gather(store.append(append("late")), return_exceptions=True)
            assert isinstance(late, EventStoreError)
            assert "closed" in str(late)
            async with opened() as store:
                assert await store.head() == 20

        asyncio.run(scenario())

    def test_a_reading_of_the_log_can_be_left_early(self, opened: Open) -> None:
        async def scenario() -> None:
            async with opened() as store:
                await store.append(append("a", events=5))
                async for each in store.read_all(2):
                    assert each.position == 3
                    break
                assert (await store.append(append("a"))).position == 6

        asyncio.run(scenario())
