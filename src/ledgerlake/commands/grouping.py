"""What many threads ask for one by one, asked of the server in groups: one round trip serves them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ledgerlake.errors import LedgerLakeError

A = TypeVar("A")
B = TypeVar("B")


class _Asked(Generic[A, B]):
    """One thread's question. `turn` is released when it is answered, or when its thread is to ask for all."""

    __slots__ = ("alone", "answer", "asks", "error", "question", "turn")

    def __init__(self, question: A) -> None:
        self.question = question
        self.turn = threading.Lock()
        self.turn.acquire()
        self.asks = False
        self.answer: B
        self.error: BaseException | None = None
        self.alone = False


class Grouped(Generic[A, B]):
    """Calls `ask` with what several threads want to know at once; a thread alone asks at once.

    While one thread waits for the answers to its group, the next group gathers, and the first of that asks
    next. Nobody is answered by what was asked before it came.

    Args:
        ask: gives the answers to a group of questions, in their order. An error of the ledger's own may be
            about one question only, so then each of the group is asked by itself; any other is everybody's.
    """

    def __init__(self, ask: Callable[[Sequence[A]], Sequence[B]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._gathering: list[_Asked[A, B]] = []
        self._asking = False

    def __call__(self, question: A) -> B:
        """The answer to one question; raises what `ask` raises."""
        mine: _Asked[A, B] = _Asked(question)
        try:
            with self._lock:
                self._gathering.append(mine)
                first = not self._asking
                if first:
                    self._asking = mine.asks = True
            if not first:
                mine.turn.acquire()
            if mine.asks:
                self._serve(mine)
        except BaseException:
            self._leave(mine)
            raise
        if mine.alone:
            [answer] = self._ask([question])
            return answer
        if mine.error is not None:
            raise mine.error
        return mine.answer

    def _serve(self, mine: _Asked[A, B]) -> None:
        with self._lock:
            group, self._gathering = self._gathering, []
        try:
            for each, answer in zip(group, self._ask([each.question for each in group]), strict=True):
                each.answer = answer
        except Exception as error:  # noqa: BLE001 - whatever it is, those that wait must hear it
            for each in group:
                each.error = error
                each.alone = isinstance(error, LedgerLakeError) and len(group) > 1
        except BaseException:  # of this thread only
            for each in group:
                each.alone = each is not mine
            raise
        finally:
            # The next group is on its way before this one wakes up.
            with self._lock:
                mine.asks = False
                self._pass_on()
            for each in group:
                if each is not mine:
                    each.turn.release()

    def _pass_on(self) -> None:
        if self._gathering:
            self._gathering[0].asks = True
            self._gathering[0].turn.release()
        else:
            self._asking = False

    def _leave(self, mine: _Asked[A, B]) -> None:
        """Of a thread that was interrupted while it waited: if it was to ask, the next one does."""
        with self._lock:
            if mine in self._gathering:
                self._gathering.remove(mine)
                if mine.asks:
                    self._pass_on()
