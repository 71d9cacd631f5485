"""What the demo shows at its end: figures from the query bus, where the files lie, what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledgerlake.application import LedgerLake
from ledgerlake.domain.money import Money
from ledgerlake.ingest.importer import ImportSummary
from ledgerlake.notebook import page_of
from pipelines.positions import LAKE_PAGES, REPORT_PAGES

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Totals:
    """One currency's movements: counts, and sums (gross, refunds) in minor units."""

    currency: str
    completed: int
    gross: int
    refunds: int
    failed: int

    @property
    def success(self) -> str:
        attempts = self.completed + self.failed
        return f"{100 * self.completed / attempts:.1f} %" if attempts else "-"

    def row(self) -> Sequence[str]:
        def money(minor: int) -> str:
            return f"{Money(minor, self.currency).amount:,f}"

        return (
            self.currency,
            f"{self.completed:,}",
            money(self.gross),
            money(self.refunds),
            money(self.gross - self.refunds),
            f"{self.failed:,}",
            self.success,
        )


def write_report(out: Console, ledger: LedgerLake, summary: ImportSummary, seconds: float) -> None:
    """Print the closing table of a demo that took `seconds`."""
    from ledgerlake.queries import GetStatistics

    statistics = ledger.queries.ask(GetStatistics())
    head = ledger.store.head()
    payments = sum(state.count for state in statistics.payment_states if not state.unreferenced)
    credit_notes = sum(state.count for state in statistics.payment_states if state.unreferenced)
    organizations = sorted({row.organization_id for row in statistics.rows})
    out.print()
    _table(
        out,
        f"The ledger as of position {statistics.as_of.position:,}",
        ("currency", "completed", "gross", "refunds", "net", "failed", "success"),
        [totals.row() for totals in _totals(statistics.rows)],
    )
    out.print(
        f"{head:,} events, {payments:,} payments, {credit_notes:,} credit notes that name no payment, "
        f"{len(organizations):,} organizations"
    )
    rejected = _rejected(ledger)
    if rejected:
        out.print()
        _table(
            out,
            "Refused commands, all kept with a reason",
            ("reason", "commands"),
            [(code, f"{count:,}") for code, count in rejected],
        )
    out.print()
    _lines(out, "Where things lie", _places(ledger, summary))
    out.print()
    _lines(out, "What to type next", _next(ledger, organizations))
    kept = sorted(name for name in os.environ if name.startswith("LEDGERLAKE_"))
    if kept:
        out.print(f"  with {' and '.join(kept)} set as now", markup=False)
    out.print()
    if summary.events == 0:
        out.print("0 new events: everything in this file had been imported before, so nothing was added.")
    else:
        out.print(f"{summary.events:,} new events in {seconds:.0f} s. Run it again: it will add nothing.")


def shown_path(path: Path) -> str:
    """The path from here when it lies below, else the whole of it."""
    here = Path.cwd()
    absolute = path.absolute()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _totals(rows: Iterable[Any]) -> list[Totals]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.currency][row.status] += row.count
        sums[row.currency][row.status] += row.total_minor
    return [
        Totals(
            currency,
            completed=count["completed"],
            gross=sums[currency]["completed"],
            refunds=sums[currency]["refunded"],
            failed=count["failed"],
        )
        for currency, count in sorted(counts.items())
    ]


def _rejected(ledger: LedgerLake) -> list[tuple[str, int]]:
    """Codes and counts of what is refused to this day; what was accepted later does not count."""
    groups = ledger.db["command_rejections"].aggregate(
        [
            {"$match": {"resolvedAt": None}},
            {"$group": {"_id": "$reasonCode", "count": {"$sum": 1}}},
            {"$sort": {"count": -1, "_id": 1}},
        ]
    )
    return [(group["_id"], group["count"]) for group in groups]


def _places(ledger: LedgerLake, summary: ImportSummary) -> list[tuple[str, str]]:
    settings = ledger.settings
    months = sorted(path.name for path in settings.reports_dir.glob("[0-9]*-[0-9]*") if path.is_dir())
    pages = {name: page_of(settings, name) for name in (*LAKE_PAGES, *REPORT_PAGES)}
    span = f" ({months[0]} to {months[-1]})" if months else ""
    return [
        *((name.replace("_", " "), shown_path(page)) for name, page in pages.items() if page.exists()),
        ("billing reports", f"{shown_path(settings.reports_dir)}{span}"),
        ("the lake", shown_path(settings.lake_dir)),
        ("refused rows", shown_path(Path(summary.rejections_file))),
    ]


def _next(ledger: LedgerLake, organizations: Sequence[str]) -> list[tuple[str, str]]:
    from ledgerlake.queries import GetTrends, ListPayments

    tool = _tool("ledgerlake")
    commands: list[tuple[str, str]] = []
    if organizations:
        organization = organizations[0]
        page = ledger.queries.ask(ListPayments(organization, limit=1))
        months = ledger.queries.ask(GetTrends(organization, None, None, "month")).rows
        commands = [
            (f"{tool} payment {shlex.quote(page.payments[0].payment_id)}", "one payment"),
            (f"{tool} statistics --organization {shlex.quote(organization)}", "one organization"),
            (f"{tool} trends --organization {shlex.quote(organization)} --by week", "its weeks"),
        ]
        if months:
            month = max(row.period for row in months).strftime("%Y-%m")
            commands.append((f"{tool} report billing --period {month} --out reports", "a month's bill"))
    return [
        *commands,
        (f"{tool} verify", "do log, read models and Parquet agree?"),
        (
            f'DAGSTER_HOME="$PWD" {_tool("dagster")} dev',
            "assets, checks and this run, at http://127.0.0.1:3000",
        ),
        (f"{tool} mongo stop", "the database runs until then"),
    ]


def _tool(name: str) -> str:
    """How to call a command of this environment from the shell the demo was started in."""
    if shutil.which(name) is not None:
        return name
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(shown_path(beside)) if beside.exists() else name


def _table(out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, column in enumerate(columns):
        # Folded in a narrow terminal, where rich would drop digits.
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(title)  # not the table's own title, which would be folded to its width
    out.print(table)


def _lines(out: Console, title: str, lines: Sequence[tuple[str, str]]) -> None:
    width = max(len(left) for left, _ in lines)
    out.print(title)
    for left, right in lines:
        out.print(f"  {left:<{width}}  {right}", markup=False, soft_wrap=True)
