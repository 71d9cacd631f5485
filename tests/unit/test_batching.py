"""Group commit's rules: arrival order, bounds, and nobody who overtakes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from ledgerlake.eventstore import batching
from ledgerlake.eventstore.batching import Intake, check_request, commit_batch, total_size
from ledgerlake.eventstore.model import Append, EventTooLarge, NewEvent, StoreUnavailable, WriteRequest
from ledgerlake.eventstore.transaction import Committed
from ledgerlake.mongo.steps import Steps, run

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Sent:
    """A request as the intake sees it."""

    def __init__(self, name: str, appends: int = 1, size: int = 100, given_up: bool = False) -> None:
        self.name = name
        event = NewEvent("Happened", {}, NOON, "c", "c")
        self.write = WriteRequest([Append(f"{name}-{n}", "Thing", [event]) for n in range(appends)])
        self.encoded: list[list[bytes]] = []
        self.size = size
        self.given_up = given_up

    def settle(self, outcomes: list[Any]) -> None:
        raise AssertionError(outcomes)

    def fail(self, error: BaseException) -> None:
        raise AssertionError(error)


def names(batch: list[Sent]) -> list[str]:
    return [request.name for request in batch]


def test_a_batch_is_what_came_first_and_fits() -> None:
    intake: Intake[Sent] = Intake(max_appends=5)
    for name, appends in (("a", 2), ("b", 3), ("c", 1), ("d", 5), ("e", 1)):
        intake.put(Sent(name, appends))
    assert [names(intake.take()) for _ in range(4)] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert intake.take() == []


def test_a_batch_has_a_size_in_bytes_and_a_request_beyond_it_goes_alone() -> None:
    intake: Intake[Sent] = Intake(max_appends=500)
    for name, size in (("a", 1_500_000), ("b", 400_000), ("c", 200_000), ("huge", 9_000_000), ("d", 1)):
        intake.put(Sent(name, size=size))
    assert [names(intake.take()) for _ in range(4)] == [["a", "b"], ["c"], ["huge"], ["d"]]


def test_a_greedy_writer_keeps_a_modest_one_waiting_for_a_full_queue_at_most() -> None:
    """The greedy one has 30 full batches on its hands; of these only as many as fill the queue go ahead."""
    intake: Intake[Sent] = Intake(max_appends=500)
    admitted = []
    while intake.admits(intake.put(Sent("greedy", appends=500))):
        admitted.append("greedy")
    assert len(admitted) == batching.MAX_QUEUED_APPENDS // 500
    modest = intake.put(Sent("modest"))
    assert not intake.admits(modest)
    order: list[str] = []
    while batch := intake.take():
        order += names(batch)
        if len(order) == 2:
            assert intake.admits(modest)
            # Whoever arrives now is behind.
            intake.put(Sent("greedy again", appends=500))
    assert order == ["greedy"] * 21 + ["modest", "greedy again"]


def test_a_queue_is_full_by_its_bytes_too() -> None:
    intake: Intake[Sent] = Intake(max_appends=500)
    tickets = [intake.put(Sent(str(n), size=10_000_000)) for n in range(10)]
    assert [intake.admits(ticket) for ticket in tickets] == [True] * 7 + [False] * 3
    intake.take()
    assert [intake.admits(ticket) for ticket in tickets] == [True] * 8 + [False] * 2


def test_what_was_given_up_before_its_batch_is_left_out() -> None:
    intake: Intake[Sent] = Intake(max_appends=2)
    for name, given_up in (("a", False), ("b", True), ("c", False), ("d", True)):
        intake.put(Sent(name, given_up=given_up))
    assert names(intake.take()) == ["a", "c"]
    assert intake.take() == []
    assert len(intake) == 0


def test_a_request_that_no_transaction_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="501"):
        check_request(Sent("many", appends=501).write, 500)
    with pytest.raises(ValueError, match="at least one event"):
        check_request(WriteRequest([Append("s", "Thing", [])]), 500)
    assert total_size([[b"12", b"3"], [b"4"]]) == 4
    with pytest.raises(EventTooLarge, match="12,000,001"):
        total_size([[bytes(12_000_000)], [b"1"]])


class Server:
    """Takes requests one by one only, and after the second one nothing more."""

    def __init__(self) -> None:
        self.tried: list[list[str]] = []

    def commit(self, batch: list[Told]) -> Steps[Committed]:
        self.tried.append([request.name for request in batch])
        yield None
        if len(batch) > 1:
            raise OperationFailure("too much")
        if batch[0].name == "refused":
            raise OperationFailure("no")
        if batch[0].name == "late":
            raise StoreUnavailable("gone")
        return Committed([[] for _ in batch], {}, [])


class Told(Sent):
    """A request that keeps what it is told."""

    told: Any = None

    def settle(self, outcomes: list[Any]) -> None:
        assert outcomes == []
        self.told = "stored"

    def fail(self, error: BaseException) -> None:
        self.told = str(error)


def test_of_a_batch_taken_apart_the_rest_is_not_tried_once_mongodb_is_gone() -> None:
    server: Any = Server()
    batch = [Told(name) for name in ("a", "refused", "b", "late", "c", "d")]
    assert run(commit_batch(server, batch, lambda documents: None)) is False
    assert server.tried[1:] == [["a"], ["refused"], ["b"], ["late"]]
    refusal = "MongoDB refused the append (OperationFailure: no)."
    assert [request.told for request in batch] == ["stored", refusal, "stored", "gone", "gone", "gone"]
    assert run(commit_batch(server, batch[:3], lambda documents: None)) is True
