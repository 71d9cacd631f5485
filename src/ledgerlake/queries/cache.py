"""Answers kept while nothing they rest on moves: in this process's memory and, if there is one, in Redis."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from operator import attrgetter
from sys import getsizeof
from types import NoneType
from typing import Any, Final, Protocol

from ledgerlake.queries.bus import Ask, Question
from ledgerlake.queries.freshness import Freshness

_MISSING: Final = object()
# What an entry costs beside its answer: its key, and its places in the tables.
_ENTRY_BYTES: Final = 1_000
_PLAIN: Final = frozenset({bool, date, datetime, Decimal, int, str, NoneType})


class SharedAnswers(Protocol):
    """Answers that several processes share. It never fails: what it does not have, it does not have."""

    def answer(self, query: Question, stamp: str, compute: Callable[[], Any]) -> Any:
        """The answer kept for the query at `stamp`, or else that of `compute`, which it keeps.

        Raises:
            Exception: what `compute` raises, which is kept nowhere.
        """
        ...


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache has done and holds: answers kept, waited for while another thread had them computed, and
    computed here; `bytes` is an estimate, rather too high.
    """

    hits: int
    waits: int
    computed: int
    entries: int
    bytes: int


class Cache:
    """Middleware that keeps answers, by query and by the standing of every projection that it reads.

    So no kept answer is older than the checkpoints that `freshness` shows, whatever happens to the cache,
    and nothing has to be thrown out when something moves. Of several threads that miss the same answer one
    computes it, the others wait for it; where it fails, all of them fail, and nothing is kept.

    It belongs innermost, below what opens personal data: tokens are kept, not what they hold.

    Args:
        entries: answers kept in memory at most, those used last; 0: none.
        max_bytes: memory for them.
        seconds: how long an answer is kept at most.
        shared: a second level.
    """

    def __init__(
        self,
        freshness: Freshness,
        *,
        entries: int = 10_000,
        max_bytes: int = 64_000_000,
        seconds: float = 300.0,
        shared: SharedAnswers | None = None,
    ) -> None:
        self._freshness = freshness
        self._memory = _Memory(entries, max_bytes, seconds)
        self._shared = shared
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[Any]] = {}
        self._hits = self._waits = self._computed = 0

    def __call__(self, query: Question, ask: Ask) -> Any:
        """The kept answer, else the one that `ask` gives."""
        reads = getattr(type(query), "reads", None)
        if not reads:
            return ask(query)
        stamp = self._freshness.reading().stamp(reads)
        values = values_of(type(query))(query)
        # With their types: True is 1, but one of them is a wrong question.
        key = (type(query), stamp, values, tuple(map(type, values)))
        while True:
            try:
                with self._lock:
                    answer = self._memory.get(key)
                    if answer is not _MISSING:
                        self._hits += 1
                        return answer
                    flight = self._flights.get(key)
                    mine = flight is None
                    if flight is None:
                        flight = self._flights[key] = Future()
                    else:
                        self._waits += 1
            except TypeError:
                return ask(query)  # a value that can not be a key is a wrong question too, which says so
            if mine:
                return self._fly(flight, key, query, stamp, ask)
            try:
                return flight.result()
            except CancelledError:
                pass  # whoever computed it was stopped, which is nobody else's matter

    @property
    def counts(self) -> CacheCounts:
        """What it has done so far."""
        with self._lock:
            kept = self._memory
            return CacheCounts(self._hits, self._waits, self._computed, len(kept.kept), kept.bytes)

    def _fly(self, flight: Future[Any], key: Hashable, query: Question, stamp: str, ask: Ask) -> Any:
        def compute() -> Any:
            with self._lock:
                self._computed += 1
            return ask(query)

        try:
            answer = compute() if self._shared is None else self._shared.answer(query, stamp, compute)
            size = _size(answer) + _ENTRY_BYTES
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            if isinstance(error, Exception):
                flight.set_exception(error)
            else:
                flight.cancel()
            raise
        with self._lock:
            self._memory.put(key, answer, size)
            del self._flights[key]
        flight.set_result(answer)
        return answer


class _Memory:
    """The answers used last, bounded in number, size and age. Its owner holds a lock."""

    def __init__(self, entries: int, max_bytes: int, seconds: float) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._seconds = seconds
        self.kept: OrderedDict[Hashable, tuple[Any, float, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable) -> Any:
        found = self.kept.get(key)
        if found is None:
            return _MISSING
        if time.monotonic() > found[1]:
            self._drop(key)
            return _MISSING
        self.kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, answer: Any, size: int) -> None:
        if not self._entries or size > self._max_bytes:
            return
        self.kept[key] = answer, time.monotonic() + self._seconds, size
        self.bytes += size
        while len(self.kept) > self._entries or self.bytes > self._max_bytes:
            self._drop(next(iter(self.kept)))

    def _drop(self, key: Hashable) -> None:
        self.bytes -= self.kept.pop(key)[2]


@cache
def values_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """What takes the values of all fields out of a query of this kind."""
    names = [field.name for field in fields(kind)]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda query: tuple(getattr(query, name) for name in names)


def _size(value: Any) -> int:
    """The bytes of an answer and all in it; what many answers share is counted in each."""
    kind: Any = type(value)
    size = getsizeof(value)
    parts: Sequence[Any] = ()
    if kind in (tuple, list):
        parts = value
    elif hasattr(kind, "__dataclass_fields__"):
        parts = values_of(kind)(value)
    for part in parts:
        size += getsizeof(part) if type(part) in _PLAIN else _size(part)
    return size
