"""Subscriptions on a real server: no event missed, doubled or out of order; failures; checkpoints."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Int64
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from pymongo.read_concern import ReadConcern

from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.filter import EVERYTHING, EventFilter
from ledgerlake.eventstore.model import (
    Append,
    CheckpointConflict,
    LogCorrupted,
    NewEvent,
    StoredEvent,
    StoreUnavailable,
)
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.settings import Settings
from ledgerlake.subscriptions import following
from ledgerlake.subscriptions.following import SubscriptionError
from ledgerlake.subscriptions.policy import HandlerFailed, HandlingPolicy, OnFailure
from ledgerlake.subscriptions.subscriptions import Subscription, Subscriptions, subscribe

Db = Database[dict[str, Any]]
APP = "subscriptions-under-test"
NEVER = 3_600.0
REFUNDS = EventFilter.of(event_types=["Refunded"])


def append(stream: str, *names: str) -> Append:
    events = [
        NewEvent(name, {"n": 1}, datetime.now(UTC), "correlation", "causation", {"organizationId": "acme"})
        for name in names or ("Paid",)
    ]
    return Append(stream, "Payment", events)


def eventually(reached: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + 180
    while not reached():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.01)


@pytest.fixture
def store(database: Db) -> Iterator[EventStore]:
    with EventStore(database) as opened:
        yield opened


@pytest.fixture
def subscriptions(database: Db, store: EventStore) -> Iterator[Subscriptions]:
    with Subscriptions(database, store) as opened:
        yield opened


@pytest.fixture
def named(settings: Settings, database: Db) -> Iterator[Db]:
    """The same database by a client whose name the fail points pick out."""
    other = open_database(settings, app_name=APP)
    yield other
    other.client.close()


@contextmanager
def fail_point(database: Db, mode: Any, **data: Any) -> Iterator[None]:
    def configure(mode: Any) -> None:
        database.client.admin.command(
            {"configureFailPoint": "failCommand", "mode": mode, "data": {**data, "appName": APP}}
        )

    configure(mode)
    try:
        yield
    finally:
        configure("off")


def kill_change_streams(database: Db) -> int:
    """Kill every cursor on the counters: none but change streams stay open there."""
    admin = database.client.get_database("admin", read_concern=ReadConcern("local"))
    operations = admin.aggregate(
        [{"$currentOp": {"idleCursors": True}}, {"$match": {"ns": f"{database.name}.counters"}}]
    )
    cursors = [operation["cursor"]["cursorId"] for operation in operations if "cursor" in operation]
    if cursors:
        database.command("killCursors", "counters", cursors=cursors)
    return len(cursors)


class Commands(CommandListener):
    """For every find: the collection, the time that it waits for, and the time of its answer."""

    def __init__(self) -> None:
        self.finds: list[list[Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            concern = event.command["readConcern"]
            assert concern["level"] == "majority"
            self.finds.append([event.command["find"], concern.get("afterClusterTime"), None])

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.command_name == "find":
            self.finds[-1][2] = event.reply["operationTime"]

    def failed(self, event: CommandFailedEvent) -> None:
        raise AssertionError(event.failure)


class Reader(threading.Thread):
    """Collects what a subscription hands out, on a thread of its own."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(daemon=True)
        self.subscription = subscription
        self.positions: list[int] = []
        self.start()

    def run(self) -> None:
        for event in self.subscription:
            self.positions.append(event.position)

    def stop(self) -> None:
        self.subscription.close()
        self.join(180)
        assert not self.is_alive()


