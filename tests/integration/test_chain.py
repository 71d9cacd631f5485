"""The hash chain: whatever is changed in the log, be it one byte, is found, with the positions it lies in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.eventstore.chain import LINK_EVERY
from ledgerlake.eventstore.expected import NO_STREAM
from ledgerlake.eventstore.model import Append, ConcurrencyError, NewEvent
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_database
from ledgerlake.mongo.decimal128 import decimal128
from ledgerlake.reconciliation import NotedHead, chain
from ledgerlake.reconciliation.chain import BadHeadError
from ledgerlake.reconciliation.model import Check
from ledgerlake.settings import Settings
from tests.builders import insert_events, looked_at, payment_history

Db = Database[dict[str, Any]]
RAW: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
EVENTS = 2_600
BATCH = 400
COLLECTIONS = ("events", "counters", "log_chain")


def append_of(number: int) -> Append:
    minor = 1_000 + number % 7
    data = {"amount": decimal128(minor, 2), "amountMinor": Int64(minor), "currency": "EUR", "attempt": 1}
    new = NewEvent("PaymentProcessed", data, NOW, f"c{number}", f"c{number}", {"userId": f"user-{number:05}"})
    return Append(f"p{number}", "Payment", (new,), command_id=f"c{number}")


@pytest.fixture(scope="module")
def sound(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Db]:
    """A log written by the store, with two links and a head behind the last."""
    home = tmp_path_factory.mktemp("chain")
    db = open_database(Settings(home=home, mongodb_uri=mongo_uri, database=f"test_{uuid.uuid4().hex[:16]}"))
    try:
        with EventStore(db) as store:
            for first in range(0, EVENTS, BATCH):
                store.append_many([append_of(n) for n in range(first, min(first + BATCH, EVENTS))])
        yield db
    finally:
        db.client.drop_database(db.name)
        db.client.close()


def raw(db: Db, name: str) -> list[RawBSONDocument]:
    return list(
        db.get_collection(name, codec_options=RAW).find().sort("position" if name == "events" else "_id")
    )


@pytest.fixture
def log(sound: Db) -> Iterator[Db]:
    """The sound log, to be tampered with: put right again, byte for byte, after the test."""
    kept = {name: raw(sound, name) for name in COLLECTIONS}
    yield sound
    for name, documents in kept.items():
        sound[name].delete_many({})
        sound.get_collection(name, codec_options=RAW).insert_many(documents)


def head_of(check: Check) -> NotedHead:
    return NotedHead.parse(check.detail.rpartition(" ")[2])


def hashes(db: Db) -> list[bytes]:
    """The hash at each position from 0, by the definition and nothing else."""
    found = [bytes(32)]
    for document in raw(db, "events"):
        found.append(sha256(found[-1] + sha256(document.raw).digest()).digest())
    return found


def links(db: Db) -> list[int]:
    return [int(link["_id"]) for link in db["log_chain"].find().sort("_id")]


def part_around(db: Db, position: int) -> str:
    """The stretch between two links that a position lies in, as the check words it."""
    edges = sorted({0, *links(db), EVENTS})
    last = next(edge for edge in edges if edge >= position)
    return f"positions {edges[edges.index(last) - 1] + 1:,} to {last:,} do not hold the events"


def test_a_log_that_nobody_touched_comes_to_every_link_and_the_head(log: Db) -> None:
    found = looked_at(log)
    assert (found.ok, found.differences) == (True, ())
    expected = hashes(log)
    assert head_of(found) == NotedHead(EVENTS, expected[EVENTS])
    kept = {int(link["_id"]): bytes(link["hash"]) for link in log["log_chain"].find()}
    # Batches of 400: a link at the end of each one that passes a multiple of 1,000.
    assert {position // LINK_EVERY for position in kept} >= {1, 2}
    assert all(expected[position] == value for position, value in kept.items())


def one_letter(event: dict[str, Any]) -> None:
    event["metadata"]["userId"] = event["metadata"]["userId"].replace("user", "usee")


def one_cent(event: dict[str, Any]) -> None:
    event["eventData"]["amountMinor"] = Int64(event["eventData"]["amountMinor"] + 1)


def one_millisecond(event: dict[str, Any]) -> None:
    event["timestamp"] += timedelta(milliseconds=1)


def another_type(event: dict[str, Any]) -> None:
    event["eventData"]["attempt"] = Int64(1)  # equal for every comparison, another byte


def another_zero(event: dict[str, Any]) -> None:
    event["eventData"]["amount"] = Decimal128(f"{event['eventData']['amount']}0")


def another_order(event: dict[str, Any]) -> None:
    event["eventData"] = dict(reversed(event["eventData"].items()))


def one_field_more(event: dict[str, Any]) -> None:
    event["seen"] = True


def test_one_changed_byte_in_one_event_is_found_and_the_positions_are_named(log: Db) -> None:
    changes = (
        one_letter,
        one_cent,
        one_millisecond,
        another_type,
        another_zero,
        another_order,
        one_field_more,
    )
    events = log.get_collection("events", codec_options=RAW)
    for number, change in enumerate(changes):
        position = (1, 1_234, EVENTS)[number % 3]
        kept = events.find_one({"position": position})
        event = log["events"].find_one({"position": position})
        assert event is not None
        assert kept is not None
        change(event)
        log["events"].replace_one({"_id": event["_id"]}, event)
        changed = events.find_one({"position": position})
        assert changed is not None
        if change is one_letter:
            assert sum(one != other for one, other in zip(kept.raw, changed.raw, strict=True)) == 1
        [told] = looked_at(log).differences
        assert told.startswith(part_around(log, position)), change
        events.replace_one({"_id": event["_id"]}, kept)
    assert looked_at(log).ok


def replaced(db: Db, *documents: dict[str, Any]) -> None:
    """Other documents in the place of those with the same _id, put in anew."""
    db["events"].delete_many({"_id": {"$in": [document["_id"] for document in documents]}})
    db["events"].insert_many(documents)


def test_amounts_that_move_between_events_are_found_though_every_sum_stays(log: Db) -> None:
    one, other = (log["events"].find_one({"position": position}) or {} for position in (700, 701))
    for event, minor in ((one, -1), (other, 1)):
        event["eventData"]["amountMinor"] = Int64(event["eventData"]["amountMinor"] + minor)
        event["eventData"]["amount"] = decimal128(event["eventData"]["amountMinor"], 2)
    replaced(log, one, other)
    [told] = looked_at(log).differences
    assert told.startswith(part_around(log, 700))


def test_two_events_that_change_places_are_found(log: Db) -> None:
    one, other = (log["events"].find_one({"position": position}) or {} for position in (100, 2_500))
    one["position"], other["position"] = other["position"], one["position"]
    replaced(log, one, other)
    assert [told.split(" do")[0] for told in looked_at(log).differences] == [
        part_around(log, 100).split(" do")[0],
        part_around(log, 2_500).split(" do")[0],
    ]


def test_two_events_that_change_places_but_keep_their_positions_in_the_document_are_found(log: Db) -> None:
    one, other = (log["events"].find_one({"position": position}) or {} for position in (100, 101))
    for name in ("aggregateId", "commandId", "correlationId", "causationId", "metadata", "_id"):
        one[name], other[name] = other[name], one[name]
    replaced(log, one, other)
    [told] = looked_at(log).differences
    assert told.startswith(part_around(log, 100))


def test_a_missing_event_is_found_and_the_parts_behind_it_are_in_order(log: Db) -> None:
    log["events"].delete_one({"position": 1_500})
    [told] = looked_at(log).differences
    assert told.startswith(part_around(log, 1_500))


def test_an_event_put_in_for_a_removed_one_is_found(log: Db) -> None:
    event = log["events"].find_one({"position": 2_000}) or {}
    log["events"].delete_one({"position": 2_000})
    log["events"].insert_one({**event, "_id": ObjectId()})
    [told] = looked_at(log).differences
    assert told.startswith(part_around(log, 2_000))


@pytest.mark.parametrize("mark", [{}, {"file": 1}, {"file": 1, "digest": "text"}, {"more": 1}, None, 7])
def test_a_changed_event_does_not_pass_for_an_archived_one(log: Db, mark: Any) -> None:
    before = sha256(raw(log, "events")[41].raw).digest()
    if isinstance(mark, dict) and "file" not in mark:
        mark = {**mark, "digest": Binary(before)}
    log["events"].update_one({"position": 42}, {"$set": {"metadata.userId": "x", "archived": mark}})
    [told] = looked_at(log).differences
    assert told.startswith(part_around(log, 42))


def cut_off(db: Db, head: int) -> None:
    """The tail removed, and the counter and the links as if it had never been."""
    value = hashes(db)[head]
    db["events"].delete_many({"position": {"$gt": head}})
    db["log_chain"].delete_many({"_id": {"$gte": head}})
    db["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(head), "chain": Binary(value)}})


def test_a_tail_that_is_cut_off_is_found(log: Db) -> None:
    log["events"].delete_many({"position": {"$gt": 2_550}})
    assert not looked_at(log).ok
    log["counters"].update_one({"_id": "events"}, {"$set": {"position": Int64(2_550)}})
    [told] = looked_at(log).differences
    assert told.startswith("positions")
    # A link beyond the end tells, even where the counter's own hash is right.
    log["events"].delete_many({"position": {"$gt": 900}})
    log["counters"].update_one(
        {"_id": "events"}, {"$set": {"position": Int64(900), "chain": Binary(hashes(log)[900])}}
    )
    [told] = looked_at(log).differences
    assert "now ends at 900: its tail is cut off" in told


@pytest.mark.parametrize("noted_at", [2_600, 2_501])
def test_a_tail_cut_off_with_everything_set_back_is_found_by_a_noted_head_and_by_nothing_else(
    log: Db, noted_at: int
) -> None:
    noted = NotedHead(noted_at, hashes(log)[noted_at])
    cut_off(log, 2_500)
    assert looked_at(log).ok
    found = looked_at(log, noted)
    assert not found.ok
    assert f"a head at {noted_at:,} was noted, but the log ends at 2,500" in found.differences[0]


def test_a_chain_written_anew_over_a_changed_event_is_found_by_a_noted_head(log: Db) -> None:
    before = hashes(log)
    event = log["events"].find_one({"position": 42}) or {}
    one_cent(event)
    log["events"].replace_one({"_id": event["_id"]}, event)
    after = hashes(log)
    for position in links(log):
        log["log_chain"].update_one({"_id": position}, {"$set": {"hash": Binary(after[position])}})
    log["counters"].update_one({"_id": "events"}, {"$set": {"chain": Binary(after[EVENTS])}})
    assert looked_at(log).ok  # whoever can write everything can also write this
    assert looked_at(log, NotedHead(41, before[41])).ok
    for position in (42, 1_111, EVENTS):
        [told] = looked_at(log, NotedHead(position, before[position])).differences
        assert told.startswith(f"the log up to position {position:,} is another")


def test_a_head_noted_anywhere_in_the_past_still_holds(log: Db) -> None:
    known = hashes(log)
    for position in (0, 1, links(log)[0], links(log)[0] + 1, EVENTS):
        assert looked_at(log, NotedHead(position, known[position])).ok


def test_a_changed_link_and_a_lost_head_are_found(log: Db) -> None:
    first = links(log)[0]
    log["log_chain"].update_one({"_id": first}, {"$set": {"hash": Binary(bytes(32))}})
    assert len(looked_at(log).differences) == 2  # it belongs to the part before and to the one behind
    log["counters"].update_one({"_id": "events"}, {"$unset": {"chain": 1}})
    assert "the counter has lost the hash of the head" in looked_at(log).differences


def test_replies_of_any_size_come_to_the_same(log: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = looked_at(log)
    monkeypatch.setattr(chain, "_EVENTS_A_REPLY", 7)
    assert looked_at(log) == whole
    log["events"].delete_one({"position": 701})
    assert len(looked_at(log).differences) == 1


def test_a_log_from_before_the_chain_is_chained_by_its_next_append(database: Db) -> None:
    insert_events(database, payment_history(41, 1_300))
    database["counters"].update_one({"_id": "events"}, {"$unset": {"chain": 1}})
    database["log_chain"].delete_many({})
    assert "not chained yet" in looked_at(database).detail
    with EventStore(database) as store:
        store.append(append_of(1))
    found = looked_at(database)
    assert found.ok
    assert head_of(found) == NotedHead(1_301, hashes(database)[1_301])
    database["events"].update_one({"position": 7}, {"$set": {"metadata.userId": "somebody else"}})
    assert not looked_at(database).ok


def test_an_empty_log_is_in_order(database: Db) -> None:
    assert looked_at(database).ok
    assert looked_at(database, NotedHead(0, bytes(32))).ok


def test_verify_prints_the_head_takes_it_back_and_fails_on_another_log(
    environ: dict[str, str], settings: Settings, database: Db
) -> None:
    def verify(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["verify", *words], env=environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    insert_events(database, payment_history(42, 300))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
        noted = head_of(next(check for check in ledger.verify().checks if check.name == "log chain"))
    code, printed = verify()
    assert code == 0
    assert str(noted) in printed
    assert verify("--head", str(noted))[0] == 0
    insert_events(database, payment_history(43, 10, after=300))
    assert verify("--head", str(noted))[0] == 0  # the log has gone on
    code, printed = verify("--head", f"300:{'ab' * 32}")
    assert code == 1
    assert "the log up to position 300 is another than the one that was noted" in printed
    with pytest.raises(BadHeadError, match="POSITION:HASH"):
        verify("--head", "300")


def lose_the_counter(settings: Settings, database: Db) -> None:
    database["counters"].delete_one({"_id": "events"})
    open_database(settings).client.close()


def test_a_lost_counter_is_found_again_from_the_log_with_all_that_it_said(
    settings: Settings, database: Db
) -> None:
    opened = replace(append_of(1), stream_id="from-zero", expected=NO_STREAM, first_version=0)
    with EventStore(database) as store:
        store.append_many([opened, append_of(2)])
    before = database["counters"].find_one({"_id": "events"})
    lose_the_counter(settings, database)
    with EventStore(database) as store, EventStore(database) as other:
        store.append(append_of(3))
        again = replace(opened, command_id="again", first_version=1)
        for each in (store, other):
            with pytest.raises(ConcurrencyError) as conflict:
                each.append(again)
            assert conflict.value.actual == 0
    after = database["counters"].find_one({"_id": "events"})
    assert before is not None
    assert after is not None
    assert (after["zeroBased"], after["position"]) == (before["zeroBased"], before["position"] + 1)
    assert looked_at(database).ok


def test_a_log_whose_counter_is_lost_is_chained_on_from_its_last_link(
    settings: Settings, database: Db
) -> None:
    with EventStore(database) as store:
        for first in range(0, 1_200, BATCH):
            store.append_many([append_of(n) for n in range(first, first + BATCH)])
    database["events"].update_one({"position": 7}, {"$set": {"eventData.amountMinor": Int64(1)}})
    lose_the_counter(settings, database)
    with EventStore(database) as store:
        store.append(append_of(9_999))
    [difference] = looked_at(database).differences
    assert "positions 1 to 1,200 do not hold" in difference


def test_chaining_a_log_is_tried_again_when_the_server_can_not_be_reached(
    settings: Settings, database: Db
) -> None:
    insert_events(database, payment_history(3, 40))
    database["counters"].update_one({"_id": "events"}, {"$unset": {"chain": 1}})
    named = open_database(settings, app_name="chaining")
    point = {"failCommands": ["update"], "errorCode": 11600, "appName": "chaining"}
    # As of a server that shuts down. The driver itself tries twice: the third time is ours.
    named.client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 2}, "data": point})
    try:
        with EventStore(named) as store:
            assert store.append(append_of(1)).position == 41
    finally:
        named.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        named.client.close()
    assert looked_at(database).ok
