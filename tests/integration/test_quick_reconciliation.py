"""Control sums find what is changed anywhere, at any position of any layer; a full verification names it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from bson import Int64
from pymongo.errors import OperationFailure

from ledgerlake.application import LedgerLake
from ledgerlake.domain.events import EVENT_STATUS
from ledgerlake.lake.parquet import read_footer, write_table
from ledgerlake.lake.tables import TABLES, refresh_tables
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.reconciliation import (
    Verification,
    last_verification,
    last_verifications,
    reconcile,
    record,
    verify,
)
from ledgerlake.reconciliation import quick as quick_module
from ledgerlake.reconciliation.balances import check_balances, check_lake_balances
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.quick import verify_quickly
from ledgerlake.reconciliation.schemas import check_documents, check_files
from ledgerlake.reconciliation.sums import ControlSums
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history
from tests.restoring import Kept, put_right

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def sound(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Kept]]:
    folder = tmp_path_factory.mktemp("sound")
    settings = Settings(
        home=folder / "home",
        mongodb_uri=mongo_uri,
        database=f"test_{uuid.uuid4().hex[:16]}",
        segment_size=400,
    )
    with LedgerLake.open(settings) as ledger:
        insert_events(ledger.db, payment_history(1, 1_000, payments=180))
        ledger.refresh()
        yield settings, Kept(ledger.db, settings.home, folder / "copies")
        ledger.db.client.drop_database(settings.database)


@pytest.fixture
def ledger(sound: tuple[Settings, Kept]) -> Iterator[LedgerLake]:
    """A ledger in which everything agrees, to be tampered with."""
    settings, kept = sound
    with put_right(kept), LedgerLake.open(settings) as ledger:
        yield ledger


def quick(ledger: LedgerLake, known: int = 1_000) -> Verification:
    return verify_quickly(ledger.db, LedgerLake(ledger.settings, ledger.db).lake, known)


def failing(found: Verification) -> list[str]:
    assert found.ok == all(check.ok for check in found.checks)
    return [check.name for check in found.checks if not check.ok]


def test_all_layers_are_compared_as_of_their_own_positions(ledger: LedgerLake) -> None:
    found = quick(ledger)
    assert failing(found) == []
    compared = {check.part for check in found.checks if check.expected}
    assert compared == {*PROJECTIONS, "event_lake", "lake_statistics", "lake_trends"}
    insert_events(ledger.db, payment_history(2, 500, after=1_000))
    for number, name in enumerate(PROJECTIONS):
        advance(ledger.db, PROJECTIONS[name], up_to=1_000 + 60 * number)
    for lake, tables in ((1_100, True), (1_250, False), (1_500, True)):
        ledger.lake.refresh(ledger.db, up_to=lake)
        if tables:
            refresh_tables(ledger.lake)
        found = quick(ledger)
        assert failing(found) == []
        at = {check.name: check.position for check in found.checks}
        assert at["event_lake (sums)"] == lake
        assert at["payment_trends (sums)"] == 1_000 + 60 * list(PROJECTIONS).index("payment_trends")
    counted = next(check for check in found.checks if check.name == "event_lake (sums)").actual
    assert sum(each["count"] for outcomes in counted.values() for each in outcomes.values()) == 1_500


@contextmanager
def looking_at(ledger: LedgerLake) -> Iterator[tuple[Log, LakeViews]]:
    with ledger.db.client.start_session(snapshot=True) as session, LakeViews(ledger.lake) as views:
        yield Log(ledger.db, session), views


def bump(collection: str, **field: int) -> Callable[[LedgerLake], None]:
    def change(ledger: LedgerLake) -> None:
        victim = ledger.db[collection].find_one(sort=[("_id", 1)])
        changed = {"$inc": {name: Int64(by) for name, by in field.items()}}
        ledger.db[collection].update_one({"_id": victim["_id"]}, changed)

    return change


def lose(collection: str) -> Callable[[LedgerLake], None]:
    def change(ledger: LedgerLake) -> None:
        ledger.db[collection].delete_one({})

    return change


def rewritten(path: str) -> Callable[[LedgerLake], None]:
    """A table of the lake with another figure, and everything that it states about itself in order."""

    def change(ledger: LedgerLake) -> None:
        file = ledger.lake.root / path
        stated, schema = read_footer(file).stated, TABLES[path].schema
        column = "total_minor" if "total_minor" in schema.names else "refunded_minor"
        table = pl.from_arrow(pq.read_table(file))
        assert isinstance(table, pl.DataFrame)
        first = pl.int_range(pl.len()) == pl.len() - 1
        changed = table.with_columns(pl.when(first).then(pl.col(column) - 1).otherwise(pl.col(column)))
        write_table(file, changed.to_arrow().cast(schema), stated)

    return change


def lost_file(path: str) -> Callable[[LedgerLake], None]:
    def change(ledger: LedgerLake) -> None:
        (ledger.lake.root / path).unlink()

    return change


def lost_event(ledger: LedgerLake) -> None:
    ledger.db["events"].delete_one({"position": 950})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (bump("payment_statistics", totalMinor=1), ["payment_statistics (sums)"]),
        (bump("payment_trends", count=-1), ["payment_trends (sums)"]),
        (lose("payment_quarters"), ["payment_quarters (sums)"]),
        (bump("failure_reasons", totalMinor=5), ["failure_reasons (sums)"]),
        (bump("payment_states", refundedMinor=-3), ["payment_read_models (sums)"]),
        (rewritten("trends/payment_trends_week.parquet"), ["lake payment_trends_week (sums)"]),
        (rewritten("statistics/payment_states.parquet"), ["lake payment_states (sums)"]),
        (lost_file("trends/payment_trends_day.parquet"), ["lake payment_trends_day (sums)"]),
        # What all are compared with is made up by the log where it is missing; a wrong one differs from all.
        (lost_file("statistics/payment_statistics.parquet"), ["lake payment_statistics (sums)"]),
        (lost_event, ["log positions"]),
    ],
)
def test_what_is_changed_is_found(
    ledger: LedgerLake, change: Callable[[LedgerLake], None], names: list[str]
) -> None:
    change(ledger)
    assert failing(quick(ledger, 900)) == names


def test_a_wrong_table_to_compare_with_differs_from_everything(ledger: LedgerLake) -> None:
    rewritten("statistics/payment_statistics.parquet")(ledger)
    assert {"event_lake (sums)", "payment_trends (sums)"} < set(failing(quick(ledger)))


def test_negative_control_sums_alone_do_not_see_what_cancels_out(ledger: LedgerLake) -> None:
    """Which is why a full verification follows once a day."""
    some = {"status": "completed", "currency": "EUR", "organizationId": "org 1"}
    one, other = ledger.db["payment_trends"].find(some, sort=[("_id", 1)]).limit(2)
    for victim, by in ((one, 1), (other, -1)):
        ledger.db["payment_trends"].update_one({"_id": victim["_id"]}, {"$inc": {"count": Int64(by)}})
    assert failing(quick(ledger)) == []
    assert failing(verify(ledger.db, ledger.lake)) == ["payment trends by day"]


def test_payments_whose_differences_cancel_out_are_named_by_a_full_verification(ledger: LedgerLake) -> None:
    payments = ledger.db["payment_read_models"]
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    some = {"failuresBefore": 0, "netMinor": {"$gt": 1}}
    for each in payments.find(some, sort=[("_id", 1)]):
        alike.setdefault((each["organizationId"], each["currency"], each["status"]), []).append(each)
    one, other = next(group for group in alike.values() if len(group) > 1)[:2]
    for victim, by in ((one, 1), (other, -1)):
        payments.update_one(
            {"_id": victim["_id"]}, {"$inc": {"amountMinor": Int64(by), "netMinor": Int64(by)}}
        )
    found = verify(ledger.db, ledger.lake)
    assert failing(found) == ["payments one by one"]
    [check] = [each for each in found.checks if not each.ok]
    named = "\n".join(check.differences)
    assert len(check.differences) == 3
    assert repr(one["_id"]) in named
    assert repr(other["_id"]) in named


def test_when_the_quick_one_is_enough(ledger: LedgerLake, monkeypatch: pytest.MonkeyPatch) -> None:
    db, lake = ledger.db, ledger.lake
    first = reconcile(db, lake, DAY)
    assert first.full
    assert first.verification.ok
    assert first.last == last_verification(db)
    assert (first.last.position, first.last.failed) == (1_000, ())
    again = reconcile(db, lake, DAY)
    assert not again.full
    assert again.last == first.last

    fully: list[int] = []
    monkeypatch.setattr(quick_module, "verify_fully", lambda db, lake: fully.append(1) or first)
    now = datetime.now(UTC)
    reconcile(db, lake, DAY, now + DAY)
    reconcile(db, lake, DAY, now - DAY)  # a clock that was set back
    reconcile(db, lake, timedelta(0))
    assert len(fully) == 3
    record(db, "everything", 1_000, [replace(first.verification.checks[0], ok=False)], 1.0)
    reconcile(db, lake, DAY)  # what failed is looked at whole until it is mended
    assert len(fully) == 4


READ_MODELS = ("payment_statistics", "payment_trends", "payment_quarters", "failure_reasons")


def added_up_anew(ledger: LedgerLake) -> set[str]:
    """The layers whose sums a quick verification adds up, though all are kept that can be."""
    found = quick(ledger)
    assert failing(found) == []
    return {
        check.part or ""
        for check in found.checks
        if check.name.endswith("(sums)") and "kept since" not in check.detail
    } - {"payment_read_models", "event_lake"}  # of few totals, and of footers


def time_passes(ledger: LedgerLake) -> None:
    """As if what was noted had been noted longer ago than a transaction can last."""
    ledger.db["control_sums"].update_many({}, {"$set": {"seen": datetime(2000, 1, 1, tzinfo=UTC)}})


def keep_sums(ledger: LedgerLake, known: int = 1_000) -> None:
    for _ in range(2):
        assert failing(quick(ledger, known)) == []
        time_passes(ledger)
    assert ledger.db["control_sums"].count_documents({"sums": {"$exists": False}}) == 0


def test_what_nobody_has_written_to_is_not_added_up_again(ledger: LedgerLake) -> None:
    tables = {"lake_statistics", "lake_trends"}
    everything = {*READ_MODELS, *tables}
    kept = ledger.db["control_sums"]
    for _ in range(2):  # too soon after one another
        assert added_up_anew(ledger) == everything
        assert kept.count_documents({"sums": {"$exists": True}}) == 0
    time_passes(ledger)
    assert added_up_anew(ledger) == everything
    assert added_up_anew(ledger) == set()
    # Indeed not: a sum that was kept wrong is believed, until a full verification.
    kept.update_one({"_id": "payment_quarters"}, {"$inc": {"sums.0.4": 1}})
    assert failing(quick(ledger)) == ["payment_quarters (sums)"]
    ledger.verify()
    assert added_up_anew(ledger) == everything
    assert added_up_anew(ledger) == set()
    # A write by hand, though it changes nothing, and new events.
    ledger.db["payment_quarters"].update_one({}, {"$inc": {"count": Int64(0)}})
    assert added_up_anew(ledger) == {"payment_quarters"}
    assert "sums" not in kept.find_one({"_id": "payment_quarters"}), "what may never be read is not written"
    time_passes(ledger)
    assert added_up_anew(ledger) == {"payment_quarters"}
    insert_events(ledger.db, payment_history(2, 100, after=1_000))
    advance(ledger.db, PROJECTIONS["payment_trends"])
    ledger.lake.refresh(ledger.db)
    assert added_up_anew(ledger) == {"payment_trends"}
    refresh_tables(ledger.lake)
    assert added_up_anew(ledger) == {"payment_trends", *tables}


def test_sums_from_before_a_verification_do_not_count_though_nobody_may_remove_them(
    ledger: LedgerLake,
) -> None:
    keep_sums(ledger)
    assert added_up_anew(ledger) == set()
    record(ledger.db, "reports", 1_000, [], 1.0)
    assert added_up_anew(ledger) == set()
    record(ledger.db, "everything", 1_000, [], 1.0)
    assert set(READ_MODELS) < added_up_anew(ledger)
    assert added_up_anew(ledger) == set()


@pytest.mark.parametrize("beyond", [8_000, 1_000_000])  # told by the server, and by the driver
def test_sums_that_are_too_large_to_be_kept_are_added_up_each_time(ledger: LedgerLake, beyond: int) -> None:
    def sums() -> dict[Any, Any]:
        found, since = ControlSums(ledger.db, "failure_reasons").of_read_model("failure_reasons")
        time_passes(ledger)
        assert since is None
        return found

    few = len(sums())
    size = 2**24 + beyond - 100 * few
    more = {"currency": "EUR", "status": "x", "count": Int64(1), "totalMinor": Int64(1)}
    names = [letter * (size // 2) for letter in "ab"]
    ledger.db["failure_reasons"].insert_many([{**more, "organizationId": name} for name in names])
    for _ in range(3):
        assert len(sums()) == few + 2
    [noted] = ledger.db["control_sums"].find()
    assert sorted(noted) == ["_id", "madeOf", "seen"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        *((bump(name, totalMinor=1), [f"{name} (sums)"]) for name in READ_MODELS),
        (lose("payment_quarters"), ["payment_quarters (sums)"]),
        (rewritten("trends/payment_trends_day.parquet"), ["lake payment_trends_day (sums)"]),
        (lost_event, ["log positions"]),
    ],
)
def test_what_is_changed_beside_kept_sums_is_found_at_once(
    ledger: LedgerLake, change: Callable[[LedgerLake], None], names: list[str]
) -> None:
    keep_sums(ledger, 900)
    change(ledger)
    assert failing(quick(ledger, 900)) == names


def test_negative_control_what_is_written_past_the_servers_count_only_a_full_one_finds(
    ledger: LedgerLake,
) -> None:
    keep_sums(ledger)
    last = {"$sort": {"_id": -1}}, {"$limit": 1}, {"$set": {"count": {"$add": ["$count", 1]}}}
    ledger.db["payment_quarters"].aggregate([*last, {"$merge": {"into": "payment_quarters"}}])
    assert failing(quick(ledger)) == []
    assert failing(verify(ledger.db, ledger.lake)) == ["payment quarters"]


@contextmanager
def open_transaction(ledger: LedgerLake) -> Iterator[None]:
    """Somebody changes a quarter by hand, in a transaction that is open meanwhile."""
    with ledger.db.client.start_session() as session, session.start_transaction():
        more = {"$inc": {"count": Int64(1)}}
        ledger.db["payment_quarters"].update_one({}, more, session=session)
        yield


def test_what_is_counted_before_it_can_be_seen_is_found(ledger: LedgerLake) -> None:
    with open_transaction(ledger):
        for _ in range(2):
            assert failing(quick(ledger)) == []
    time_passes(ledger)
    for _ in range(2):
        assert failing(quick(ledger)) == ["payment_quarters (sums)"]


def test_negative_control_in_a_transaction_that_lasts_longer_only_a_full_one_finds_it(
    ledger: LedgerLake,
) -> None:
    """One for which somebody has raised the server's limit."""
    with open_transaction(ledger):
        keep_sums(ledger)
    assert failing(quick(ledger)) == []
    assert failing(verify(ledger.db, ledger.lake)) == ["payment quarters"]


