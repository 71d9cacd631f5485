"""verify: in order when everything agrees, and any figure that is changed anywhere is found and named."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bson import Decimal128, Int64
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.parquet import read_footer, write_table
from ledgerlake.lake.segments import Segment, write_segment
from ledgerlake.lake.tables import TABLES, refresh_tables
from ledgerlake.mongo.connection import open_database
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.reconciliation import Verification, read_side, verify
from ledgerlake.reconciliation.lake_side import LakeViews
from ledgerlake.reconciliation.log import Log, check_amounts
from ledgerlake.reconciliation.totals import TOTALS, PaymentTable, check_totals
from ledgerlake.reports import refresh_billing
from ledgerlake.settings import Settings
from tests.builders import counter_update, insert_events, payment_history
from tests.restoring import Kept, put_right

Db = Database[dict[str, Any]]
READ_MODEL = {"payment read models", "payment states", "payments one by one", "payment balances"}


class Ledger:
    """A log with everything that follows from it."""

    def __init__(self, db: Db, folder: Path) -> None:
        self.db = db
        self.lake = EventLake(folder / "lake", 400)
        self.reports = folder / "reports"

    def refresh(self) -> None:
        for projection in PROJECTIONS.values():
            advance(self.db, projection)
        self.lake.refresh(self.db)
        refresh_tables(self.lake)
        refresh_billing(self.lake, self.reports)

    def verify(self, up_to: int | None = None) -> Verification:
        return verify(self.db, EventLake(self.lake.root, 400), up_to, self.reports)


@pytest.fixture(scope="module")
def sound(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Kept]]:
    """A ledger in which everything agrees, and what it was."""
    folder = tmp_path_factory.mktemp("sound")
    settings = Settings(home=folder, mongodb_uri=mongo_uri, database=f"test_{uuid.uuid4().hex[:16]}")
    db = open_database(settings)
    try:
        insert_events(db, payment_history(1, 1_500, payments=250))
        made = Ledger(db, folder / "files")
        made.refresh()
        yield made, Kept(db, folder / "files", folder / "copies")
    finally:
        db.client.drop_database(settings.database)
        db.client.close()


@pytest.fixture
def ledger(sound: tuple[Ledger, Kept]) -> Iterator[Ledger]:
    """The sound ledger, to be tampered with: put right again after the test."""
    made, kept = sound
    with put_right(kept):
        yield made
    made.lake = EventLake(made.lake.root, 400)


def append_atomically(db: Db, documents: list[dict[str, Any]]) -> None:
    """As the event store does: events and counter become visible together."""

    def write(session: ClientSession) -> None:
        moved = counter_update(db, documents, session)
        db["counters"].update_one({"_id": "events"}, moved, session=session)
        db["events"].insert_many(documents, session=session)

    with db.client.start_session() as session:
        session.with_transaction(write)


def failing(found: Verification) -> dict[str, str]:
    assert found.ok == all(check.ok for check in found.checks)
    return {check.name: "\n".join(check.differences) for check in found.checks if not check.ok}


def test_everything_agrees_and_says_its_totals(ledger: Ledger) -> None:
    found = ledger.verify()
    assert found.ok, failing(found)
    assert found.head == 1_500
    names = [check.name for check in found.checks]
    assert len(names) == len(set(names)) >= 16
    statistics = next(check for check in found.checks if check.name == "payment statistics")
    assert statistics.expected == statistics.actual
    counted = sum(each["count"] for by_status in statistics.expected.values() for each in by_status.values())
    assert counted == 1_500
    assert all("1,500" in check.detail for check in found.checks if check.name.startswith("payment"))


def test_an_empty_ledger_is_in_order(database: Db, tmp_path: Path) -> None:
    found = verify(database, EventLake(tmp_path / "lake", 400), 0, tmp_path / "reports")
    assert found.ok, failing(found)


def test_a_log_from_which_nothing_was_made_is_not_in_order(database: Db, tmp_path: Path) -> None:
    insert_events(database, payment_history(2, 50))
    found = verify(database, EventLake(tmp_path / "lake", 400), reports=tmp_path / "reports")
    wrong = failing(found)
    assert {check.name for check in found.checks} - set(wrong) >= {
        "log positions",
        "log chain",
        "log amounts",
    }
    assert not any(name.startswith("log ") for name in wrong)
    assert all("not built: run `ledgerlake refresh`" in text for text in wrong.values())
    assert {(check.position, check.lag) for check in found.checks if not check.ok} == {(0, 50)}


def test_a_lost_lake_and_a_lost_read_model_are_found(ledger: Ledger) -> None:
    shutil.rmtree(ledger.lake.root)
    ledger.db["payment_statistics"].delete_many({})
    ledger.db["projections_metadata"].delete_one({"_id": "payment_statistics"})
    found = failing(ledger.verify())
    lost = {"payment statistics", "lake events", *(f"lake {each.name}" for each in TABLES.values())}
    assert all("not built" in found[name] for name in lost)


def test_a_lost_table_of_the_lake_is_found(ledger: Ledger) -> None:
    path, definition = next(iter(TABLES.items()))
    (ledger.lake.root / path).unlink()
    assert "not built" in failing(ledger.verify())[f"lake {definition.name}"]


def test_the_open_ledger_verifies_its_reports_too(ledger: Ledger) -> None:
    settings = Settings(home=ledger.reports.parent, database=ledger.db.name, segment_size=400)
    assert (settings.reports_dir, settings.lake_dir) == (ledger.reports, ledger.lake.root)
    opened = LedgerLake(settings, ledger.db)
    assert opened.verify().ok
    next(ledger.reports.rglob("summary.parquet")).unlink()
    assert list(failing(opened.verify())) == ["billing reports"]
    shutil.rmtree(ledger.reports)
    assert "not built" in failing(opened.verify())["billing reports"]


def test_the_title_says_how_far_what_agrees_is_behind(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ledgerlake.cli.queries import verify as command

    monkeypatch.setattr(LedgerLake, "open", lambda: nullcontext(ledger))
    insert_events(ledger.db, payment_history(3, 300, after=1_500))
    for name in ("payment_read_models", "payment_trends"):
        advance(ledger.db, PROJECTIONS[name])
    command()
    # Statistics, quarters, reasons, the lake, its five tables and the reports; each counts once however many
    # checks it has.
    title = capsys.readouterr().out.splitlines()[0]
    assert title == "Everything agrees, but 10 parts are behind the log (up to 300 events)"
    command(json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["head"] == 1_800
    lags = {check["name"]: (check["position"], check["lag"]) for check in found["checks"]}
    assert lags["payment statistics"] == lags["lake events"] == lags["billing reports"] == (1_500, 300)
    assert lags["payment trends"] == lags["log positions"] == (1_800, 0)


def test_positions_held_twice_are_found_though_count_ends_and_sum_stay(database: Db, tmp_path: Path) -> None:
    insert_events(database, payment_history(2, 50))
    database["events"].drop_index("events_position")
    for position, instead in ((3, 4), (6, 5)):
        database["events"].update_one({"position": position}, {"$set": {"position": Int64(instead)}})
    said = failing(verify(database, EventLake(tmp_path / "lake", 400)))["log positions"]
    assert said == "held twice: 4, 5\nmissing: 3, 6"


def test_decimals_that_differ_are_found_event_by_event_and_named(ledger: Ledger) -> None:
    query = {"eventType": "PaymentProcessed", "eventData.currency": "EUR", "metadata.organizationId": "org 1"}
    events = list(ledger.db["events"].find(query, sort=[("position", -1)], limit=2))
    for event, difference in zip(events, ("0.01", "-0.01"), strict=True):
        ledger.db["events"].update_one(
            {"_id": event["_id"]}, {"$inc": {"eventData.amount": Decimal128(difference)}}
        )
    found = failing(ledger.verify())
    assert list(found) == ["log chain", "log amounts"]
    low, high = sorted(event["position"] for event in events)
    assert f"of 2 events differ (positions {low}, {high})" in found["log amounts"]


def test_an_amount_that_is_no_decimal_is_found(ledger: Ledger) -> None:
    amounts = (12.5, None, Decimal128("NaN"), Decimal128("0"))
    query = {"eventType": "PaymentProcessed", "eventData.currency": "EUR", "metadata.organizationId": "org 1"}
    found = list(ledger.db["events"].find(query, sort=[("position", 1)], limit=4))
    for event, amount in zip(found, amounts, strict=True):
        ledger.db["events"].update_one({"_id": event["_id"]}, {"$set": {"eventData.amount": amount}})
    positions = ", ".join(str(event["position"]) for event in found)
    assert f"of 4 events differ (positions {positions})" in failing(ledger.verify())["log amounts"]


def test_each_layer_is_compared_as_of_its_own_checkpoint(ledger: Ledger) -> None:
    insert_events(ledger.db, payment_history(3, 300, after=1_500))
    advance(ledger.db, PROJECTIONS["payment_read_models"], batch=100, up_to=1_600)
    advance(ledger.db, PROJECTIONS["payment_trends"])
    ledger.lake.refresh(ledger.db, up_to=1_700)
    found = ledger.verify()
    assert found.ok, failing(found)
    details = {check.name: check.detail for check in found.checks}
    assert "1,600, 200 behind" in details["payment read models"]
    assert "1,500, 300 behind" in details["payment statistics"]
    assert details["payment trends"] == "as of position 1,800"
    assert "1,700, 100 behind" in details["lake events"]
    assert list(failing(ledger.verify(up_to=1_700))) == ["up to date"]


def test_appends_and_refreshes_meanwhile_do_not_disturb(ledger: Ledger) -> None:
    done = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        after = 1_500
        try:
            while not done.is_set():
                append_atomically(ledger.db, payment_history(after, 40, after=after))
                after += 40
                ledger.refresh()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(2):
            found = ledger.verify()
            assert found.ok, failing(found)
    finally:
        done.set()
        worker.join()
    assert errors == []
    assert ledger.verify().ok


def _one(db: Db, collection: str, query: dict[str, Any]) -> dict[str, Any]:
    found = db[collection].find_one(query, sort=[("_id", 1)])
    assert found is not None
    return found


def test_a_changed_event_is_found_in_every_layer_and_the_payment_is_named(ledger: Ledger) -> None:
    one = _one(ledger.db, "events", {"eventType": "PaymentProcessed", "eventData.currency": "BHD"})
    ledger.db["events"].update_one({"_id": one["_id"]}, {"$inc": {"eventData.amountMinor": Int64(1)}})
    found = failing(ledger.verify())
    assert set(found) == {
        "log chain", "log amounts",
        "payment read models", "payment statistics", "payment trends", "payment quarters", "lake events",
    }  # fmt: skip
    named = f"organization {one['metadata']['organizationId']!r}, BHD completed"
    chain = found.pop("log chain")
    assert "positions 1 to 1,000" in chain or "positions 1,001 to 1,500" in chain
    assert all(named in text for text in found.values())
    assert one["aggregateId"] in found["payment read models"]


def test_an_event_changed_with_its_decimal_is_found_too(ledger: Ledger) -> None:
    one = _one(ledger.db, "events", {"eventType": "PaymentFailed", "eventData.currency": "EUR"})
    change = {"eventData.amountMinor": Int64(1_000_000), "eventData.amount": Decimal128("10000.00")}
    ledger.db["events"].update_one({"_id": one["_id"]}, {"$set": change})
    found = failing(ledger.verify())
    assert set(found) >= {"payment statistics", "payment trends", "lake events"}


def test_a_log_that_was_tampered_with_is_found(ledger: Ledger) -> None:
    events = ledger.db["events"]
    for field, value in (
        ("eventData.amountMinor", 12.0),
        ("eventType", "Other"),
        ("eventData.currency", "XYZ"),
    ):
        kept = _one(ledger.db, "events", {"position": 700})
        events.update_one({"position": 700}, {"$set": {field: value}})
        with ledger.db.client.start_session(snapshot=True) as session:
            assert not check_amounts(Log(ledger.db, session)).ok
        if field != "eventData.currency":  # all three at once, and then everything is looked at
            events.replace_one({"position": 700}, kept)
    events.delete_one({"position": 400})
    events.update_one({"position": 500}, {"$set": {"position": Int64(5_000)}})
    ledger.db["counters"].update_one({"_id": "events"}, {"$inc": {"position": 1}})
    found = failing(ledger.verify())
    assert "XYZ" in found["log amounts"]
    assert "the counter says 1501 events, the log holds 1499" in found["log positions"]
    assert "positions run from 1 to 5000" in found["log positions"]
    assert "missing: 400, 500, 1501" in found["log positions"]


def _changed_read_models(ledger: Ledger, ones: list[dict[str, Any]], changes: list[Any]) -> str:
    """What is found once each of these payments was changed in its way."""
    for one, change in zip(ones, changes, strict=True):
        ledger.db["payment_read_models"].update_one({"_id": one["_id"]}, change)
    found = failing(ledger.verify())
    assert set(found) & {"payment read models", "payment states"}
    of_payments = {name for name, totals in TOTALS.items() if totals.part == "payment_read_models"}
    assert set(found) <= {*READ_MODEL, *of_payments}
    return "".join(found.values())


def test_changed_read_models_are_found_and_the_payments_named(ledger: Ledger) -> None:
    changes = [
        {"$inc": {"amountMinor": Int64(5)}},
        {"$inc": {"refundedMinor": Int64(5)}},
        {"$inc": {"failures": 1}},
        {"$inc": {"attempts": 1}},
        {"$set": {"status": "refunded"}},
        {"$set": {"status": "failed"}},
    ]
    in_order = [("organizationId", 1), ("currency", 1), ("_id", 1)]
    partially = ledger.db["payment_read_models"].find({"status": "partially_refunded"}, sort=in_order)
    ones = list(partially.limit(len(changes)))
    said = _changed_read_models(ledger, ones, changes)
    assert [one["_id"] for one in ones if one["_id"] not in said] == []


def test_changed_read_models_are_found_and_their_groups_named(ledger: Ledger) -> None:
    changes = [
        {"$inc": {"netMinor": Int64(5)}},
        {"$set": {"amount": Decimal128("1.23")}},
        {"$set": {"organizationId": "org 99"}},
        {"$set": {"currency": "CHF"}},
    ]
    ones = [
        _one(ledger.db, "payment_read_models", {"status": "partially_refunded", "currency": currency})
        for currency in ("BHD", "EUR", "GBP", "JPY")
    ]
    said = _changed_read_models(ledger, ones, changes)
    for one in ones:
        assert f"organization {one['organizationId']!r}, {one['currency']}" in said
    assert "organization 'org 99'" in said
    assert "CHF" in said


def test_payments_that_swap_their_amounts_within_a_state_change_no_sum_but_their_absence_does(
    ledger: Ledger,
) -> None:
    one = _one(ledger.db, "payment_read_models", {"status": "completed"})
    ledger.db["payment_read_models"].delete_one({"_id": one["_id"]})
    assert one["_id"] in failing(ledger.verify())["payment read models"]


def test_at_most_ten_payments_of_a_group_are_named(ledger: Ledger) -> None:
    ledger.db["payment_read_models"].update_many(
        {"organizationId": "org 1", "currency": "EUR"}, {"$inc": {"amountMinor": Int64(1)}}
    )
    said = failing(ledger.verify())["payment read models"]
    assert 1 <= said.count("payment '") <= 10


def _changed_in_turn(
    ledger: Ledger, collection: str, status: str, changes: list[Any]
) -> list[dict[str, Any]]:
    """Documents of that status, each changed in its way."""
    found = list(ledger.db[collection].find({"status": status}, sort=[("_id", 1)], limit=len(changes)))
    for one, change in zip(found, changes, strict=True):
        ledger.db[collection].update_one({"_id": one["_id"]}, change)
    return found


def test_changed_statistics_are_found_and_named(ledger: Ledger) -> None:
    changes = [
        {"$inc": {"count": Int64(1)}},
        {"$inc": {"totalMinor": Int64(1)}},
        {"$set": {"total": Decimal128("1.23")}},
        {"$set": {"average": Decimal128("1.23")}},
        {"$inc": {"minMinor": Int64(-1)}},
        {"$inc": {"maxMinor": Int64(1)}},
        {"$set": {"max": Decimal128("1.23")}},
        {"$set": {"firstAt": datetime(2001, 1, 1, tzinfo=UTC)}},
        {"$set": {"lastAt": datetime(2051, 1, 1, tzinfo=UTC)}},
    ]
    ones = _changed_in_turn(ledger, "payment_statistics", "completed", changes)
    found = failing(ledger.verify())
    assert list(found) == ["payment statistics"]
    for one in ones:
        named = f"organization {one['organizationId']!r}, {one['currency']} completed"
        assert named in found["payment statistics"]


def test_changed_trends_are_found_and_their_days_named(ledger: Ledger) -> None:
    changes = [
        {"$inc": {name: Int64(by)}} for name, by in (("count", 1), ("totalMinor", 1), ("minMinor", -1))
    ]
    ones = _changed_in_turn(ledger, "payment_trends", "refunded", changes)
    found = failing(ledger.verify())
    assert set(found) <= {"payment trends", "payment trends by day"}
    for one in ones:
        named = f"{one['organizationId']} {one['day'].date()} {one['currency']} refunded"
        assert named in found["payment trends by day"]


def totals_differ(ledger: Ledger, name: str, views: LakeViews) -> str:
    """What one check of totals finds."""
    held = ledger.lake.position()
    with (
        ledger.db.client.start_session(snapshot=True) as session,
        PaymentTable(log := Log(ledger.db, session)) as paid,
    ):
        position = read_side.positions(log)[TOTALS[name].part]
        return "\n".join(check_totals(name, log, paid, views, position, held).differences)


@pytest.mark.parametrize("lake", ["as far", "behind"])
def test_changed_lost_and_added_totals_are_found(ledger: Ledger, lake: str) -> None:
    """Against the lake; and where it is not as far yet, against the payments or the sums of the log."""
    if lake == "behind":
        insert_events(ledger.db, payment_history(3, 30, after=1_500))
        for projection in PROJECTIONS.values():
            advance(ledger.db, projection)
    with LakeViews(ledger.lake) as views:
        for name, totals in TOTALS.items():
            assert totals_differ(ledger, name, views) == ""
            kept = ledger.db[totals.name]
            one, other = kept.find({"currency": "BHD"}, sort=[("_id", 1)]).limit(2)
            for field in totals.sums:
                kept.update_one({"_id": one["_id"]}, {"$inc": {field: Int64(1)}})
                assert one["organizationId"] in totals_differ(ledger, name, views)
            kept.replace_one({"_id": one["_id"]}, {**other, "_id": one["_id"], "currency": "CHF"})
            assert "CHF" in totals_differ(ledger, name, views)
            kept.replace_one({"_id": one["_id"]}, one)
    kept.delete_one({"_id": one["_id"]})
    assert list(failing(ledger.verify())) == [name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"$set": {"firstRefundAt": datetime(2031, 1, 1, tzinfo=UTC)}}, {"refund latency"}),
        ({"$set": {"completedAt": datetime(2021, 1, 1, tzinfo=UTC)}}, {"refund latency"}),
        ({"$inc": {"failuresBefore": 1}}, {"retry recovery"}),
        ({"$set": {"firstFailedAt": datetime(2021, 1, 1, tzinfo=UTC)}}, {"retry recovery"}),
    ],
)
def test_a_payment_that_is_not_what_it_counted_for_is_found(
    ledger: Ledger, change: dict[str, Any], said: set[str]
) -> None:
    wanted = {"status": "partially_refunded", "failuresBefore": {"$gt": 0}}
    one = _one(ledger.db, "payment_read_models", wanted)
    ledger.db["payment_read_models"].update_one({"_id": one["_id"]}, change)
    with LakeViews(ledger.lake) as views:
        assert {name for name in TOTALS if totals_differ(ledger, name, views)} == said


def test_an_amount_that_moves_to_another_day_is_found_though_the_sums_stay(ledger: Ledger) -> None:
    one = _one(ledger.db, "payment_trends", {"status": "completed"})
    moved = {**one, "_id": "moved", "day": one["day"] - timedelta(days=1_000)}
    ledger.db["payment_trends"].delete_one({"_id": one["_id"]})
    ledger.db["payment_trends"].insert_one(moved)
    assert list(failing(ledger.verify())) == ["payment trends by day"]


def test_a_flipped_byte_in_a_segment_is_found_and_the_file_named(ledger: Ledger) -> None:
    path = ledger.lake.segments()[1].path
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    assert path.name in failing(ledger.verify())["lake segments"]


def test_a_segment_with_other_rows_but_valid_checksums_is_found(ledger: Ledger) -> None:
    segment = Segment.number(1, 400)
    path = ledger.lake.events_dir / segment.name
    frame = pl.read_parquet(path).with_columns(
        pl.when(pl.col("position") == 500)
        .then(pl.col("amount_minor") + 1)
        .otherwise(pl.col("amount_minor"))
        .alias("amount_minor")
    )
    table = frame.to_arrow().cast(ledger.lake.pin(0).duckdb().sql("FROM events").to_arrow_table().schema)
    path.unlink()
    from ledgerlake.eventstore.columnar import SCHEMA

    write_segment(ledger.lake.events_dir, segment, [table.cast(SCHEMA)])
    found = failing(ledger.verify())
    assert "lake segments" not in found
    assert "lake events" in found
    assert set(found) >= {"lake payment_statistics", "payment trends by day"}


def test_a_lost_segment_is_found(ledger: Ledger) -> None:
    ledger.lake.segments()[0].path.unlink()
    found = failing(ledger.verify())
    assert "behind a missing" in found["lake segments"]


def test_a_stray_parquet_file_among_the_segments_is_found(ledger: Ledger) -> None:
    (ledger.lake.events_dir / "copy.parquet").write_bytes(ledger.lake.segments()[0].path.read_bytes())
    assert "copy.parquet" in failing(ledger.verify())["lake segments"]


def test_changed_tables_of_the_lake_are_found_and_the_rows_named(ledger: Ledger) -> None:
    import pyarrow as pa

    changed = {}
    for path, table in TABLES.items():
        file = ledger.lake.root / path
        rows = pl.read_parquet(file).to_dicts()
        rows[2]["count"] += 1
        stated = {key: value for key, value in read_footer(file).stated.items() if key != "row_hash"}
        write_table(file, pa.Table.from_pylist(rows, table.schema), stated)
        changed[f"lake {table.name}"] = rows[2]["organization_id"]
    found = failing(ledger.verify())
    assert found.keys() == changed.keys()
    assert [name for name, organization in changed.items() if organization not in found[name]] == []


def test_a_changed_report_is_found(ledger: Ledger) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ledgerlake.reports.billing_definition import SUMMARY_FILE
    from ledgerlake.reports.manifest import read_manifest, write_manifest

    file = next(ledger.reports.rglob("summary.parquet"))
    rows = pl.read_parquet(file).to_dicts()
    rows[0]["gross_minor"] += 1
    stated = {key: value for key, value in read_footer(file).stated.items() if key != "row_hash"}
    write_table(file, pa.Table.from_pylist(rows, SUMMARY_FILE), stated)
    assert "the manifest says" in failing(ledger.verify())["billing reports"]
    # With a manifest to go with it the totals that the Parquet files state are others; then the lake's are.
    manifest = read_manifest(file.parent)
    write_manifest(file.parent, manifest.facts, list(manifest.files))
    assert "summary.parquet says otherwise than the manifest" in failing(ledger.verify())["billing reports"]
    lines = file.with_name("itemised.parquet")
    totals = json.dumps(read_manifest(file.parent).content["totals"], sort_keys=True, separators=(",", ":"))
    for path in (file, lines):
        table = pq.ParquetFile(path).read()
        says = {key: value for key, value in read_footer(path).stated.items() if not key.endswith("_hash")}
        write_table(path, table.replace_schema_metadata(None), {**says, "totals": totals})
    write_manifest(file.parent, manifest.facts, list(manifest.files))
    assert f"{file.parent}, organization" in failing(ledger.verify())["billing reports"]


def test_a_damaged_or_lost_report_is_found(ledger: Ledger) -> None:
    one, other = list(ledger.reports.rglob("itemised.parquet"))[:2]
    content = bytearray(one.read_bytes())
    content[len(content) // 3] ^= 4
    one.write_bytes(content)
    other.unlink()
    said = failing(ledger.verify())["billing reports"]
    assert str(one) in said
    assert str(other) in said


def test_a_damaged_report_hides_no_other_finding(ledger: Ledger) -> None:
    kept = {path: path.read_bytes() for path in ledger.reports.rglob("*/draft/*/*")}
    insert_events(ledger.db, payment_history(5, 600, after=1_500))
    ledger.refresh()
    # Reports that missed events: each agrees with itself, none of them with the lake.
    stale = sorted({path.parent for path, content in kept.items() if path.read_bytes() != content})
    damaged, month = stale[0], stale[0].parent.parent.name
    for path, content in kept.items():
        path.write_bytes(content)
    (damaged / "summary.parquet").unlink()
    said = failing(ledger.verify())["billing reports"].splitlines()
    assert sum(str(damaged) in line for line in said) == 1
    told = [Path(line.partition(", organization")[0]) for line in said if ", organization" in line]
    months = {folder.parent.parent.name for folder in told}
    assert month in months
    assert max(months) > month


def test_a_report_that_missed_a_late_event_is_found(ledger: Ledger, tmp_path: Path) -> None:
    insert_events(ledger.db, payment_history(5, 20, after=1_500))
    kept = {path: path.read_bytes() for path in ledger.reports.rglob("2026-02/draft/*/*")}
    ledger.refresh()
    for path, content in kept.items():
        path.write_bytes(content)
    assert "2026-02" in failing(ledger.verify())["billing reports"]


def test_a_lake_of_another_log_is_found(ledger: Ledger) -> None:
    ledger.db["events"].delete_many({})
    insert_events(ledger.db, payment_history(1, 1_500, payments=250))
    found = failing(ledger.verify())
    assert "of another log" in found["lake events"]
