"""Real payment data, to the cent, per organization and month: in MongoDB, in the lake and in the reports.

Of uk_public_spend's 584,434 commands the 25,862 of one body's last 17 months are taken, or all, which takes
minutes: ARGS=--whole-data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.ingest.importer import ImportSummary
from ledgerlake.notebook import NotebookError, page_of, refresh_pages
from ledgerlake.queries import GetStatistics, GetTrends
from ledgerlake.reports import Interval, ReportSpec, billing
from ledgerlake.reports.rates import Rates
from ledgerlake.settings import Settings

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
# (count, sum in units) of completed, refunded and failed movements.
Figures = dict[str, tuple[int, Decimal]]
ByOrgMonth = dict[tuple[str, date, str], Figures]
NOTHING = (0, Decimal(0))
ONE_BODY, FROM = "Greater London Authority", "2021-01"
# So that each data set has segments that are sealed, and a tail, as a million events have by default.
SEGMENT_SIZE = 10_000


@dataclass(frozen=True)
class Imported:
    """A data set that went through every room of the house; of one organization only, if `only` names it.

    Then it is of its months from FROM on, too.
    """

    ledger: LedgerLake
    summary: ImportSummary
    folder: Path
    only: str | None


@pytest.fixture(scope="module", params=["online_retail", "bpi2020", "uk_public_spend"])
def imported(
    request: pytest.FixtureRequest,
    mongo_uri: str,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Imported]:
    folder = shared_data / request.param
    home = tmp_path_factory.mktemp(request.param)
    settings = Settings(
        home=home, mongodb_uri=mongo_uri, database=f"real_{uuid4().hex[:12]}", segment_size=SEGMENT_SIZE
    )
    file = next(path for path in folder.iterdir() if path.name.startswith("commands."))
    only = None
    if request.param == "uk_public_spend" and not request.config.getoption("whole_data"):
        only = ONE_BODY
        part = tmp_path_factory.mktemp("part") / file.name
        wanted = (pl.col("organization_id") == only) & (pl.col("occurred_at") >= FROM)
        pl.scan_parquet(file).filter(wanted).sink_parquet(part)
        file = part
    with LedgerLake.open(settings) as ledger:
        summary = ledger.import_file(file)
        ledger.refresh()
        yield Imported(ledger, summary, folder, only)
        ledger.db.client.drop_database(settings.database)


def expected_by_org_month(imported: Imported) -> ByOrgMonth:
    rows = pl.read_csv(imported.folder / "expected_org_month.csv", infer_schema=False)
    found: ByOrgMonth = {}
    for row in rows.iter_rows(named=True):
        text = row.get("month") or row["month_utc"]
        if imported.only is not None and (row["organization_id"] != imported.only or text < FROM):
            continue
        month = date.fromisoformat(text + "-01")
        refunds = row.get("refund_commands_n") or row.get("refunds_n") or "0"
        figures: Figures = {
            "completed": (int(row["payments_n"]), Decimal(row["gross"])),
            "refunded": (int(refunds), Decimal(row.get("refunds") or "0")),
            "failed": (int(row.get("failures_n") or 0), Decimal(row.get("failed_amount") or "0")),
        }
        present = {status: figure for status, figure in figures.items() if figure[0]}
        if present:
            found[row["organization_id"], month, row["currency"]] = present
    return found


def collect(rows: list[tuple[str, date, str, str, int, Decimal]]) -> ByOrgMonth:
    found: ByOrgMonth = {}
    for organization, month, currency, status, count, total in rows:
        found.setdefault((organization, month, currency), {})[status] = (count, total)
    return found


def test_trends_in_mongodb_are_exact(imported: Imported) -> None:
    rows = imported.ledger.queries.ask(GetTrends(granularity="month")).rows
    found = collect([(r.organization_id, r.period, r.currency, r.status, r.count, r.total) for r in rows])
    assert found == expected_by_org_month(imported)


def test_statistics_in_mongodb_are_exact(imported: Imported) -> None:
    expected: dict[tuple[str, str, str], tuple[int, Decimal]] = {}
    for (organization, _, currency), figures in expected_by_org_month(imported).items():
        for status, (count, total) in figures.items():
            before = expected.get((organization, status, currency), NOTHING)
            expected[organization, status, currency] = (before[0] + count, before[1] + total)
    rows = imported.ledger.queries.ask(GetStatistics()).rows
    assert {(r.organization_id, r.status, r.currency): (r.count, r.total) for r in rows} == expected


def test_trends_in_the_lake_are_exact(imported: Imported) -> None:
    table = pl.read_parquet(imported.ledger.lake.root / "trends" / "payment_trends_month.parquet")
    columns = ("organization_id", "period", "currency", "status", "count", "total")
    assert collect(table.select(columns).rows()) == expected_by_org_month(imported)


def test_billing_reports_are_exact(imported: Imported) -> None:
    found: ByOrgMonth = {}
    itemised: ByOrgMonth = {}
    balances: dict[tuple[str, str], Decimal] = {}
    for path in sorted(imported.ledger.settings.reports_dir.glob("*/draft/*/summary.parquet")):
        month = date.fromisoformat(path.parts[-4] + "-01")
        for row in pl.read_parquet(path).iter_rows(named=True):
            figures = {
                "completed": (row["count"] - row["refunds"] - row["failures"], row["gross"]),
                "refunded": (row["refunds"], row["refunded"]),
                "failed": (row["failures"], row["failed"]),
            }
            assert row["net"] == row["gross"] - row["refunded"]
            key = (row["organization_id"], month, row["currency"])
            for status, (count, total) in figures.items():
                if count:
                    before = found.setdefault(key, {}).get(status, NOTHING)
                    found[key][status] = (before[0] + count, before[1] + total)
            # Each month begins with the balance that the one before has ended with.
            if row["category"] == "charge":
                account = (row["organization_id"], row["currency"])
                assert row["opening"] == balances.get(account, 0)
                balances[account] = row["closing"]
        lines = pl.read_parquet(path.with_name("itemised.parquet"))
        status = pl.col("category").replace_strict(
            {
                "charge": "completed",
                "refund": "refunded",
                "unreferenced_credit": "refunded",
                "failure": "failed",
            }
        )
        sums = lines.group_by("organization_id", "currency", status.alias("status")).agg(
            pl.len(), (pl.col("amount").abs() + pl.col("failed").fill_null(0)).sum()
        )
        for organization, currency, outcome, count, total in sums.iter_rows():
            itemised.setdefault((organization, month, currency), {})[outcome] = (count, total)
    assert found == expected_by_org_month(imported)
    assert itemised == expected_by_org_month(imported)


@pytest.mark.parametrize("currency", ["EUR", "USD"])
def test_reports_in_a_reporting_currency_are_exact(
    imported: Imported, shared_data: Path, tmp_path: Path, currency: str
) -> None:
    """At the ECB's rates, line by line, for every organization and month."""
    if imported.folder.name != "online_retail":
        pytest.skip("not applicable: only online_retail has figures in other currencies")
    rates = Rates.load(shared_data / "ecb_fx" / "ecb_rates_long.parquet")
    spec = ReportSpec(Interval.parse("2010-12-01..2011-12-31"), currency=currency, rates=rates)
    report = billing(imported.ledger.lake, spec, tmp_path)
    assert len(report.organizations) == 38
    refund = pl.col("amount_minor") < 0
    lines = pl.read_parquet([path for path in report.files if path.name == "itemised.parquet"])
    months = lines.group_by("organization_id", "period").agg(
        pl.col("fx_amount").filter(~refund).sum(), -pl.col("fx_amount").filter(refund).sum().alias("refunds")
    )
    found = {(organization, month): sums for organization, month, *sums in months.iter_rows()}
    unit = currency.lower()
    rows = pl.read_csv(shared_data / "ecb_fx" / "expected_fx_online_retail.csv", infer_schema=False)
    expected = {
        (row["organization_id"], row["month"]): [
            Decimal(row[f"{each}_{unit}"]) for each in ("gross", "refunds")
        ]
        for row in rows.iter_rows(named=True)
    }
    assert found == expected
    by_organization: dict[str, list[Decimal]] = {}
    for (organization, _), sums in expected.items():
        before = by_organization.get(organization, [Decimal(0), Decimal(0)])
        by_organization[organization] = [one + other for one, other in zip(before, sums, strict=True)]
    summary = pl.read_parquet([path for path in report.files if path.name == "summary.parquet"])
    totals = summary.group_by("organization_id").agg(pl.col("fx_gross", "fx_refunded", "unconverted").sum())
    assert {row[0]: list(row[1:]) for row in totals.iter_rows()} == {
        organization: [*sums, 0] for organization, sums in by_organization.items()
    }