def test_a_dead_letter_that_is_put_back_is_told_by_its_checkpoint(ledger: LedgerLake) -> None:
    """Without the position moving, and however long it takes."""
    with ledger.db.client.start_session() as session, session.start_transaction():
        where = {"_id": "payment_quarters"}
        checkpoints, quarters = ledger.db["projections_metadata"], ledger.db["payment_quarters"]
        checkpoints.update_one(where, {"$inc": {"setAside": 1}}, session=session)
        quarters.update_one({}, {"$inc": {"count": Int64(0)}}, session=session)
        keep_sums(ledger)
        assert added_up_anew(ledger) == set()
    assert added_up_anew(ledger) == {"payment_quarters"}


def test_a_transaction_that_is_counted_before_it_is_seen_is_told_by_its_checkpoint(
    ledger: LedgerLake,
) -> None:
    insert_events(ledger.db, payment_history(2, 1, after=1_000))
    new = ledger.db["events"].find_one({"position": 1_001})
    key = {
        "organizationId": new["metadata"]["organizationId"],
        "currency": new["eventData"]["currency"],
        "status": EVENT_STATUS[new["eventType"]],
    }
    more = {"count": Int64(1), "totalMinor": new["eventData"]["amountMinor"]}
    moved = {"position": Int64(1_001)}
    with ledger.db.client.start_session() as session, session.start_transaction():
        ledger.db["payment_statistics"].update_one(key, {"$inc": more}, session=session)
        ledger.db["projections_metadata"].update_one(
            {"_id": "payment_statistics"}, {"$set": moved}, session=session
        )
        keep_sums(ledger)
        assert added_up_anew(ledger) == set()
    assert added_up_anew(ledger) == {"payment_statistics"}


