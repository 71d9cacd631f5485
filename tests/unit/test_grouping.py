"""What threads ask for at once is asked once, errors are told to whom they concern, nobody is forgotten."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from ledgerlake.commands import grouping
from ledgerlake.commands.grouping import Grouped
from ledgerlake.errors import LedgerLakeError


class Desk:
    """Answers letters with their capitals; the first group is held back until `open` is set."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.open = threading.Event()
        self.error: Callable[[Sequence[str]], BaseException | None] = lambda letters: None
        self.grouped: Grouped[str, str] = Grouped(self.answer, everybodys=(OSError,), company=0)

    def answer(self, letters: Sequence[str]) -> list[str]:
        self.asked.append(sorted(letters))
        self.open.wait()
        time.sleep(0)  # as a call to a server lets other threads run
        if (error := self.error(letters)) is not None:
            raise error
        return [letter.upper() for letter in letters]

    def gathered(self, count: int) -> None:
        """Wait until so many are gathering behind the group that is being asked."""
        for _ in range(6_000):
            if self.asked and len(self.grouped._gathering) == count:
                return
            time.sleep(0.01)
        raise AssertionError(f"{len(self.grouped._gathering)} are waiting, not {count}.")

    def start(self, letters: str) -> tuple[list[threading.Thread], dict[str, str | BaseException]]:
        """One thread for each letter, which begin in this order; and what they are told."""
        told: dict[str, str | BaseException] = {}

        def ask(letter: str) -> None:
            try:
                told[letter] = self.grouped(letter)
            except BaseException as error:  # noqa: BLE001 - it is what is looked at
                told[letter] = error

        threads = []
        for number, letter in enumerate(letters):
            threads.append(threading.Thread(target=ask, args=(letter,), daemon=True))
            threads[-1].start()
            self.gathered(number)
        return threads, told


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.open.set()


def test_who_comes_while_others_are_asked_for_is_asked_for_in_the_next_group(desk: Desk) -> None:
    threads, told = desk.start("abcd")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert desk.asked == [["a"], ["b", "c", "d"]]
    assert told == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert desk.grouped("e") == "E"
    assert desk.asked[2:] == [["e"]]


def test_an_error_is_told_to_the_one_whom_it_concerns(desk: Desk) -> None:
    desk.error = lambda letters: LedgerLakeError("no c") if "c" in letters else None
    threads, told = desk.start("abcd")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert desk.asked[:2] == [["a"], ["b", "c", "d"]]
    assert sorted(desk.asked[2:]) == [["b"], ["c"], ["d"]]
    assert {letter: str(what) for letter, what in told.items()} == {"a": "A", "b": "B", "c": "no c", "d": "D"}


def test_an_error_that_is_everybodys_is_told_to_all_and_met_once(desk: Desk) -> None:
    desk.error = lambda letters: OSError("gone")
    threads, told = desk.start("abc")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert desk.asked == [["a"], ["b", "c"]]
    assert {str(what) for what in told.values()} == {"gone"}
    desk.error = lambda letters: None
    assert desk.grouped("d") == "D"


def test_whose_interruption_stops_the_asking_stops_nobody_else(desk: Desk) -> None:
    desk.error = lambda letters: KeyboardInterrupt() if letters == ["a"] else None
    threads, told = desk.start("ab")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert isinstance(told["a"], KeyboardInterrupt)
    assert told["b"] == "B"