def test_rejected_rows_are_the_expected_ones(imported: Imported) -> None:
    rejections = pl.read_parquet(imported.summary.rejections_file)
    assert imported.summary.rejected == rejections.height
    name = imported.folder.name
    if name == "uk_public_spend":  # its unreadable rows were left out of the commands
        assert rejections.height == 0
        return
    assert set(rejections["reason_code"]) == {"zero_amount"}
    rows = pl.read_csv(imported.folder / "expected_org_month.csv", infer_schema=False)
    month = "month_utc" if "month_utc" in rows.columns else "month"
    expected = {
        (row["organization_id"], row[month]): int(row["rejected_n"])
        for row in rows.iter_rows(named=True)
        if int(row["rejected_n"])
    }
    at = pl.col("occurred_at").str.to_datetime(time_zone="UTC").dt.strftime("%Y-%m")
    found = rejections.group_by("organization_id", at).len().rows()
    rejected = {(organization, month): count for organization, month, count in found}
    if name == "online_retail":
        # Three 'adjustment' invoices of August 2011 are expected rejections that never became commands.
        rejected["United Kingdom", "2011-08"] = rejected.get(("United Kingdom", "2011-08"), 0) + 3
    assert rejected == expected
    stored = imported.ledger.db["command_rejections"].count_documents({"reasonCode": "zero_amount"})
    assert stored == rejections.height
    if name == "online_retail":
        invoices = pl.read_csv(imported.folder / "expected_rejections.csv", infer_schema=False)
        zero = invoices.filter(pl.col("reason") == "zero_amount")["invoice"]
        assert set(rejections["command_id"]) == set(zero)