def test_a_sum_that_differs_brings_a_full_verification(ledger: LedgerLake) -> None:
    record(ledger.db, "everything", 1_000, [], 1.0)
    bump("payment_statistics", totalMinor=1)(ledger)
    found = reconcile(ledger.db, ledger.lake, DAY)
    assert found.full
    assert failing(found.verification) == ["payment statistics"]
    assert found.last == last_verification(ledger.db)
    assert found.last.failed == ("payment statistics",)


def test_verify_writes_down_what_it_found_but_not_what_was_asked_in_passing(ledger: LedgerLake) -> None:
    from ledgerlake.reconciliation import NotedHead

    ledger.verify(NotedHead(10, b"x" * 32))
    assert last_verifications(ledger.db) == []
    ledger.verify()
    everything, reports = last_verifications(ledger.db)
    assert (everything.compared, everything.position, everything.ok) == ("everything", 1_000, True)
    assert (reports.compared, reports.position, reports.books, reports.ok) == ("reports", 1_000, 0, True)
    assert ledger.check_reports()[0] is None
    next(ledger.settings.reports_dir.rglob("summary.parquet")).unlink()
    assert ledger.check_reports()[0] is None, "the nightly verification finds it"
    ledger.verify()
    found, last = ledger.check_reports()
    assert found is not None
    assert last.failed == ("billing reports",)


