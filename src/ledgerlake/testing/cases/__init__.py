"""The promises of an event store as test cases, which any store can be put through.

Make classes of them in a test module of pytest and give it the fixtures that they ask for: `store`, open on
an empty log, and `other`, a second one on the same log (the same store again where there can be no second).

    pytest.register_assert_rewrite("ledgerlake.testing.cases")  # failures then show their values

    class TestReading(ReadingCases): ...

A store for asyncio goes through the same cases behind `Blocking`, and through AsyncCases as it is.
"""

from ledgerlake.testing.cases.async_ import AsyncCases
from ledgerlake.testing.cases.blocking import Blocking
from ledgerlake.testing.cases.reading import ReadingCases
from ledgerlake.testing.cases.sample import AsyncStore, Store
from ledgerlake.testing.cases.together import AtomicCases, MeetingCases
from ledgerlake.testing.cases.writing import WritingCases

__all__ = [
    "ReadingCases",
    "WritingCases",
    "AtomicCases",
    "MeetingCases",
    "AsyncCases",
    "Blocking",
    "Store",
    "AsyncStore",
]