def test_one_that_is_interrupted_while_it_waits_leaves_the_others_their_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, told = desk.start("a")

    class Turn:
        def acquire(self) -> None:
            assert len(desk.grouped._gathering) == 1
            raise KeyboardInterrupt

    class Interrupted(grouping._Asked[str, str]):
        __slots__ = ()

        def __init__(self, question: str) -> None:
            super().__init__(question)
            self.turn = Turn()  # type: ignore[assignment]

    with monkeypatch.context() as interrupted:
        interrupted.setattr(grouping, "_Asked", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            desk.grouped("main")
    more, told_more = desk.start("")
    later = threading.Thread(target=lambda: told_more.update(b=desk.grouped("b")))
    later.start()
    desk.gathered(1)
    desk.open.set()
    for thread in (*threads, *more, later):
        thread.join()
    assert desk.asked == [["a"], ["b"]]
    assert (told, told_more) == ({"a": "A"}, {"b": "B"})


def test_one_that_is_to_ask_before_it_has_begun_to_wait_asks_and_is_answered(desk: Desk) -> None:
    """It has come, and is not waiting yet, when the group before it is done."""
    come = threading.Event()

    class Lock:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *error: object) -> None:
            self.lock.release()
            if threading.current_thread().name == "slow" and not come.is_set():
                come.set()
                while not any(each.asks for each in desk.grouped._gathering):
                    time.sleep(0.001)

    desk.grouped._lock = Lock()  # type: ignore[assignment]
    threads, told = desk.start("a")
    slow = threading.Thread(target=lambda: told.update(b=desk.grouped("b")), name="slow", daemon=True)
    slow.start()
    come.wait()
    desk.open.set()
    for thread in (*threads, slow):
        thread.join()
    assert told == {"a": "A", "b": "B"}
    assert desk.asked == [["a"], ["b"]]


def test_one_that_is_interrupted_before_it_asks_leaves_the_others_to_themselves(desk: Desk) -> None:
    """With some of the next group in hand already, and some still to be taken."""
    desk.grouped._largest = 2
    take = desk.grouped._gather
    interrupted = threading.Event()

    def interrupt(group: list[grouping._Asked[str, str]]) -> None:
        if not interrupted.is_set() and desk.grouped._gathering[0].question == "b":
            group += desk.grouped._gathering[:2]
            interrupted.set()
            raise KeyboardInterrupt
        take(group)

    desk.grouped._gather = interrupt  # type: ignore[method-assign]
    threads, told = desk.start("abcd")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert isinstance(told.pop("b"), KeyboardInterrupt)
    assert told == {"a": "A", "c": "C", "d": "D"}
    assert desk.grouped("e") == "E"


def test_a_group_is_as_large_as_may_be_and_the_rest_is_the_next_one(desk: Desk) -> None:
    desk.grouped._largest = 2
    threads, told = desk.start("abcdef")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert desk.asked == [["a"], ["b", "c"], ["d", "e"], ["f"]]
    assert {letter: letter.upper() for letter in "abcdef"} == told


def test_who_was_in_the_last_group_is_waited_for_in_the_next_one(desk: Desk) -> None:
    """And for no longer than it takes: a thread alone asks at once."""
    threads, _ = desk.start("abc")
    desk.open.set()
    for thread in threads:
        thread.join()
    assert desk.asked == [["a"], ["b", "c"]]
    desk.grouped._company = 3_600.0
    told: dict[str, str] = {}
    for letter in "de":
        threads.append(threading.Thread(target=lambda name=letter: told.update({name: desk.grouped(name)})))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert desk.asked[2:] == [["d", "e"]]
    desk.grouped._company = 0.001
    assert desk.grouped("f") == "F"  # waits for one that does not come
    desk.grouped._company = 3_600.0
    assert desk.grouped("g") == "G"  # and then for nobody
    assert desk.asked[3:] == [["f"], ["g"]]
    assert told == {"d": "D", "e": "E"}


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns after a microsecond: what can go wrong between two lines does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("company", [0.0, 0.001])
def test_many_threads_are_all_answered_right(desk: Desk, company: float) -> None:
    desk.grouped._company = company
    desk.open.set()
    wrong: list[str] = []

    def ask(number: int) -> None:
        for turn in range(200):
            question = f"q{number}-{turn}"
            if desk.grouped(question) != question.upper():
                wrong.append(question)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(map(len, desk.asked)) == 1_600