def test_who_may_only_read_leaves_no_trace(ledger: LedgerLake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr("pymongo.collection.Collection.replace_one", refused)
    assert record(ledger.db, "everything", 1_000, [], 1.0).ok
    assert last_verifications(ledger.db) == []


def test_payments_with_a_negative_balance_are_named(ledger: LedgerLake) -> None:
    payments = ledger.db["payment_read_models"]
    some = {"status": "partially_refunded", "currency": "EUR"}
    victim = payments.find_one(some, sort=[("_id", 1)])
    with looking_at(ledger) as (log, views):
        assert check_balances(log, 1_000).ok
        assert check_lake_balances(log, views, 1_000).ok
    over = Int64(victim["amountMinor"] + 1)
    payments.update_one({"_id": victim["_id"]}, {"$set": {"refundedMinor": over}})
    # Not by our rules: all of it is refunded once more.
    last = ledger.db["events"].find_one({"aggregateId": victim["_id"]}, sort=[("version", -1)])
    more = event(1_001, victim["_id"], "PaymentRefunded", over - 1, version=last["version"] + 1)
    insert_events(ledger.db, [more])
    ledger.lake.refresh(ledger.db)
    with looking_at(ledger) as (log, views):
        for found in (check_balances(log, 1_001), check_lake_balances(log, views, 1_001)):
            assert [repr(victim["_id"]) in each for each in found.differences] == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"$unset": {"lastAt": 1}}, "lastAt is missing"),
        ({"$set": {"note": "x"}}, "note is not in the schema"),
        ({"$set": {"count": 1.5}}, "count is a float, not long"),
    ],
)
def test_documents_with_other_fields_are_named(ledger: LedgerLake, change: dict[str, Any], said: str) -> None:
    victim = ledger.db["payment_statistics"].find_one(sort=[("$natural", -1)])
    ledger.db["payment_statistics"].update_one({"_id": victim["_id"]}, change)
    for fast in (False, True):
        with looking_at(ledger) as (log, _):
            found = check_documents(log, "payment_statistics", quick=fast)
        assert found.differences == (f"payment_statistics, document {victim['_id']!r}: {said}",)


