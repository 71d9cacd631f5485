"""What many threads ask for one by one, done in groups: one round trip serves them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")

# How long the threads of the last group are waited for. They were told together and come back together, one
# after the other through the interpreter's lock: who does not wait for them goes alone, and they after it.
COMPANY_SECONDS: Final = 0.003
LARGEST: Final = 1_000


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
    next: as soon as there are as many as in the group before, or after `company` seconds. Nobody is
    answered by what was asked before it came.

    Args:
        ask: gives the answers to a group of questions, in their order.
        everybodys: errors of `ask` that concern all of a group. Any other may be about one question only,
            so then each is asked by itself, which may be for the second time.
        largest: questions in a group, at most.
        company: seconds.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[A]], Sequence[B]],
        *,
        everybodys: tuple[type[Exception], ...] = (),
        largest: int = LARGEST,
        company: float = COMPANY_SECONDS,
    ) -> None:
        self._ask = ask
        self._everybodys = everybodys
        self._largest = largest
        self._company = company
        self._lock = threading.Lock()
        self._gathering: list[_Asked[A, B]] = []
        self._asking = False
        self._last = 1
        # Who is about to ask waits for so many; `_come` is released when they have.
        self._wanted = 0
        self._come = threading.Lock()

    def __call__(self, question: A) -> B:
        """The answer to one question; raises what `ask` raises."""
        mine: _Asked[A, B] = _Asked(question)
        try:
            with self._lock:
                self._gathering.append(mine)
                first = not self._asking
                if first:
                    self._asking = mine.asks = True
                elif 0 < self._wanted <= len(self._gathering):
                    self._wanted = 0
                    self._come.release()
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
        group: list[_Asked[A, B]] = []
        try:
            self._gather(group)
            for each, answer in zip(group, self._ask([each.question for each in group]), strict=True):
                each.answer = answer
        except Exception as error:  # noqa: BLE001 - whatever it is, those that wait must hear it
            for each in group:
                each.error = error
                each.alone = len(group) > 1 and not isinstance(error, self._everybodys)
        except BaseException:  # of this thread only, wherever it was
            with self._lock:
                self._gathering = [each for each in self._gathering if each is not mine and each not in group]
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

    def _gather(self, group: list[_Asked[A, B]]) -> None:
        with self._lock:
            if self._company and self._last > 1 and len(self._gathering) < self._last:
                self._wanted, self._come = self._last, threading.Lock()
                self._come.acquire()
        if self._wanted:
            self._come.acquire(timeout=self._company)
        with self._lock:
            self._wanted = 0
            # Who asks is the first of those that gather.
            group += self._gathering[: self._largest]
            del self._gathering[: self._largest]
            self._last = len(group)

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
