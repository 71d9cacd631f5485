"""The analyst's Lake: earlier positions, the books, lines, reconciliation and audit, all without MongoDB."""

from __future__ import annotations

import ast
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.analyst import Lake, NothingYet
from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.errors import CorruptFileError, LakeError
from ledgerlake.lake.tables import refresh_tables
from ledgerlake.queries import GetAudit
from ledgerlake.reports import ReportError, refresh_billing
from ledgerlake.reports.close import Periods
from ledgerlake.reports.manifest import MANIFEST, read_json, write_json
from ledgerlake.reports.noted import NOTED, noted_books
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebooks.md"
ZONE = "Europe/Berlin"
STAGES = (150, 60, 40)  # events; positions 150, 210, 250
RECORDED = datetime(2026, 4, 1, 12, tzinfo=UTC)  # the first stage; a day later each of the others


class LetsPass:
    """A gate for tests of what is behind it."""

    def everything(self, position: int, coming: Sequence[ReportSpec] = ()) -> None:
        pass

    def __call__(
        self, specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        pass


@dataclass
class Told:
    """A home whose database is gone, its Lake as it was opened at each stage, and the ledger's own audits."""

    settings: Settings
    stages: list[Lake]
    audits: dict[str, Any]

    @property
    def reports(self) -> Path:
        return self.settings.reports_dir


def _refresh(ledger: LedgerLake) -> None:
    """Lake, tables and reports, without the read models."""
    ledger.lake.refresh(ledger.db)
    refresh_tables(ledger.lake)
    refresh_billing(ledger.lake, ledger.settings.reports_dir, ledger.periods.books())


def _stages(ledger: LedgerLake, settings: Settings) -> Iterator[Lake]:
    """Two months closed after the first stage; the second one again, after the second stage."""
    periods = Periods(ledger.db, ledger.lake, settings.reports_dir, ZONE, LetsPass())
    after = 0
    for stage, events in enumerate(STAGES):
        documents = payment_history(seed=stage, events=events, payments=15, after=after)
        after += events
        insert_events(
            ledger.db, [{**each, "recordedAt": RECORDED + timedelta(days=stage)} for each in documents]
        )
        if stage == 2:
            periods.reopen("2026-02", reason="credit notes were missing", by="ben")
            assert noted_books(settings.reports_dir) == periods.books()
        if stage == 1:
            (settings.reports_dir / NOTED).unlink()  # as if the close had been killed before it wrote that
        _refresh(ledger)
        assert noted_books(settings.reports_dir) == periods.books()
        if stage == 0:
            periods.close("2026-02", 150, by="ann", through=True)
            assert noted_books(settings.reports_dir) == periods.books()
        if stage == 2:
            periods.close("2026-02", 250, by="ben")
        _refresh(ledger)
        yield Lake.open(settings)


@pytest.fixture(scope="module")
def told(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    home = tmp_path_factory.mktemp("analyst")
    settings = Settings(
        home=home, mongodb_uri=mongo_uri, database="test_analyst", segment_size=64, books_zone=ZONE
    )
    with LedgerLake.open(settings) as ledger:
        ledger.db.client.drop_database(settings.database)
    with LedgerLake.open(settings) as ledger:
        stages = list(_stages(ledger, settings))
        ids = stages[-1].payments().select("payment_id").collect()["payment_id"]
        audits = {each: ledger.queries.ask(GetAudit(each)) for each in ids}
        ledger.db.client.drop_database(settings.database)
    return Told(settings, stages, audits)


@pytest.fixture
def lake(told: Told) -> Lake:
    return told.stages[-1]


ASKED: dict[str, Callable[[Lake], pl.DataFrame]] = {
    "statistics": lambda lake: lake.statistics(),
    "payment_states": lambda lake: lake.payment_states(),
    "trends": lambda lake: lake.trends("week"),
    "trends of one": lambda lake: lake.trends("month", organization="org 1", last_day="2026-02-20"),
    "refund_cohorts": lambda lake: lake.refund_cohorts(),
    "refund_cohorts of one": lambda lake: lake.refund_cohorts("week", "org 1", last_day="2026-02-20"),
    "payments": lambda lake: lake.payments().collect(),
    "events": lambda lake: lake.events().collect(),
    "tables": lambda lake: lake.tables,
    "sql": lambda lake: lake.sql("SELECT sum(count) AS n FROM payment_trends_day"),
    "periods": lambda lake: lake.periods(),
    "periods of one": lambda lake: lake.periods("org 2"),
    "billing": lambda lake: lake.billing("2026-02"),
    "corrections": lambda lake: lake.corrections(),
    "audit": lambda lake: lake.audit("payment-0-3"),
}


def test_a_lake_as_of_an_earlier_position_says_what_it_said_then(told: Told) -> None:
    first, second, last = told.stages
    assert [each.position for each in told.stages] == [150, 210, 250]
    few = ("trends", "periods", "corrections")
    for then, now, questions in ((first, last.as_of(150), ASKED), (second, last.as_of("210"), few)):
        for question in questions:
            assert ASKED[question](now).equals(ASKED[question](then)), (question, then.position)


def test_refund_cohorts_are_the_payments_by_when_they_completed(lake: Lake) -> None:
    completed = lake.payments().filter(pl.col("completed_at").is_not_null()).collect()
    keys = ["period", "organization_id", "currency"]
    expected = (
        completed.with_columns(pl.col("completed_at").dt.truncate("1mo").dt.date().alias("period"))
        .group_by(keys)
        .agg(
            pl.len().cast(pl.Int64).alias("payments"),
            pl.col("amount_minor").sum(),
            (pl.col("refunded_minor") > 0).sum().cast(pl.Int64).alias("refunded_payments"),
            pl.col("refunded_minor").sum(),
        )
        .sort(keys)
    )
    found = lake.refund_cohorts()
    assert found.equals(expected)
    assert 0 < found["refunded_minor"].sum() < found["amount_minor"].sum()
    days = lake.refund_cohorts("day", first_day="2026-02-03", last_day="2026-02-09")
    inside = completed.filter(pl.col("completed_at").dt.date().is_between(date(2026, 2, 3), date(2026, 2, 9)))
    assert days["payments"].sum() == inside.height > 0
    with pytest.raises(LakeError, match="day, week or month"):
        lake.refund_cohorts("quarter")  # type: ignore[arg-type]


def test_as_of_an_instant_is_what_was_recorded_by_then_and_a_day_counts_whole(lake: Lake) -> None:
    day = timedelta(days=1)
    by_moment = {
        "2026-04-01": 150,
        "2026-04-02": 210,
        date(2026, 4, 2): 210,
        RECORDED: 150,
        RECORDED + day: 210,
        RECORDED + day - timedelta(milliseconds=1): 150,
        "2026-04-02T11:59Z": 150,
        "2026-04-02T12:00": 210,
        "2026-04-02T14:00+02:00": 210,
        "2026-04-02T13:59+02:00": 150,
        datetime.now(UTC): 250,
        datetime.now(UTC).date(): 250,
    }
    assert {moment: lake.as_of(moment).position for moment in by_moment} == by_moment
    # Recorded long before anything was closed: the books were open.
    assert set(lake.as_of("2026-04-03").periods()["state"]) == {"open"}
    assert set(lake.as_of(150).periods()["state"]) == {"open", "closed"}


def test_what_is_no_moment_of_this_lake_is_refused_and_says_what_is(lake: Lake) -> None:
    for moment, message in {
        0: "1 to 250",
        "251": "1 to 250",
        "soon": "no position, instant or day",
        "2026-02-30": "no position, instant or day",
        "2099-01-01": "has not come yet",
        "2026-03-31": r"Nothing was recorded by 31 March .* first event was on 1 April 2026.*last_day=",
        True: "no position",
    }.items():
        with pytest.raises(LakeError, match=message):
            lake.as_of(moment)
    with pytest.raises(LakeError, match="1 to 150"):
        lake.as_of(150).as_of(151)


def _files(told: Told, folder: str) -> pl.DataFrame:
    """The lines of all reports of a month as their files have them, in the order of the organizations."""
    found = [pl.read_parquet(path) for path in (told.reports / folder).glob("*/itemised.parquet")]
    return pl.concat(found).sort("organization_id", "line")


@pytest.mark.parametrize(
    ("folder", "period", "revision"),
    [
        ("2026-01/revision-1", "2026-01", None),
        ("2026-02/revision-1", "2026-02", 1),
        ("2026-02/revision-2", "2026-02", None),
        ("2026-03/draft", "2026-03", None),
    ],
)
def test_billing_gives_the_lines_of_the_reports(
    told: Told, lake: Lake, folder: str, period: str, revision: int | None
) -> None:
    files = _files(told, folder)
    lines = lake.billing(period, revision=revision)
    assert lines.height > 0
    assert lines.sort("organization_id", "line").equals(files.select(lines.columns))
    dropped = set(files.columns) - set(lines.columns)
    assert dropped == {each for each in files.columns if each.startswith("fx_")}
    one = lines["organization_id"][0]
    assert lake.billing(period, one, revision).equals(lines.filter(organization_id=one))


def test_billing_takes_any_stretch_of_time_and_months_add_up_to_it(lake: Lake) -> None:
    quarter = lake.billing("2026-Q1")
    months = [lake.billing(f"2026-0{month}") for month in (1, 2, 3)]
    assert quarter.height == sum(each.height for each in months) == 250
    assert quarter["amount_minor"].sum() == sum(each["amount_minor"].sum() for each in months)


def test_periods_say_what_the_reports_say_and_what_is_closed(told: Told, lake: Lake) -> None:
    periods = lake.periods()
    state = periods.select("period", "state", "revision", "revisions", "closed_by", "position").unique()
    assert sorted(state.rows()) == [
        ("2026-01", "corrected", 1, 1, "ann", 150),
        ("2026-02", "closed", 2, 2, "ben", 250),
        ("2026-03", "open", None, 0, None, 250),
    ]
    for folder in ("2026-01/revision-1", "2026-02/revision-2", "2026-03/draft"):
        files = _files(told, folder)
        for row in periods.filter(period=folder[:7]).iter_rows(named=True):
            of = files.filter(currency=row["currency"])
            back = of.filter(pl.col("movement").is_in(["refund", "unreferenced_credit"]))
            assert row["movements"] == of.height
            assert row["charges"] == of.filter(movement="charge").height
            assert row["refunds"] == back.height
            assert row["failures"] == of.filter(movement="failure").height
            assert row["gross_minor"] == of.filter(movement="charge")["amount_minor"].sum()
            assert row["refunded_minor"] == -back["amount_minor"].sum()
            assert row["net"] == of["amount"].sum()
            assert row["corrections"] == of.filter(category="correction").height
    assert sum(periods["movements"]) == 250


def test_corrections_are_the_late_movements_of_a_month_where_they_are_booked(told: Told, lake: Lake) -> None:
    folders = ("2026-01/revision-1", "2026-02/revision-2", "2026-03/draft")
    files = pl.concat([_files(told, each) for each in folders]).filter(category="correction")
    found = lake.corrections()
    order = ["position"]
    assert found.sort(order).equals(files.sort(order).select(found.columns))
    january = lake.corrections("2026-01")
    assert 0 < january.height == found.height  # February was closed again with all of its own
    assert set(january["occurred_period"]) == {"2026-01"}
    # Before February was closed again, some of its movements were booked in March.
    second = told.stages[1]
    then = second.corrections()
    assert then.filter(occurred_period="2026-02", period="2026-03").height > 0
    late = second.periods().filter(pl.col("late") > 0)
    assert sum(late["late"]) == then.height
    for row in late.iter_rows(named=True):
        of = then.filter(occurred_period=row["period"], currency=row["currency"])
        assert (row["late"], row["late_net"]) == (of.height, of["amount"].sum())
    one = january["organization_id"][0]
    assert lake.corrections("2026-01", one).equals(january.filter(organization_id=one))
    assert lake.corrections("2026-02").schema == january.schema


def test_reports_reconcile_with_the_events(told: Told, lake: Lake) -> None:
    for period, revision in (("2026-01", None), ("2026-02", 1), ("2026-02", 2), ("2026-03", None)):
        found = lake.reconciliation(period, revision=revision)
        sides = ["reports", "lake", "difference"]
        assert found["of"].to_list() == sides * found["currency"].n_unique()
        nothing = found.filter(of="difference")
        amounts = [name for name in found.columns if name.endswith("_minor")]
        assert nothing.select("organizations", "movements", *amounts).sum_horizontal().sum() == 0
        assert nothing["differing"].list.len().sum() == 0
        lines = lake.billing(period, revision=revision)
        assert found.filter(of="reports")["movements"].sum() == lines.height > 0
        assert found.filter(of="lake")["net_minor"].sum() == lines["amount_minor"].sum()
    alone = lake.reconciliation("2026-02", "org 1")
    assert set(alone.filter(of="reports")["organizations"]) == {1}


def test_a_report_that_says_otherwise_or_was_changed_is_named(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.settings.home / "lake", tmp_path / "lake")
    shutil.copytree(told.reports, tmp_path / "reports")
    lake = Lake.open(Settings(home=tmp_path))
    one, other = sorted((tmp_path / "reports" / "2026-03" / "draft").iterdir())[:2]
    content = read_json(one / MANIFEST)
    row = next(each for each in content["totals"] if each["gross_minor"])
    row["gross_minor"] += 700
    write_json(one / MANIFEST, content)
    with (other / "summary.parquet").open("ab") as file:
        file.write(b" ")
    found = lake.reconciliation("2026-03").filter(of="difference")
    names = [content["facts"]["organization"], read_json(other / MANIFEST)["facts"]["organization"]]
    here = pl.col("currency") == row["currency"]
    wrong = found.row(by_predicate=here, named=True)
    units = Decimal(700).scaleb(-row["exponent"])
    assert (wrong["gross_minor"], wrong["gross"], wrong["differing"][0]) == (700, units, names[0])
    assert found.filter(~here)["gross_minor"].sum() == 0
    assert {name for each in found["differing"].to_list() for name in each} == set(names)
    with pytest.raises(LakeError, match="as of position 250, this lake of 150"):
        lake.as_of(150).reconciliation("2026-03")
    (one / MANIFEST).write_text((one / MANIFEST).read_text().replace("org", "orc"))
    with pytest.raises(LakeError, match="manifest.json was changed"):
        lake.reconciliation("2026-03")
    shutil.rmtree(tmp_path / "reports" / "2026-01")
    with pytest.raises(LakeError, match="no report of 'org 1' in .*ledgerlake refresh"):
        lake.reconciliation("2026-01", "org 1")
    with pytest.raises(LakeError, match="2026-Q1 is no month"):
        lake.reconciliation("2026-Q1")


def test_the_audit_of_every_payment_is_the_ledgers_own(told: Told, lake: Lake) -> None:
    assert len(told.audits) > 50
    for payment_id, theirs in told.audits.items():
        steps = lake.audit(payment_id).to_dicts()
        assert [step["step"] for step in steps] == [each.version for each in theirs.steps]
        for step, each in zip(steps, theirs.steps, strict=True):
            mine = {
                "what": each.what,
                "who": each.user_id,
                "occurred_at": each.occurred_at,
                "recorded_at": each.recorded_at,
                "amount": each.amount,
                "currency": each.currency,
                "reason": each.reason,
                "status": each.state.status,
                "refunded": each.state.refunded,
                "left": each.state.left,
                "organization_id": each.organization_id,
                "position": each.position,
                "command_id": each.command_id,
                "correlation_id": each.correlation_id,
                "causation_id": each.causation_id,
            }
            assert {name: step[name] for name in mine} == mine
    lines = pl.concat([lake.billing(f"2026-0{month}") for month in (1, 2, 3)])
    booked = dict(lines.select("position", "period").iter_rows())
    steps = pl.concat([lake.audit(each) for each in told.audits])
    assert dict(steps.select("position", "booked_in").iter_rows()) == booked


def test_names_that_nobody_has_are_refused_with_those_that_come_near(lake: Lake) -> None:
    wrong: dict[str, Callable[[], object]] = {
        "No organization 'Org 1' .*Is it 'org 1'": lambda: lake.trends(organization="Org 1"),
        "No organization 'org1' .*Is it 'org 1'": lambda: lake.events(organization="org1"),
        "No organization 'zzz' .*There are 4, such as 'org 0'": lambda: lake.billing("2026-02", "zzz"),
        "No payment 'payment-0-' .*Is it 'payment-0-": lambda: lake.audit("payment-0-"),
        "No payment 'paymant-0-3' .*Is it 'payment-0-3'": lambda: lake.audit("paymant-0-3"),
        "no figures by 'hour'": lambda: lake.trends("hour"),  # type: ignore[arg-type]
        "'1.2.2026' is no day": lambda: lake.events(last_day="1.2.2026"),
        "'2026-13' is no period": lambda: lake.billing("2026-13"),
        "2026-02 has no revision 3. It has 2": lambda: lake.billing("2026-02", revision=3),
        "2026-03 has no revision 1. It was never closed": lambda: lake.billing("2026-03", revision=1),
        '(?s)Table with name event .*Did you mean "events".*lake.tables': lambda: lake.sql("FROM event"),
        "(?s)DuckDB can not answer.*disabled": lambda: lake.sql(
            f"COPY (SELECT 1) TO '{lake.root}/a.parquet'"
        ),
        "(?s)DuckDB can not answer.*needs name=": lambda: lake.sql("SELECT $day"),
        "no question": lambda: lake.sql(""),
    }
    for message, ask in wrong.items():
        with pytest.raises(LedgerLakeError, match=message):
            ask()


def test_without_the_list_of_closes_nobody_is_told_that_a_month_is_open(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.settings.home / "lake", tmp_path / "lake")
    alone = Lake.open(Settings(home=tmp_path))
    assert alone.trends().equals(told.stages[-1].trends())
    assert alone.audit("payment-0-3")["booked_in"].null_count() > 0
    assert "unknown" in alone._repr_html_()
    for ask in (alone.periods, alone.corrections, lambda: alone.billing("2026-02")):
        with pytest.raises(LakeError, match="no list of closed months .*ledgerlake refresh"):
            ask()
    (tmp_path / "reports").mkdir()
    noted = (told.reports / NOTED).read_text()
    (tmp_path / "reports" / NOTED).write_text(noted.replace("ben", "eve"))
    with pytest.raises(ReportError, match=r"periods.json is damaged .*ledgerlake refresh"):
        Lake.open(Settings(home=tmp_path))


def test_a_damaged_segment_is_named_and_not_answered_with(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.settings.home, tmp_path / "home", ignore=shutil.ignore_patterns("mongo"))
    lake = Lake.open(Settings(home=tmp_path / "home"))
    sealed = min((tmp_path / "home" / "lake" / "events").glob("*.parquet"))
    content = bytearray(sealed.read_bytes())
    content[len(content) // 3] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(CorruptFileError, match=sealed.name):
        lake.sql("SELECT * FROM events")


def test_what_it_is_says_position_freshness_and_books(told: Told, lake: Lake) -> None:
    assert repr(lake).startswith(f"Lake {told.settings.lake_dir} as of position 250\n250 events, up to")
    assert "ago" in repr(lake)
    page = lake._repr_html_()
    assert "ago" not in page  # it may be kept
    for text in ("250 events", "the last was recorded on 3 April 2026 at 12:00 UTC", "2026-01 to 2026-02"):
        assert text in page
    assert "<td>4</td>" in page
    assert "BHD, EUR, GBP, JPY, USD" in page
    assert lake.as_of(150).freshness.startswith("150 events, up to position 150")


def test_a_frame_for_reading_has_every_digit_and_no_minor_units(lake: Lake) -> None:
    frame = pl.DataFrame(
        {
            "currency": ["EUR", "JPY", "BHD", "EUR"],
            "exponent": [2, 0, 3, 2],
            "amount_minor": [123456789, -1234, 5, None],
            "amount": [Decimal("1234567.89"), Decimal(-1234), Decimal("0.005"), None],
            "at": [datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)] * 4,
        }
    )
    shown = lake.readable(frame)
    assert shown["amount"].to_list() == ["1,234,567.89", "-1,234", "0.005", None]
    most = 2**100  # what DuckDB adds up to is a decimal, and may be wider than any context of Python's
    summed = lake.sql(f"SELECT 'EUR' AS currency, {most}::DECIMAL(38, 0) AS net_minor")
    assert lake.readable(summed)["net"].to_list() == [f"{most // 100:,}.{most % 100}"]
    assert shown["at"][0] == "2026-02-03 04:05"
    assert shown.columns == ["currency", "amount", "at"]


def test_the_page_for_analysts_runs_as_it_is_written(lake: Lake) -> None:
    blocks = re.findall(r"^   ```python\n(.*?)^   ```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names: dict[str, Any] = {"lake": lake, "charts": charts, "col": pl.col}
    for block in blocks:
        *before, last = ast.parse(textwrap.dedent(block)).body
        exec(compile(ast.Module(before, []), PAGE.name, "exec"), names)
        assert isinstance(last, ast.Expr)
        shown = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)
        assert len(shown.data if hasattr(shown, "data") else shown) > 0
    methods = re.findall(r"`lake\.(\w+)", PAGE.read_text("utf-8"))
    assert len(methods) > 15
    assert [name for name in methods if not hasattr(Lake, name)] == []


ALICE = ("alice.arnaud@example.com", "Alice Arnaud", "the card of Alice was stolen")


def _business(settings: Settings) -> None:
    """A payment of Alice's, charged, failed and refunded late, and everything that is made of it."""
    common: dict[str, Any] = {"payment_id": "pa", "organization_id": "acme", "amount": Money(1000, "EUR")}
    march = {**common, "occurred_at": datetime(2026, 3, 3, tzinfo=UTC), "user_id": ALICE[0]}
    with LedgerLake.open(settings) as ledger:
        ledger.commands.dispatch(ProcessPayment(command_id="1", personal={"name": ALICE[1]}, **march))
        ledger.commands.dispatch(FailPayment(command_id="2", reason=ALICE[2], **march))
        _refresh(ledger)
        Periods(ledger.db, ledger.lake, settings.reports_dir, "UTC", LetsPass()).close("2026-03", 2, by="ann")
        ledger.commands.dispatch(RefundPayment(command_id="3", reason=ALICE[2], **march))
        _refresh(ledger)


def _everything(lake: Lake) -> str:
    """All that the Lake gives, as text."""
    frames = [
        lake.events().collect(),
        lake.payments().collect(),
        lake.statistics(),
        lake.payment_states(),
        lake.trends(),
        lake.tables,
        lake.periods(),
        lake.billing("2026-03"),
        lake.billing("2026-04"),
        lake.corrections(),
        lake.reconciliation("2026-03"),
        lake.audit("pa"),
        lake.as_of(2).payments().collect(),
    ]
    assert all(frame.height for frame in frames)
    return repr(lake) + lake._repr_html_() + "".join(json.dumps(f.rows(), default=str) for f in frames)


def test_what_forget_destroyed_is_unreadable_here_and_before_it_was_a_token(settings: Settings) -> None:
    declared = ("metadata.personal", "metadata.userId", "eventData.reason")
    settings = replace(settings, personal_fields=declared)
    _business(settings)
    before = _everything(Lake.open(settings))
    with LedgerLake.open(settings) as ledger:
        ledger.forget(ALICE[0])
        _refresh(ledger)
    after = _everything(Lake.open(settings))
    for text in (before, after):
        assert not [each for each in (*ALICE, "Alice", "alice") if each in text]
        assert '"pa"' in text
        assert "pii:1:" in text
    # The figures are those of before, and the person is still one and the same nobody.
    lake = Lake.open(settings)
    assert set(lake.audit("pa")["who"].str.split(":").list.get(2)) == {
        lake.audit("pa")["who"][0].split(":")[2]
    }
    assert lake.payments().collect()["refunded_minor"].to_list() == [1000]


def test_negative_control_what_was_never_declared_personal_stands_there(settings: Settings) -> None:
    _business(settings)
    text = _everything(Lake.open(settings))
    assert ALICE[0] in text
    assert ALICE[2] in text
    assert ALICE[1] not in text  # free details always are


def test_an_empty_ledger_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(NothingYet, match="no payments in"):
        Lake.open(settings)