def test_a_document_without_a_field_that_is_compared_does_not_end_the_verification(
    ledger: LedgerLake,
) -> None:
    ledger.db["payment_statistics"].update_many({}, {"$unset": {"count": 1}})
    found = failing(verify(ledger.db, ledger.lake))
    assert found == ["payment statistics", "fields of payment_statistics"]


def test_what_has_another_shape_fails_its_own_comparison(ledger: LedgerLake) -> None:
    """A quick comparison that ended with a traceback would name nothing, and bring no full one."""
    ledger.db["payment_states"].update_many({}, {"$set": {"amountMinor": "12"}})
    assert "payment_read_models (sums)" in failing(verify_quickly(ledger.db, ledger.lake, 0))


def test_a_damaged_table_to_compare_with_fails(ledger: LedgerLake) -> None:
    file = ledger.lake.root / "statistics/payment_statistics.parquet"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert "lake payment_statistics" in failing(verify_quickly(ledger.db, ledger.lake, 0))


def test_files_with_other_columns_are_named(ledger: LedgerLake) -> None:
    path = "trends/payment_trends_day.parquet"
    file = ledger.lake.root / path
    table = pq.read_table(file)
    stated = read_footer(file).stated
    assert check_files(ledger.lake).ok
    assert check_files(ledger.lake, "trends").ok
    write_table(file, table.drop_columns(["min_minor"]).append_column("note", table["status"]), stated)
    assert check_files(ledger.lake, "trends").differences == (
        f"{file}: min_minor is missing; note is not declared",
    )
