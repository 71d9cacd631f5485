"""Closing months: what was reported stays, what comes later is a correction, and the sum is the ledger."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bson import Int64
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.domain.commands import ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.lake.retention import archive_streams
from ledgerlake.reconciliation.booked import booked
from ledgerlake.reconciliation.log import Log
from ledgerlake.reports import ReportError, refresh_billing
from ledgerlake.reports.bookings import summaries
from ledgerlake.reports.books import BEGINNING, Books, Entry, PeriodTakenError, append_entry, as_it_was
from ledgerlake.reports.close import Periods, Revision
from ledgerlake.reports.errors import PublicationBlocked
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.manifest import read_manifest
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.writer import write_reports
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "billing.md"


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def ledger(settings: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(replace(settings, segment_size=50)) as opened:
        yield opened


def put(db: Db, *movements: tuple[str, str, int, str], **change: Any) -> int:
    """Append (payment, kind, minor, day) as events; the position of the last."""
    found = db["counters"].find_one({"_id": "events"}) or {}
    head = int(found["position"])
    documents: list[dict[str, Any]] = []
    for number, (payment, kind, minor, when) in enumerate(movements, head + 1):
        own = sum(each["aggregateId"] == payment for each in documents)
        version = db["events"].count_documents({"aggregateId": payment}) + own + 1
        fields = {"at": day(when), "version": version, **change}
        documents.append(
            {**event(number, payment, f"Payment{kind}", minor, **fields), "recordedAt": day(when)}
        )
    insert_events(db, documents)
    return head + len(movements)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class LetsPass:
    """A gate for tests of what is behind it."""

    def everything(self, position: int, coming: Sequence[ReportSpec] = ()) -> None:
        pass

    def __call__(
        self, specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        pass


def periods(ledger: LedgerLake, gate: Any = None) -> Periods:
    settings = ledger.settings
    return Periods(ledger.db, ledger.lake, settings.reports_dir, settings.books_zone, gate or LetsPass())


def close(ledger: LedgerLake, period: str, *, by: str = "ann", through: bool = False) -> list[Revision]:
    """Close without a look at every layer, which costs most."""
    ledger.lake.refresh(ledger.db)
    return periods(ledger).close(period, ledger.lake.position(), by=by, through=through)


def refresh(ledger: LedgerLake) -> None:
    """The lake and the reports, without the read models."""
    ledger.lake.refresh(ledger.db)
    refresh_billing(ledger.lake, ledger.settings.reports_dir, ledger.periods.books())


def lines(folder: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(folder / "itemised.parquet").to_dicts()


def as_of(ledger: LedgerLake, text: str, interval: Interval, out: Path) -> Path:
    """The reports of an interval as of a position or an instant, in a folder of their own."""
    with ledger.lake.pin().duckdb() as connection:
        position, books = as_it_was(text, connection, ledger.periods.books())
    pinned = ledger.lake.pin(position)
    with pinned.duckdb() as connection:
        write_reports(pinned, connection, ReportSpec(interval, books=books), out, gate=ledger.gate)
    return out


def entry(number: int, action: Any, period: str, position: int, revision: int = 1) -> Entry:
    month = Interval.parse(period)
    at = day("2012-01-01") + timedelta(days=number)
    return Entry(number, action, period, "UTC", month.start, month.end, revision, position, at, "ann")


def test_the_page_for_finance_is_true(ledger: LedgerLake) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names = {
        "ledger": ledger,
        "send": ledger.commands.dispatch,
        "Money": Money,
        "ProcessPayment": ProcessPayment,
        "RefundPayment": RefundPayment,
    }
    exec(compile(code, PAGE.name, "exec"), names)
    table = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in re.findall(r"^\|.*\|$", PAGE.read_text("utf-8").partition("## Example")[2], re.MULTILINE)
    ]
    names_of, _, *rows = table
    draft = lines(ledger.settings.reports_dir / "2011-12" / "draft" / "acme")
    assert [
        [
            f"{line[name]:.2f}" if "a" in name and name in ("amount", "balance") else str(line[name])
            for name in names_of
        ]
        for line in draft
    ] == rows
    closed = ledger.settings.reports_dir / "2011-11" / "revision-1" / "acme"
    [charge] = [
        row for row in pl.read_parquet(closed / "summary.parquet").to_dicts() if row["category"] == "charge"
    ]
    assert (f"{charge['gross']:.2f}", f"{charge['closing']:.2f}") == ("140.00", "130.00")


def test_a_late_refund_changes_no_closed_month_and_is_in_the_open_one(
    ledger: LedgerLake, tmp_path: Path
) -> None:
    db, reports = ledger.db, ledger.settings.reports_dir
    closed_at = put(db, ("a", "Processed", 10_000, "2011-11-03"), ("b", "Processed", 4_000, "2011-11-20"))
    [november] = ledger.close_period("2011-11", by="ann")
    before = contents(november.folder)
    assert {path.stat().st_mode & 0o777 for path in november.folder.rglob("*") if path.is_file()} == {0o444}
    put(
        db,
        ("b", "Refunded", 4_000, "2011-11-29"),  # of November, and late
        ("a", "Refunded", 500, "2011-12-03"),  # of a November payment, in December
        ("c", "Processed", 700, "2011-12-05"),
    )
    ledger.refresh()
    assert contents(november.folder) == before
    assert not (reports / "2011-11" / "draft").exists()
    draft = lines(reports / "2011-12" / "draft" / "acme")
    assert [
        (each["payment_id"], each["category"], each["movement"], each["amount_minor"]) for each in draft
    ] == [
        ("b", "correction", "refund", -4_000),
        ("a", "refund", "refund", -500),
        ("c", "charge", "charge", 700),
    ]
    assert (draft[0]["occurred_period"], draft[0]["period"]) == ("2011-11", "2011-12")
    assert ledger.verify().ok

    month = Interval.parse("2011-11")
    for number, text in enumerate((str(closed_at), "2011-11-25T00:00Z", "99999")):
        if text == "99999":
            with pytest.raises(ReportError, match="nothing can be reported as of 99,999"):
                as_of(ledger, text, month, tmp_path / "no")
            continue
        again = as_of(ledger, text, month, tmp_path / str(number)) / "acme"
        assert read_manifest(again).report_id == read_manifest(november.folder / "acme").report_id
        assert read_manifest(again).digest == read_manifest(november.folder / "acme").digest
        assert lines(again) == lines(november.folder / "acme")
    # A position of a log of twenty million events, or a day: never guessed. A year alone is a position.
    for text, said in (("20111205", "Write 20,111,205 for the position, or 2011-12-05"), ("2011", "ends at")):
        with pytest.raises(ReportError, match=said):
            as_of(ledger, text, month, tmp_path / "no")
    now = as_of(ledger, f"{ledger.lake.position():,}", month, tmp_path / "now") / "acme"
    assert lines(now) == lines(november.folder / "acme")
    # Negative control: by when things occurred alone, November is another one by now.
    pinned = ledger.lake.pin()
    with pinned.duckdb() as connection:
        write_reports(pinned, connection, ReportSpec(month), tmp_path / "naive")
    assert len(lines(tmp_path / "naive" / "acme")) == len(lines(now)) + 1


def test_months_are_closed_in_order_once_they_have_ended(ledger: LedgerLake) -> None:
    db = ledger.db
    with pytest.raises(ReportError, match="Nothing happened"):
        close(ledger, "2011-11", by="ann")
    put(db, ("a", "Processed", 100, "2011-09-30"), ("b", "Processed", 100, "2011-11-03"))
    for period, told in (
        ("2011-11", "2011-09 is the next month"),
        ("2011-08", "Nothing happened up to the end of 2011-08"),
        ("2011-Q3", "is no month"),
        (f"{datetime.now(UTC):%Y-%m}", "has not ended"),
    ):
        with pytest.raises(ReportError, match=told):
            close(ledger, period, by="ann")
    assert ledger.periods.books().entries == ()
    done = close(ledger, "2011-11", by="ann", through=True)
    assert [each.entry.period for each in done] == ["2011-09", "2011-10", "2011-11"]
    assert [(each.entry.revision, each.entry.position, each.new) for each in done] == [(1, 2, True)] * 3
    with pytest.raises(ReportError, match="comes before 2011-09, with which"):
        close(ledger, "2011-07", by="ann")
    [again] = close(ledger, "2011-10", by="bob")
    assert (again.entry, again.new) == (done[1].entry, False)
    other = replace(ledger.settings, books_zone="Europe/Berlin")
    with pytest.raises(ReportError, match="LEDGERLAKE_BOOKS_ZONE=UTC"):
        LedgerLake(other, db).refresh()


def test_reopening_needs_a_reason_and_leaves_every_revision(ledger: LedgerLake) -> None:
    db, reports = ledger.db, ledger.settings.reports_dir
    put(db, ("a", "Processed", 100, "2011-10-03"), ("b", "Processed", 200, "2011-11-03"))
    close(ledger, "2011-11", through=True)
    put(db, ("a", "Refunded", 60, "2011-10-20"), ("b", "Refunded", 70, "2011-11-20"))
    refresh(ledger)
    assert [each["category"] for each in lines(reports / "2011-12" / "draft" / "acme")] == ["correction"] * 2
    for arguments, told in (
        ({"period": "2011-11", "reason": "  "}, "without a reason"),
        ({"period": "2011-12", "reason": "why"}, "2011-12 is not closed"),
        ({"period": "2011-10", "reason": "why"}, "2011-11 is closed after 2011-10"),
    ):
        with pytest.raises(ReportError, match=told):
            ledger.periods.reopen(by="bob", **arguments)
    before = contents(reports / "2011-11" / "revision-1")
    [reopened] = ledger.periods.reopen("2011-11", reason="a credit was forgotten", by="bob")
    assert (reopened.revision, reopened.by, reopened.reason) == (1, "bob", "a credit was forgotten")
    refresh(ledger)
    # October stays closed: its refund comes to stand in November, the first month that is open.
    assert [
        (each["category"], each["amount_minor"]) for each in lines(reports / "2011-11" / "draft" / "acme")
    ] == [
        ("correction", -60),
        ("charge", 200),
        ("refund", -70),
    ]
    [second] = close(ledger, "2011-11")
    assert (second.entry.revision, second.entry.supersedes) == (2, "2011-11/revision-1")
    manifest = read_manifest(second.folder / "acme")
    assert manifest.state == {"state": "closed", "revision": 2, "supersedes": "2011-11/revision-1"}
    assert contents(reports / "2011-11" / "revision-1") == before
    assert ledger.verify_reports(reports).ok
    both = ledger.periods.reopen("2011-10", reason="again", by="bob", through=True)
    assert [each.period for each in both] == ["2011-11", "2011-10"]
    assert ledger.periods.books().closed() == ()
    ledger.refresh()
    assert ledger.verify().ok


def test_of_two_who_close_at_once_one_wins_and_the_other_is_told_who(
    ledger: LedgerLake, tmp_path: Path
) -> None:
    put(ledger.db, ("a", "Processed", 100, "2011-11-03"))
    ledger.lake.refresh(ledger.db)
    there = LedgerLake(replace(ledger.settings, home=tmp_path / "there"), ledger.db)
    there.lake.refresh(ledger.db)
    together = threading.Barrier(2)
    ended: dict[str, Any] = {}

    class Waits(LetsPass):
        def __call__(self, *_: Any) -> None:
            together.wait(60)

    def work(name: str, one: LedgerLake) -> None:
        try:
            ended[name] = periods(one, Waits()).close("2011-11", 1, by=name)
        except ReportError as error:
            ended[name] = error

    threads = [threading.Thread(target=work, args=each) for each in (("ann", ledger), ("bob", there))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    [lost] = [error for error in ended.values() if isinstance(error, PeriodTakenError)]
    [won] = [name for name, each in ended.items() if isinstance(each, list)]
    assert lost.message.startswith(f"{won} was first and closed 2011-11 at ")
    [written] = ledger.periods.books().entries
    assert written.by == won
    # Whoever lost has its folder with the next refresh, with the same bytes.
    for one in (ledger, there):
        one.periods.complete()
    trees = [contents(one.settings.reports_dir / "2011-11" / "revision-1") for one in (ledger, there)]
    assert trees[0] == trees[1]
    assert not list(ledger.settings.home.parent.rglob(".*.writing"))


def test_an_entry_is_never_written_twice(database: Db) -> None:
    append_entry(database, entry(1, "close", "2011-11", 5))
    with pytest.raises(PeriodTakenError, match="ann was first and closed 2011-11 at 2012-01-02"):
        append_entry(database, entry(1, "close", "2011-12", 6))


def test_a_month_of_the_books_is_one_of_their_zone(ledger: LedgerLake) -> None:
    berlin = LedgerLake(replace(ledger.settings, books_zone="Europe/Berlin"), ledger.db)
    # 23:30 UTC on the last of October is November there.
    put(ledger.db, ("a", "Processed", 100, "2011-10-31T23:30:00"))
    with pytest.raises(ReportError, match="Nothing happened up to the end of 2011-10"):
        close(berlin, "2011-10")
    [closed] = close(berlin, "2011-11")
    assert closed.entry.start == day("2011-10-31T23:00:00")
    put(
        ledger.db, ("a", "Refunded", 100, "2011-11-30T22:59:59"), ("b", "Processed", 1, "2011-11-30T23:00:00")
    )
    refresh(berlin)
    draft = lines(berlin.settings.reports_dir / "2011-12" / "draft" / "acme")
    assert [each["category"] for each in draft] == ["correction", "charge"]


def test_nothing_is_closed_where_a_layer_differs_and_the_payment_is_named(
    ledger: LedgerLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = ledger.db
    insert_events(db, payment_history(5, 60))
    ledger.refresh()
    changed = db["payment_read_models"].find_one_and_update(
        {"status": "completed"}, {"$inc": {"amountMinor": Int64(1)}}
    )
    with pytest.raises(PublicationBlocked, match=re.escape(f"payment '{changed['_id']}'")):
        ledger.close_period("2026-02", by="ann", through=True)
    assert ledger.periods.books().entries == ()
    assert not list(ledger.settings.reports_dir.rglob("revision-*"))
    # Put right, both months are closed; what the log has for them is looked up at once.
    db["payment_read_models"].replace_one({"_id": changed["_id"]}, changed)
    looked_up: list[list[str]] = []

    def told(log: Log, specs: Sequence[ReportSpec], position: int) -> Any:
        looked_up.append([spec.interval.label for spec in specs])
        return booked(log, specs, position)

    monkeypatch.setattr("ledgerlake.reconciliation.gate.booked", told)
    done = ledger.close_period("2026-03", by="ann", through=True)
    assert [each.entry.period for each in done] == ["2026-02", "2026-03"] == looked_up.pop()
    assert looked_up == []


def test_a_closed_month_without_a_movement_is_in_agreement_at_once(ledger: LedgerLake) -> None:
    later = {"at": datetime(2026, 6, 1, tzinfo=UTC), "organization": "org 1", "currency": "EUR"}
    insert_events(ledger.db, payment_history(5, 60))
    insert_events(ledger.db, [event(61, "in June", "PaymentProcessed", 100, **later)])
    ledger.refresh()
    for month in ("2026-03", "2026-04", "2026-05"):
        ledger.close_period(month, by="ann", through=True)
        assert [check.differences for check in ledger.verify().checks if check.differences] == []


def test_the_log_is_asked_for_a_few_reports_at_a_time(
    ledger: LedgerLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_events(ledger.db, payment_history(5, 60))
    ledger.refresh()
    books, pinned = ledger.periods.books(), ledger.lake.pin()
    specs = [ReportSpec(Interval.parse(month), books=books) for month in ("2026-01", "2026-02", "2026-03")]
    with pinned.duckdb() as connection:
        found = summaries(connection, books, [spec.interval for spec in specs])
    rows = [table.to_pylist() for table in found]
    looked_up: list[int] = []

    def told(log: Log, specs: Sequence[ReportSpec], position: int) -> Any:
        looked_up.append(len(specs))
        return booked(log, specs, position)

    monkeypatch.setattr("ledgerlake.reconciliation.gate.booked", told)
    monkeypatch.setattr("ledgerlake.reconciliation.gate._AT_ONCE", 2)
    ledger.gate(specs, pinned.position, rows)
    assert looked_up == [2, 1]
    rows[2][0]["opening_minor"] += 1
    with pytest.raises(PublicationBlocked, match="2026-03"):
        ledger.gate(specs, pinned.position, rows)


def test_a_report_that_is_not_what_the_log_says_is_not_published(ledger: LedgerLake, tmp_path: Path) -> None:
    db = ledger.db
    insert_events(db, payment_history(6, 60))
    ledger.lake.refresh(db)
    month = Interval.parse("2026-02")
    out = tmp_path / "mine"
    as_of(ledger, "60", month, out)
    good = contents(out)
    # The log is changed behind the lake's back: the lake has another amount than the log.
    changed = db["events"].find_one_and_update(
        {"timestamp": {"$gte": month.start, "$lt": month.end}, "eventType": "PaymentProcessed"},
        {"$inc": {"eventData.amountMinor": Int64(7)}},
    )
    ledger.gate._agreed.add(60)  # only the figures of the report
    with pytest.raises(PublicationBlocked) as blocked:
        as_of(ledger, "60", month, out)
    told = str(blocked.value)
    assert f"payment '{changed['aggregateId']}', position {changed['position']}" in told
    assert contents(out) == good
    # Without that: its layers.
    fresh = LedgerLake(ledger.settings, db)
    with pytest.raises(PublicationBlocked, match="lake events"):
        as_of(fresh, "60", month, out)


def test_archived_events_count_in_what_the_log_says(ledger: LedgerLake, tmp_path: Path) -> None:
    db = ledger.db
    insert_events(db, payment_history(10, 100))
    close(ledger, "2026-01")
    insert_events(db, payment_history(11, 100, after=100))
    ledger.lake.refresh(db)
    before = contents(as_of(ledger, "200", Interval.parse("2026-02"), tmp_path / "before"))
    later = datetime(2027, 6, 1, tzinfo=UTC)
    assert archive_streams(db, ledger.lake, later, refund_window=timedelta(0), now=later).events > 50
    fresh = LedgerLake(ledger.settings, db)
    assert contents(as_of(fresh, "200", Interval.parse("2026-02"), tmp_path / "after")) == before
    # Of several months at once, the same as of each by itself.
    books = fresh.periods.books()
    months = [Interval.parse(f"2026-0{month}") for month in (3, 1, 2)]
    specs = [ReportSpec(month, books=books) for month in (*months, Interval.parse("2026-04-02..2026-04-09"))]
    with db.client.start_session(snapshot=True) as session:
        log = Log(db, session, fresh.lake.archive)
        several = booked(log, specs, 190)
        assert several == [booked(log, [spec], 190)[0] for spec in specs]
    assert all(several)
    assert any("correction" in key for lines in several for key in lines)


def test_frontiers_cover_every_position_once() -> None:
    nothing = Books("UTC")
    assert nothing.frontiers().to_pylist() == [{"after": 0, "up_to": 2**63 - 1, "frontier": BEGINNING}]
    books = Books(
        "UTC",
        (
            entry(1, "close", "2011-10", 5),
            entry(2, "close", "2011-11", 5),
            entry(3, "close", "2011-12", 9),
            entry(4, "reopen", "2011-12", 12),
            entry(5, "close", "2011-12", 20, revision=2),
        ),
    )
    rows = books.frontiers().to_pylist()
    assert [(row["after"], row["up_to"]) for row in rows] == [(0, 5), (5, 20), (20, 2**63 - 1)]
    assert [row["frontier"] for row in rows] == [BEGINNING, day("2011-12-01"), day("2012-01-01")]
    for position in range(1, 30):
        [row] = [row for row in rows if row["after"] < position <= row["up_to"]]
        assert row["frontier"] == books.frontier(position)
    # As of 10, December was closed; as of 12, it was open again.
    assert books.as_of(position=10).frontier(10) == day("2012-01-01")
    assert books.as_of(position=12).frontier(10) == day("2011-12-01")
    assert books.as_of(instant=day("2012-01-04")) == books.as_of(position=10)
    with pytest.raises(ReportError, match="lacks entry 2"):
        Books("UTC", (books.entries[0], books.entries[2])).closed()


def test_a_revision_that_is_lost_is_written_again_or_refused(ledger: LedgerLake, tmp_path: Path) -> None:
    db = ledger.db
    put(db, ("a", "Processed", 100, "2011-11-03"))
    [closed] = close(ledger, "2011-11")
    put(db, ("b", "Processed", 100, "2011-11-04"))
    refresh(ledger)
    before = contents(closed.folder)
    closed.folder.rename(tmp_path / "lost")
    refresh(ledger)
    assert contents(closed.folder) == before
    closed.folder.rename(tmp_path / "lost again")
    db["billing_periods"].update_one({}, {"$set": {"digest": "0" * 64}})
    assert not ledger.verify().ok
    with pytest.raises(ReportError, match="other rows than those that were closed"):
        refresh(ledger)
    assert not closed.folder.exists()


def test_an_interval_of_any_zone_adds_up_over_a_close(ledger: LedgerLake, tmp_path: Path) -> None:
    """Every movement is in one of the reports of any partition of time, whatever was closed when."""
    db = ledger.db
    insert_events(db, payment_history(7, 120))
    close(ledger, "2026-01")
    insert_events(db, payment_history(8, 60, after=120))
    close(ledger, "2026-02")
    insert_events(db, payment_history(9, 60, after=180))
    ledger.lake.refresh(db)
    found: list[int] = []
    edges = (
        "2025-01-01T00:00Z",
        "2026-01-31T13:07Z",
        "2026-02-28T23:59:59.999Z",
        "2026-03-05T00:00+05:45",
        "2027-01-01T00:00Z",
    )
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        out = as_of(ledger, "240", Interval.parse(f"{start}/{end}"), tmp_path / str(number))
        for path in out.rglob("itemised.parquet"):
            found += [line["position"] for line in lines(path.parent)]
    assert sorted(found) == list(range(1, 241))


def test_the_commands_close_reopen_list_and_report_as_of(
    ledger: LedgerLake, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["LEDGERLAKE_SEGMENT_SIZE"] = "50"

    def tool(*words: str, exit_code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*words, "--json"], env=environ)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == exit_code, done.output
        return json.loads(done.stdout) if exit_code == 0 else done.output

    put(ledger.db, ("a", "Processed", 10_000, "2011-11-03"))
    [closed] = tool("period", "close", "2011-11", "--by", "ann")
    assert (closed["revision"], closed["position"], closed["by"], closed["new"]) == (1, 1, "ann", True)
    before = contents(Path(closed["folder"]))
    put(ledger.db, ("a", "Refunded", 4_000, "2011-11-29"))
    billing = ("report", "billing", "--period", "2011-11", "--out")
    now = tool(*billing, str(tmp_path / "now"))
    then = tool(*billing, str(tmp_path / "then"), "--as-of", "1")
    assert [each["totals"][0]["refunded"] for each in (now, then)] == ["0.00", "0.00"]
    assert contents(Path(closed["folder"])) == before
    december = tool("report", "billing", "--period", "2011-12", "--out", str(tmp_path / "now"))
    assert december["totals"][0]["refunded"] == "40.00"
    # A read model is changed behind everybody's back.
    ledger.db["payment_statistics"].update_one({}, {"$inc": {"count": 1}})
    assert "payment statistics" in tool(*billing, str(tmp_path / "no"), exit_code=1)
    assert not list((tmp_path / "no").rglob("*.parquet"))
    assert "payment statistics" in tool("period", "close", "2011-12", exit_code=1)
    assert CliRunner().invoke(app, ["period", "reopen", "2011-11"], env=environ).exit_code == 2
    [reopened] = tool("period", "reopen", "2011-11", "--reason", "the refund", "--by", "bob")
    assert (reopened["action"], reopened["by"], reopened["reason"]) == ("reopen", "bob", "the refund")
    listed = tool("period", "list")
    assert [(each["action"], each["counts"], each["written"]) for each in listed["entries"]] == [
        ("close", False, True),
        ("reopen", False, None),
    ]
    shown = CliRunner().invoke(app, ["period", "list"], env=environ).stdout
    assert "closed, revision 1, reopened since" in shown
    assert "the refund" in shown