def write(store: EventStore, writers: int, each: int) -> list[threading.Thread]:
    def work(number: int) -> None:
        for i in range(each):
            store.append(append(f"p-{number}-{i}", "Refunded" if i % 5 == 0 else "Paid"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("woken_by", ["a change stream", "a killed change stream", "the clock", "a refusal"])
def test_no_event_is_missed_doubled_or_out_of_order_from_catching_up_to_live(
    database: Db, named: Db, store: EventStore, woken_by: str
) -> None:
    """Subscribers that start at any time beside eight writers; pages are small, so there are many seams."""
    store.append_many([append(f"old-{i}") for i in range(100)])
    refused: Any = "alwaysOn" if woken_by == "a refusal" else "off"
    with (
        EventStore(named) as reading,
        fail_point(database, refused, failCommands=["aggregate"], errorCode=13),
        Subscriptions(
            named, reading, change_streams=woken_by != "the clock", poll_seconds=0.02
        ) as subscriptions,
    ):
        writing = write(store, 8, 40)
        readers = [Reader(subscriptions.subscribe(page_events=7))]
        wanted = Reader(subscriptions.subscribe(page_events=7, only=REFUNDS))
        killed = 0
        while any(thread.is_alive() for thread in writing):
            if len(readers) < 6:
                readers.append(Reader(subscriptions.subscribe(after=store.head() // 2 * 2, page_events=7)))
            if woken_by == "a killed change stream":
                killed += kill_change_streams(database)
            time.sleep(0.005)
        if woken_by == "a killed change stream" and not killed:  # the writers were faster than the watch
            eventually(lambda: kill_change_streams(database), "a change stream to kill")
        total = store.head()
        assert total == 100 + 8 * 40
        # Live by now, and each event is one of its own.
        late = [store.append(append("late")).position for _ in range(5)]
        eventually(lambda: all(r.positions[-1:] == late[-1:] for r in readers), "all events read")
        eventually(lambda: wanted.subscription.position == late[-1], "the filtered one is at the head")
        for reader in (*readers, wanted):
            reader.stop()
    for reader in readers:
        assert reader.positions == list(range(reader.positions[0], late[-1] + 1))
    assert readers[0].positions[0] == 1
    refunds = database["events"].find({"eventType": "Refunded"}).sort("position", 1)
    assert wanted.positions == [event["position"] for event in refunds]


def test_negative_control_a_follower_that_takes_the_head_for_what_it_has_read_skips_events(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same reading with the rule out that a full page reaches up to its last event only."""
    store.append_many([append(f"p{i}") for i in range(20)])
    whole = [event.position for event in subscribe(store, live=False, page_events=7)]
    monkeypatch.setattr(following, "looked_up_to", lambda after, up_to, *_: up_to)
    skipping = [event.position for event in subscribe(store, live=False, page_events=7)]
    assert (whole, skipping) == (list(range(1, 21)), list(range(1, 8)))


def test_a_subscription_stops_at_a_gap_and_never_skips_it(store: EventStore, database: Db) -> None:
    store.append_many([append(f"p{i}") for i in range(9)])
    database["events"].delete_one({"position": 5})
    subscription = subscribe(store, page_events=3)
    assert [next(subscription).position for _ in range(3)] == [1, 2, 3]
    with pytest.raises(LogCorrupted, match="position 5"):
        next(subscription)
    assert subscription.position == 3
    database["events"].delete_one({"position": 9})
    with pytest.raises(LogCorrupted, match="position 9"):
        list(subscribe(store, after=5, live=False))


def test_negative_control_positions_that_are_seen_before_those_below_them_are_noticed(
    store: EventStore, database: Db
) -> None:
    """What a counter outside the transaction would show: 4 is there, 3 comes late. It must not be passed."""
    store.append_many([append(f"p{i}") for i in range(4)])
    late = database["events"].find_one_and_delete({"position": 3})
    assert late is not None
    subscription = subscribe(store)
    with pytest.raises(LogCorrupted, match="position 3"):
        list(subscription)
    assert subscription.position == 0
    database["events"].insert_one(late)
    assert [event.position for event in subscribe(store, live=False)] == [1, 2, 3, 4]


def test_a_change_stream_wakes_a_subscription_that_would_not_look_by_itself(
    database: Db, store: EventStore
) -> None:
    with Subscriptions(database, store, poll_seconds=NEVER, idle_seconds=NEVER) as subscriptions:
        reader = Reader(subscriptions.subscribe())
        for position in range(1, 6):
            store.append(append("p"))
            eventually(lambda at=position: len(reader.positions) == at, "woken")  # type: ignore[misc]
        reader.stop()
    assert reader.positions == [1, 2, 3, 4, 5]


def test_a_refused_change_stream_is_opened_once_it_is_allowed(
    database: Db, named: Db, store: EventStore
) -> None:
    with (
        EventStore(named) as reading,
        Subscriptions(named, reading, poll_seconds=0.02, idle_seconds=NEVER) as subscriptions,
    ):
        with fail_point(database, "alwaysOn", failCommands=["aggregate"], errorCode=13):
            reader = Reader(subscriptions.subscribe())
            store.append(append("p"))
            eventually(lambda: reader.positions == [1], "polled")
            assert not subscriptions._watch.watching
        eventually(lambda: subscriptions._watch.watching, "a change stream")
        store.append(append("p"))
        eventually(lambda: reader.positions == [1, 2], "woken")
        reader.stop()


def test_closing_ends_a_subscription_that_waits_at_once(subscriptions: Subscriptions) -> None:
    waiting = [Reader(subscriptions.subscribe()), Reader(subscriptions.subscribe(only=REFUNDS))]
    waiting[0].stop()
    subscriptions.close()
    waiting[1].join(180)
    assert not waiting[1].is_alive()
    assert list(waiting[1].subscription) == []


@pytest.mark.parametrize("fault", [{"errorCode": 43}, {"errorCode": 11600}], ids=str)
def test_a_read_that_fails_in_passing_is_done_again(
    database: Db, named: Db, store: EventStore, fault: dict[str, Any]
) -> None:
    store.append_many([append(f"p{i}") for i in range(30)])
    with (
        EventStore(named) as reading,
        Subscriptions(named, reading) as subscriptions,
        fail_point(database, {"times": 2}, failCommands=["find"], **fault),
    ):
        seen = [event.position for event in subscriptions.subscribe(live=False, page_events=4)]
    assert seen == list(range(1, 31))


def test_each_read_waits_for_what_the_read_before_has_seen_whoever_is_primary_by_then(
    settings: Settings, database: Db, store: EventStore
) -> None:
    """On the wire: a new primary that did not know yet what is committed would have to wait for that time."""
    store.append_many([append(f"p{i}") for i in range(5)])
    heard = Commands()
    assert settings.mongodb_uri is not None
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongodb_uri, readConcernLevel="majority", tz_aware=True, event_listeners=[heard]
    )
    same = client[settings.database]
    with client, EventStore(same) as reading, Subscriptions(same, reading) as subscriptions:
        assert list(subscriptions.subscribe(only=REFUNDS, live=False)) == []
    (head, after_nothing, seen), (log, after_head, _) = heard.finds[:2]
    assert (head, log) == ("counters", "events")
    assert after_nothing is None
    assert after_head >= seen


def test_a_read_that_fails_for_good_is_an_error(database: Db, named: Db) -> None:
    with (
        EventStore(named) as reading,
        fail_point(database, "alwaysOn", failCommands=["find"], errorCode=13),
        pytest.raises(SubscriptionError, match="refused .* privilege"),
    ):
        list(subscribe(reading))


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({"closeConnection": True}, StoreUnavailable, "Do the same again"),
        ({"errorCode": 13}, SubscriptionError, "privilege"),
    ],
    ids=["gone", "refused"],
)
@pytest.mark.parametrize("failing", ["find", "delete"])
def test_what_the_driver_raises_is_told_as_an_error_with_a_remedy(
    database: Db, named: Db, failing: str, fault: dict[str, Any], error: type[Exception], says: str
) -> None:
    with EventStore(named) as reading, Subscriptions(named, reading) as subscriptions:
        reading.append(append("p"))
        policy = quick(OnFailure.PARK_EVENT, retries=0)
        subscriptions.consumer("c", fails, policy=policy, live=False).run()
        with (
            fail_point(database, "alwaysOn", failCommands=[failing], **fault),
            pytest.raises(error, match=says),
        ):
            subscriptions.retry_parked("c", lambda event: None)
        assert subscriptions.retry_parked("c", lambda event: None).handled == 1


def fails(event: StoredEvent) -> None:
    raise RuntimeError("no")


def test_no_session_stays_open_however_following_ends(
    database: Db, store: EventStore, subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append_many([append("p"), append("q")])
    begun: list[ClientSession] = []
    begin = database.client.start_session

    def start_session(**options: Any) -> ClientSession:
        begun.append(begin(**options))
        return begun[-1]

    monkeypatch.setattr(database.client, "start_session", start_session)
    left = subscriptions.subscribe(live=False, page_events=1)
    assert next(left).position == 1  # and the rest is not wanted
    never_run = subscriptions.consumer("never", fails)
    with pytest.raises(HandlerFailed):
        subscriptions.consumer("c", fails, policy=quick(), live=False).run()
    database["events"].delete_one({"position": 1})
    with pytest.raises(LogCorrupted):
        list(subscriptions.subscribe(live=False))
    assert len(begun) > 3
    assert [session for session in begun if not session.has_ended] == []
    del left, never_run


def test_following_beyond_the_end_of_the_log_is_an_error_and_not_a_silent_wait(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.1)
    store.append(append("p"))
    with pytest.raises(SubscriptionError, match="restored"):
        list(subscribe(store, after=2))


def test_a_checkpoint_of_an_iterator_moves_past_what_the_filter_leaves_out(
    store: EventStore, subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SPAN_POSITIONS", 10)
    store.append_many([append(f"p{i}") for i in range(35)])
    store.append(append("r", "Refunded"))
    store.append_many([append(f"q{i}") for i in range(35)])
    subscription = subscriptions.subscribe("refunds", only=REFUNDS, live=False)
    found = [(event.position, subscription.position) for event in subscription]
    assert found == [(36, 36)]
    assert subscription.position == 71
    subscription.save()
    assert subscriptions.state("refunds").position == store.checkpoint("refunds") == 71
    again = subscriptions.subscribe("refunds", only=REFUNDS, live=False)
    assert list(again) == []
    store.append(append("s", "Refunded"))
    assert [event.position for event in subscriptions.subscribe("refunds", only=REFUNDS, live=False)] == [72]


def test_of_two_iterators_with_one_checkpoint_the_second_to_save_is_told(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append_many([append("p"), append("q")])
    first, second = (subscriptions.subscribe("mine", live=False) for _ in range(2))
    next(first)
    assert list(second)
    first.save()
    with pytest.raises(CheckpointConflict, match="'mine'"):
        second.save()
    assert subscriptions.state("mine").position == 1


def test_another_filter_under_a_name_that_has_come_somewhere_is_refused(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append(append("p"))
    subscriptions.consumer("c", lambda event: None, only=REFUNDS, live=False).run()
    with pytest.raises(SubscriptionError, match="another filter"):
        subscriptions.consumer("c", lambda event: None, live=False).run()
    subscriptions.forget("c")
    assert subscriptions.consumer("c", lambda event: None, live=False).run().events == 1


def test_a_consumer_handles_each_event_in_order_and_goes_on_where_it_was_stopped(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append_many([append(f"p{i}") for i in range(50)])
    seen: list[int] = []

    def handler(event: StoredEvent) -> None:
        seen.append(event.position)
        if len(seen) in (20, 70):
            consumer.close()

    policy = HandlingPolicy(checkpoint_events=7, checkpoint_seconds=NEVER)
    consumer = subscriptions.consumer("c", handler, policy=policy)
    done = consumer.run()
    assert (done.from_position, done.to_position, done.events) == (0, 20, 20)
    assert subscriptions.lag("c").events == 30
    consumer = subscriptions.consumer("c", handler, policy=policy)
    running = threading.Thread(target=consumer.run)
    running.start()
    for _ in range(20):
        store.append(append("later"))
    running.join(180)
    assert seen == list(range(1, 71))
    state = subscriptions.state("c")
    assert (state.position, state.status, state.last_error) == (70, "live", None)


def test_the_checkpoint_of_a_live_consumer_moves_also_when_nothing_it_wants_comes(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    policy = HandlingPolicy(checkpoint_events=1_000, checkpoint_seconds=0.05)
    consumer = subscriptions.consumer("c", lambda event: None, only=REFUNDS, policy=policy)
    running = threading.Thread(target=consumer.run)
    running.start()
    try:
        for position, name in enumerate(["Paid", "Refunded", "Paid"], start=1):
            store.append(append("p", name))
            eventually(lambda at=position: store.checkpoint("c") == at, "the checkpoint")  # type: ignore[misc]
    finally:
        consumer.close()
        running.join(180)


class Crash(BaseException):
    """The end of a process, as far as its checkpoint is concerned."""


def test_after_a_crash_what_came_after_the_checkpoint_is_handled_again_and_nothing_is_left_out(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append_many([append(f"p{i}") for i in range(30)])
    seen: list[int] = []

    def handler(event: StoredEvent) -> None:
        seen.append(event.position)
        if len(seen) == 25:
            raise Crash

    policy = HandlingPolicy(checkpoint_events=10, checkpoint_seconds=NEVER)
    with pytest.raises(Crash):
        subscriptions.consumer("c", handler, policy=policy, live=False).run()
    subscriptions.consumer("c", handler, policy=policy, live=False).run()
    assert seen == [*range(1, 26), *range(21, 31)]


def quick(on_failure: OnFailure = OnFailure.STOP, retries: int = 2) -> HandlingPolicy:
    return HandlingPolicy(on_failure, retries=retries, first_delay=0.001)


def test_a_handler_that_fails_is_tried_again(store: EventStore, subscriptions: Subscriptions) -> None:
    store.append_many([append("p"), append("q"), append("r")])
    calls: list[int] = []

    def handler(event: StoredEvent) -> None:
        calls.append(event.position)
        if event.position == 2 and calls.count(2) < 3:
            raise RuntimeError("not yet")

    done = subscriptions.consumer("c", handler, policy=quick(), live=False).run()
    assert (calls, done.events, done.parked) == ([1, 2, 2, 2, 3], 3, 0)


def test_by_default_a_consumer_stops_before_the_event_that_fails_says_so_and_tries_it_again(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append_many([append("p"), append("q"), append("r")])
    broken = True

    def handler(event: StoredEvent) -> None:
        if broken and event.position == 2:
            raise RuntimeError("the printer is on fire")

    for _ in range(2):
        with pytest.raises(HandlerFailed, match="'c' stopped before position 2.*on fire"):
            subscriptions.consumer("c", handler, policy=quick(), live=False).run()
        state = subscriptions.state("c")
        assert (state.position, state.status) == (1, "stopped")
        assert state.last_error is not None
        assert re.fullmatch(r"RuntimeError \(test_subscriptions\.py:\d+ handler\)", state.last_error)
        assert subscriptions.lag("c").events == 2
    broken = False
    subscriptions.consumer("c", handler, policy=quick(), live=False).run()
    state = subscriptions.state("c")
    assert (state.position, state.status, state.last_error) == (3, "live", None)


@pytest.mark.parametrize(
    ("on_failure", "handled", "parked"),
    [
        (OnFailure.PARK_EVENT, [1, 3, 4, 5, 6], [(2, 3)]),
        (OnFailure.PARK_STREAM, [1, 3, 5], [(2, 3), (4, 0), (6, 0)]),
    ],
)
def test_an_event_that_fails_is_parked_by_policy_and_retried_in_order(
    store: EventStore,
    subscriptions: Subscriptions,
    on_failure: OnFailure,
    handled: list[int],
    parked: list[tuple[int, int]],
) -> None:
    store.append_many([append(stream) for stream in ("p", "bad", "p", "bad", "p")])
    seen: list[int] = []
    broken = True

    def handler(event: StoredEvent) -> None:
        if broken and event.position == 2:
            raise RuntimeError("no")
        seen.append(event.position)

    def run() -> None:
        subscriptions.consumer("c", handler, policy=quick(on_failure), live=False).run()

    run()
    store.append(append("bad"))
    run()  # a run that begins with a stream that is blocked already
    assert seen == handled
    assert [(p.position, p.attempts) for p in subscriptions.parked("c")] == parked
    first = subscriptions.parked("c")[0]
    assert (first.subscription, first.stream_id) == ("c", "bad")
    assert re.fullmatch(r"RuntimeError \(test_subscriptions\.py:\d+ handler\)", first.error)
    assert first.event_id == store.read_stream("bad")[0].event_id
    assert subscriptions.state("c").position == 6
    assert subscriptions.lag("c").events == 0

    assert subscriptions.retry_parked("c", handler).left == len(parked)
    assert seen == handled
    again = subscriptions.parked("c")[0]
    assert (again.attempts, again.error) == (4, first.error)
    broken = False
    assert subscriptions.retry_parked("c", handler).handled == len(parked)
    assert seen == [*handled, *(position for position, _ in parked)]
    assert subscriptions.parked("c") == []
    store.append(append("bad"))
    run()
    assert seen[-1] == 7


def test_parking_and_the_checkpoint_are_one(database: Db, named: Db, store: EventStore) -> None:
    """The answer to the commit is lost once: the event is parked once, and the consumer goes on."""
    store.append_many([append("p"), append("q")])

    def handler(event: StoredEvent) -> None:
        if event.position == 1:
            raise RuntimeError("no")

    for name, fault in (
        ("unknown", {"writeConcernError": {"code": 64, "errmsg": "lost"}}),
        ("gone", {"closeConnection": True}),
    ):
        with (
            EventStore(named) as reading,
            Subscriptions(named, reading) as subscriptions,
            fail_point(database, {"times": 1}, failCommands=["commitTransaction"], **fault),
        ):
            policy = quick(OnFailure.PARK_EVENT)
            done = subscriptions.consumer(name, handler, policy=policy, live=False).run()
            assert (done.events, done.parked) == (1, 1)
            assert [p.position for p in subscriptions.parked(name)] == [1]


def test_of_two_runners_of_one_name_the_slower_one_is_told_and_the_checkpoint_never_goes_back(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    store.append_many([append(f"p{i}") for i in range(10)])

    def second(event: StoredEvent) -> None:
        if event.position == 3:
            subscriptions.consumer("c", lambda event: None, live=False).run()

    policy = HandlingPolicy(checkpoint_events=5, checkpoint_seconds=NEVER)
    with pytest.raises(CheckpointConflict, match="'c' was expected at 0, but is at 10"):
        subscriptions.consumer("c", second, policy=policy, live=False).run()
    assert subscriptions.state("c").position == 10


def receipt(event: StoredEvent) -> list[Append]:
    if event.event_type == "Receipt":
        return []
    return [append(f"receipt-{event.position}", "Receipt")]


def test_what_handlers_return_is_stored_once_by_any_number_of_runners(
    database: Db, store: EventStore, subscriptions: Subscriptions
) -> None:
    """Six runners of one name at once: some lose the race for every event, and none stores it again."""
    store.append_many([append(f"p{i}") for i in range(25)])

    def work() -> None:
        while True:
            try:
                subscriptions.consumer("receipts", receipt, live=False, policy=quick()).run()
            except CheckpointConflict:
                continue
            return

    runners = [threading.Thread(target=work) for _ in range(6)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    receipts = [
        e["aggregateId"] for e in database["events"].find({"eventType": "Receipt"}).sort("position", 1)
    ]
    assert receipts == [f"receipt-{position}" for position in range(1, 26)]


def test_a_result_that_conflicts_is_decided_again(store: EventStore, subscriptions: Subscriptions) -> None:
    store.append(append("p"))
    calls = 0

    def handler(event: StoredEvent) -> list[Append]:
        nonlocal calls
        calls += 1
        if event.event_type != "Paid":
            return []
        taken = store.read_stream("account")
        new = append("account", "Booked")
        if not taken:
            store.append(append("account", "Opened"))  # someone else, between the decision and the append
        return [Append(new.stream_id, new.aggregate_type, new.events, NO_STREAM)] if not taken else [new]

    subscriptions.consumer("c", handler, policy=quick(), live=False).run()
    assert [event.event_type for event in store.read_stream("account")] == ["Opened", "Booked"]
    assert calls == 2


def test_a_parked_event_s_result_is_stored_once_however_often_it_is_retried(
    store: EventStore, subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(append("p"))

    def broken(event: StoredEvent) -> None:
        raise RuntimeError("no")

    policy = quick(OnFailure.PARK_EVENT, retries=0)
    subscriptions.consumer("c", broken, policy=policy, live=False).run()
    with monkeypatch.context() as crash:

        def crashed(*_: Any) -> None:
            raise Crash

        crash.setattr("ledgerlake.subscriptions.parking.unpark", crashed)
        with pytest.raises(Crash):
            subscriptions.retry_parked("c", receipt)
    assert subscriptions.parked_count("c") == 1
    assert subscriptions.retry_parked("c", receipt).handled == 1
    assert subscriptions.parked_count("c") == 0
    assert len(store.read_stream("receipt-1")) == 1


def test_lag_counts_what_a_subscription_wants_and_tells_the_age_of_the_oldest(
    store: EventStore, subscriptions: Subscriptions, database: Db
) -> None:
    store.append_many([append("p"), append("q", "Refunded"), append("r"), append("s", "Refunded")])
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    database["events"].update_one({"position": 1}, {"$set": {"recordedAt": long_ago - timedelta(hours=1)}})
    database["events"].update_one({"position": 2}, {"$set": {"recordedAt": long_ago}})
    for name, only in (("all", EVERYTHING), ("refunds", REFUNDS)):
        subscriptions.subscribe(name, only=only)
    every, refunds = subscriptions.lag("all"), subscriptions.lag("refunds")
    assert (every.events, refunds.events) == (4, 2)
    assert 7_200 <= every.seconds < 7_200 + 600
    assert 3_600 <= refunds.seconds < 3_600 + 600
    iterator = subscriptions.subscribe("refunds", only=REFUNDS)
    assert next(iterator).position == 2
    iterator.save()
    assert (subscriptions.lag("refunds").events, subscriptions.lag("refunds").seconds < 600) == (1, True)
    for name, only in (("all", EVERYTHING), ("refunds", REFUNDS)):
        subscriptions.consumer(name, lambda event: None, only=only, live=False).run()
        assert subscriptions.lag(name) == (lag := subscriptions.lag(name))
        assert (lag.events, lag.seconds) == (0, 0.0)
    store.append(append("t"))
    assert subscriptions.lag("refunds").events == 0
    assert subscriptions.lag("all").events == 1
    with pytest.raises(SubscriptionError, match="'nobody'"):
        subscriptions.lag("nobody")


def test_a_checkpoint_that_an_append_made_is_a_subscription_too(
    store: EventStore, subscriptions: Subscriptions
) -> None:
    from ledgerlake.eventstore.model import CheckpointMove

    store.append_many([append("p"), append("q"), append("r")])
    store.append_atomically([append("x", "Receipt")], CheckpointMove("c", 2, after=0))
    assert [(state.name, state.position) for state in subscriptions.states()] == [("c", 2)]
    assert [event.position for event in subscriptions.subscribe("c", live=False)] == [3, 4]


def test_memory_is_bounded_by_a_page(store: EventStore, database: Db) -> None:
    """What one look hands out is a page, whatever the log holds."""
    store.append_many([append(f"p{i}") for i in range(40)])
    limits: list[int] = []

    class Watched:
        head = staticmethod(store.head)

        @staticmethod
        def read_all(after: int, **how: Any) -> Iterator[StoredEvent]:
            limits.append(how["limit"])
            return store.read_all(after, **how)

    assert len(list(subscribe(Watched(), live=False, page_events=9))) == 40  # type: ignore[arg-type]
    assert set(limits) == {9}
    assert isinstance(database["counters"].find_one({"_id": "events"})["position"], int | Int64)  # type: ignore[index]


def test_status_shows_every_subscription_with_its_lag_and_what_it_has_parked(settings: Settings) -> None:
    from ledgerlake.application import Lag, LedgerLake

    def broken(event: StoredEvent) -> None:
        raise RuntimeError("no")

    with LedgerLake.open(settings) as ledger:
        ledger.store.append_many([append("p"), append("q", "Refunded"), append("r", "Refunded")])
        ledger.subscriptions.subscribe("mailer", only=REFUNDS)
        with pytest.raises(HandlerFailed):
            ledger.subscriptions.consumer("stopped", broken, policy=quick(), live=False).run()
        parking = quick(OnFailure.PARK_EVENT)
        ledger.subscriptions.consumer("parks", broken, only=REFUNDS, policy=parking, live=False).run()
        names = ("mailer", "stopped", "parks")
        parts = [part for part in ledger.status().parts if part.name in names]
        ledger.db.client.drop_database(settings.database)
    assert [part.name for part in parts if part.lag_seconds > 0] == ["mailer", "stopped"]
    shown = {part.name: replace(part, lag_seconds=0.0) for part in parts}
    error = shown["stopped"].last_error
    assert error is not None
    assert error.startswith("RuntimeError (")
    assert shown == {
        "mailer": Lag("mailer", 0, 2, "live", shown["mailer"].updated_at, None),
        "stopped": Lag("stopped", 0, 3, "stopped", shown["stopped"].updated_at, error),
        "parks": Lag("parks", 3, 0, "live", shown["parks"].updated_at, "2 parked"),
    }