def test_totals_and_payment_states_are_exact(imported: Imported) -> None:
    states: dict[str, tuple[int, Decimal, Decimal]] = {}
    result = imported.ledger.queries.ask(GetStatistics())
    for state in result.payment_states:
        name = "unreferenced" if state.unreferenced else state.status
        count, amount, refunded = states.get(name, (0, Decimal(0), Decimal(0)))
        states[name] = (count + state.count, amount + state.amount, refunded + state.refunded)
    in_lake: dict[str, tuple[int, Decimal, Decimal]] = {}
    table = pl.read_parquet(imported.ledger.lake.root / "statistics" / "payment_states.parquet")
    for row in table.iter_rows(named=True):
        name = "unreferenced" if row["unreferenced"] else row["status"]
        count, amount, refunded = in_lake.get(name, (0, Decimal(0), Decimal(0)))
        in_lake[name] = (count + row["count"], amount + row["amount"], refunded + row["refunded"])
    assert in_lake == states
    expected = expected_totals(imported.folder)
    if imported.folder.name == "online_retail":
        for state, key in (
            ("completed", "captured"),
            ("partially_refunded", "partially_refunded"),
            ("refunded", "refunded"),
        ):
            assert states[state] == (
                int(expected[f"payments_{key}_n"]),
                Decimal(expected[f"payments_{key}_amount"]),
                Decimal(expected[f"payments_{key}_refunded_amount"]),
            )
        assert states["unreferenced"][0] == int(expected["refund_commands_unlinked"])
        assert states["unreferenced"][2] == Decimal(expected["refund_amount_unlinked"])
        assert imported.summary.rows == int(expected["commands"])
    elif imported.folder.name == "bpi2020":
        paid = states["completed"][0]
        # A payment whose attempts were all rejected has no events: it never was, and never was paid.
        rejected = pl.read_parquet(imported.summary.rejections_file)["payment_id"].unique()
        known = imported.ledger.db["payment_read_models"].distinct(
            "_id", {"_id": {"$in": rejected.to_list()}}
        )
        unpaid = states["failed"][0] + len(set(rejected) - set(known))
        assert paid == int(expected["paid_first_try"]) + int(expected["failed_then_paid"])
        assert unpaid == int(expected["never_paid"])
        assert states["completed"][1] == Decimal(expected["gross"])
        assert imported.summary.rows == int(expected["commands"])
    else:
        rows = 584_434 if imported.only is None else 25_862
        assert imported.summary.rows == imported.summary.accepted == rows


def expected_totals(folder: Path) -> dict[str, str]:
    rows = pl.read_csv(folder / "expected_totals.csv", infer_schema=False)
    return dict(rows.select("key", "value").iter_rows()) if "organization_id" not in rows.columns else {}


def test_days_and_users_are_exact(imported: Imported) -> None:
    """online_retail also has the figures by day and by user, and counts refunds by invoice."""
    if imported.folder.name != "online_retail":
        pytest.skip("not applicable: only online_retail has these figures")
    invoice = pl.col("command_id").str.split("/").list.first()
    paid = pl.col("event_type") == "PaymentProcessed"
    events = imported.ledger.lake.scan()
    for file, by in (
        ("expected_daily.csv", {"date": pl.col("occurred_at").dt.strftime("%Y-%m-%d")}),
        ("expected_user.csv", {"organization_id": pl.col("organization_id"), "user_id": pl.col("user_id")}),
    ):
        sums = (
            events.group_by([expression.alias(name) for name, expression in by.items()])
            .agg(
                payments_n=paid.sum(),
                gross=pl.col("amount").filter(paid).sum(),
                refund_invoices_n=invoice.filter(~paid).n_unique(),
                refunds=pl.col("amount").filter(~paid).sum(),
            )
            .collect()
        )
        found = {row[: len(by)]: row[len(by) :] for row in sums.iter_rows()}
        expected: dict[tuple[Any, ...], tuple[int, Decimal, int, Decimal]] = {}
        for row in pl.read_csv(imported.folder / file, infer_schema=False).iter_rows(named=True):
            if int(row["payments_n"]) or int(row["refund_invoices_n"]):
                expected[tuple(row[name] for name in by)] = (
                    int(row["payments_n"]),
                    Decimal(row["gross"]),
                    int(row["refund_invoices_n"]),
                    Decimal(row["refunds"]),
                )
        assert found == expected


def test_log_read_models_and_parquet_agree(imported: Imported) -> None:
    verification = imported.ledger.verify()
    assert verification.ok, verification


def test_a_second_import_adds_nothing(imported: Imported) -> None:
    if imported.folder.name != "online_retail":
        pytest.skip("not applicable: once is enough, each takes seconds")
    ledger = imported.ledger
    head = ledger.store.head()
    again = ledger.import_file(Path(imported.summary.file))
    assert (again.accepted, again.duplicates) == (0, imported.summary.accepted)
    assert ledger.store.head() == head
    assert all(part.events == 0 for part in ledger.refresh())


def test_every_notebook_runs(imported: Imported) -> None:
    if imported.folder.name != "online_retail":
        pytest.skip("not applicable: once is enough, each takes seconds")
    settings = imported.ledger.settings
    made = dict(refresh_pages(NOTEBOOKS, settings, imported.ledger.lake.position()))
    assert [error for error in made.values() if isinstance(error, NotebookError)] == []
    totals = dict(pl.read_csv(imported.folder / "expected_totals.csv", infer_schema=False).rows())
    gross, refunds = (Decimal(totals[f"amount_{each}"]) for each in ("payment", "refund"))
    trends = page_of(settings, "payment_trends").read_text("utf-8")
    for amount in (gross, refunds, gross - refunds):
        assert f'<td class="number">{amount:,}</td>' in trends
